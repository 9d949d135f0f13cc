"""SpatialBench: its files, SpatialBot's pair rules, and the strict reading."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifthinker.core import errors
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import spatialbench
from sifthinker.evaluation.benchmarks.question import Answer, Missing, Question

TAIL = "Answer with the option's letter from the given choices directly."
SIDES = (("A", "left"), ("B", "right"), ("C", "above"))


def row(answer, question=f"Where is the cup? (A) left (B) right (C) above {TAIL}", image="size/1.png"):
    return {"image": image, "question": question, "answer": answer}


def files(**rows):
    return {
        **{f"{name}.json": [row("A"), row("B")] for name in ("positional", "existence", "size")},
        "counting.json": [row("3", "How many cups are there?")],
        **{f"{name}.json": content for name, content in rows.items()},
    }


def made(category, references, unit=True):
    return [
        Question(
            f"{category}/{i}",
            category,
            "",
            "x",
            r,
            SIDES,
            f"{category}/{i // 2}" if unit else "",
            f"{i // 2}",
        )
        for i, r in enumerate(references)
    ]


def test_the_four_categories_of_the_paper_load_in_file_order_with_their_pairs(place):
    source = place(
        "spatialbench", files(existence=[row("Yes", "Is it?"), row("No", "Is it?", ["size/1.png"])])
    )
    questions = list(spatialbench.load(source))
    assert [q.id for q in questions] == [
        "positional/0",
        "positional/1",
        "existence/0",
        "existence/1",
        "counting/0",
        "size/0",
        "size/1",
    ]
    assert [q.unit for q in questions] == ["", "", "existence/0", "existence/0", "", "size/0", "size/0"]
    assert questions[0].options == SIDES
    assert questions[3].image == "size/1.png"


def test_bad_rows_become_rejects_and_missing_files_are_named(place):
    bad = [row("D"), row("maybe"), {"image": "x"}, row("A", image=["a.png", "b.png"]), 7]
    found = list(spatialbench.load(place("spatialbench", files(size=bad), split="size")))
    assert [r.reason for r in found if isinstance(r, Reject)] == [
        "bad-field",
        "bad-field",
        "bad-field",
        "several-images",
        "not-an-object",
    ]
    with pytest.raises(Missing, match=r"reach\.json.*RussRobin/SpatialBench"):
        list(spatialbench.load(place("spatialbench", files(), split="reach")))
    with pytest.raises(errors.UserError, match="known: positional"):
        list(spatialbench.load(place("spatialbench", files(), split="depth")))
    with pytest.raises(errors.UserError, match=r"counting\.json: not JSON at character"):
        list(spatialbench.load(place("spatialbench", files(counting="[{"), split="counting")))
    zero = files(counting=[row(0, "How many?")])
    (reject,) = spatialbench.load(place("spatialbench", zero, split="counting"))
    assert "undefined" in reject.detail


def published_points(name, responses):
    """SpatialBot, bunny/eval/eval_spatialbench.py, said once more; an unreadable count is an error of 100 %."""
    hit = [gt in response for response, gt in responses]
    if name == "positional":
        return 100 * sum(hit) / len(hit)
    if name == "counting":
        errors = []
        for response, gt in responses:
            try:
                errors.append(abs(int(response) - int(gt)) / int(gt) * 100)
            except ValueError:
                errors.append(100)
        return 100 - sum(errors) / len(errors)
    pairs = list(zip(hit[::2], hit[1::2], strict=True))
    if name == "existence":
        return 100 * sum(a and b for a, b in pairs) / len(pairs)
    return 100 * sum(a + b + (a and b) for a, b in pairs) / (3 * len(pairs))


@pytest.mark.parametrize("category", ["positional", "existence", "size", "reach", "counting"])
def test_official_gives_the_published_points_on_200_replies(category, mixed_replies):
    references = ["3", "2", "10", "7"] if category == "counting" else ["A", "B", "A", "Yes", "No", "left"]
    replies = mixed_replies(SIDES, seed=len(category))
    questions = made(category, [references[i // 3 % len(references)] for i in range(200)])
    verdicts = [spatialbench.official(q, Answer(r)) for q, r in zip(questions, replies, strict=True)]
    (measure,) = spatialbench.score(list(zip(questions, verdicts, strict=True)))
    responses = [(r, q.reference) for q, r in zip(questions, replies, strict=True)]
    assert measure.value == pytest.approx(published_points(category, responses))
    if category != "counting":  # reply by reply; counting's 200 errors are in the mean above
        assert [v.score for v in verdicts] == [float(gt in response) for response, gt in responses]
    assert measure.low <= measure.value <= measure.high


@pytest.mark.parametrize(
    ("category", "reference", "reply", "official", "strict"),
    [
        ("positional", "A", "A", 1, 1),
        ("positional", "A", "An apple, on the right", 1, 0),  # "A" inside a word
        ("positional", "A", "left", 0, 1),
        ("positional", "A", "a", 0, 1),  # case
        ("existence", "No", "Not sure", 1, 0),
        ("existence", "Yes", "yes", 0, 1),
        ("existence", "Yes", "Yes, there is.", 1, 1),
        ("existence", "No", "", 0, 0),
        ("counting", "4", "4", 1, 1),
        ("counting", "4", "three", 0, 0.75),  # no integer to the script
        ("counting", "4", "2 cups", 0, 0.5),
        ("counting", "4", "12", -1, 0),  # an error of 200 %
        ("counting", "4", "3 or 4", 0, 0),
        ("counting", "1", "10", -8, 0),
        ("size", "B", "B. left", 1, 0),  # contradictory
    ],
)
def test_official_keeps_the_quirks_that_strict_does_not_have(category, reference, reply, official, strict):
    (question,) = made(category, [reference])
    assert spatialbench.official(question, Answer(reply)).score == official
    verdict = spatialbench.strict(question, Answer(reply))
    assert verdict.score == strict
    assert not (verdict.unparsable and verdict.score)


def test_a_missing_answer_is_wrong_and_counted():
    (question,) = made("existence", ["Yes"])
    answer = Answer("", absent="no-answer")
    assert spatialbench.official(question, answer).score == 0
    assert spatialbench.strict(question, answer).unparsable == "no-answer"


def test_perfect_replies_score_100_and_empty_ones_0():
    questions = [
        q for name in ("positional", "existence", "size") for q in made(name, ["A", "B", "Yes", "No"])
    ] + made("counting", ["2", "5"])
    for reply_of, expected in ((lambda q: q.reference, 100), (lambda q: "", 0)):
        for rule in (spatialbench.official, spatialbench.strict):
            rows = [(q, rule(q, Answer(reply_of(q)))) for q in questions]
            measures = spatialbench.score(rows)
            assert [m.value for m in measures] == [expected] * 5
            assert measures[-1].metric == "average" and measures[-1].n == len(questions)


def test_a_pair_that_lost_a_row_counts_in_no_pair_rule():
    questions = made("existence", ["Yes", "No", "Yes"])  # the partner of the third was rejected
    rows = [(q, spatialbench.strict(q, Answer(q.reference))) for q in questions[:2]]
    rows.append((questions[2], spatialbench.strict(questions[2], Answer("No"))))
    (measure,) = spatialbench.score(rows)
    assert measure.value == 100


@settings(max_examples=20)  # each draws two bootstraps
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12), st.randoms())
def test_pair_scores_are_bounded_and_do_not_depend_on_the_order_of_pairs(hits, shuffler):
    questions = made("size", ["A"] * (2 * len(hits)))
    flat = [hit for pair in hits for hit in pair]
    rows = [
        (q, spatialbench.official(q, Answer("A" if hit else "x")))
        for q, hit in zip(questions, flat, strict=True)
    ]
    value = spatialbench.score(rows)[0].value
    assert 0 <= value <= 100
    shuffler.shuffle(rows)
    assert spatialbench.score(rows)[0].value == pytest.approx(value)
