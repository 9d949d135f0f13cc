"""MME: the release's folders, the published rule reply by reply, and acc + acc+."""

import math

import pytest

from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import mme
from sifthinker.evaluation.benchmarks.question import Answer, Missing, Question

LINES = "Is it red? Please answer yes or no.\tYes\nIs it blue? Please answer yes or no.\tNo\n"


def release(picture):
    """Both layouts of the release: files side by side, and in two folders."""
    files = {}
    for task in mme.PERCEPTION + mme.COGNITION:
        nested = task in ("artwork", "celebrity", "landmark", "posters", "scene")
        files[f"{task}/{'images/' if nested else ''}a.jpg"] = picture
        files[f"{task}/{'questions_answers_YN/' if nested else ''}a.txt"] = LINES
    return files


def made(task, labels):
    return [
        Question(f"{task}/{i}", task, "", f"{task}{i // 2}", label, unit=f"{i // 2}")
        for i, label in enumerate(labels)
    ]


def test_both_layouts_of_the_release_become_pairs_of_questions(place, picture):
    questions = list(mme.load(place("mme", release(picture))))
    assert len(questions) == 28 and all(isinstance(q, Question) for q in questions)
    first, second = questions[:2]
    assert first.text == "Is it red?\nAnswer the question using a single word or phrase."
    assert (first.reference, second.reference) == ("yes", "no")
    assert first.unit == second.unit and first.id != second.id
    assert {q.image for q in questions} >= {"existence/a.jpg", "artwork/images/a.jpg"}


def test_bad_lines_lost_pictures_and_missing_tasks_are_named(place, picture):
    files = release(picture) | {"count/b.txt": LINES, "color/a.txt": "Is it red? Yes\n\tNo\nok?\tyes"}
    rejects = [r for r in mme.load(place("mme", files)) if isinstance(r, Reject)]
    assert [(r.reason, r.row) for r in rejects] == [
        ("image-missing", 1),
        ("image-missing", 2),
        ("bad-line", 1),
        ("bad-line", 2),
    ]
    with pytest.raises(Missing, match=r"wants the folders existence.*published at https"):
        list(mme.load(place("nothing", {"x.txt": "x"})))


def test_a_question_with_an_odd_end_of_line_in_it_is_one_question(place, picture):
    odd = "\u2028\u0085\x0b\x0c\x1c"
    files = release(picture) | {"OCR/a.txt": f"Is it a{odd}b?\tYes\r\nIs it c?\tNo", "count/a.txt": ""}
    loaded = list(mme.load(place("mme", files)))
    assert not [r for r in loaded if isinstance(r, Reject) and r.reason != "bad-line"]
    first, second = (q for q in loaded if isinstance(q, Question) and q.group == "OCR")
    assert first.text == f"Is it a{odd}b?{mme.INSTRUCTION}" and second.reference == "no"


def test_a_question_without_its_partner_is_in_no_pair():
    questions = made("count", ["yes", "no"] * 3)
    said = ["yes", "no", "yes", "yes", "yes", "no"]
    rows = [(q, mme.strict(q, Answer(reply))) for q, reply in zip(questions, said, strict=True)]
    (whole,) = mme.score(rows)
    assert whole.value == pytest.approx(100 * 5 / 6 + 100 * 2 / 3)
    (left,) = mme.score(rows[:5])  # the last question was rejected
    assert left.value == pytest.approx(100 * 4 / 5 + 100 * 1 / 2)
    (alone,) = mme.score(rows[:1])
    assert math.isnan(alone.value), "there is no pair"


def published_points(replies, labels):
    """MME, eval_tool/calculation.py, said once more for one task."""
    right = []
    for reply, label in zip(replies, labels, strict=True):
        said = reply.lower()
        if said not in ("yes", "no"):
            prefix = said[:4]
            said = "yes" if "yes" in prefix else "no" if "no" in prefix else "other"
        right.append(said == label)
    both = sum(a and b for a, b in zip(right[::2], right[1::2], strict=True))
    return right, 100 * sum(right) / len(right) + 100 * both / (len(right) // 2)


def test_official_gives_the_published_verdicts_and_points_on_200_replies(mixed_replies):
    replies = mixed_replies((("yes", "a dog"), ("no", "now what")), seed=4)
    labels = ["no" if i % 3 else "yes" for i in range(200)]
    right, points = published_points(replies, labels)
    questions = made("count", labels)
    verdicts = [mme.official(q, Answer(r)) for q, r in zip(questions, replies, strict=True)]
    assert [bool(v.score) for v in verdicts] == right
    (measure,) = mme.score(list(zip(questions, verdicts, strict=True)))
    assert measure.value == pytest.approx(points) and measure.unit == "points"


@pytest.mark.parametrize(
    ("label", "reply", "official", "strict"),
    [
        ("yes", "Yes, it is.", 1, 1),
        ("no", "Know", 1, 0),  # "no" within four characters
        ("no", "Not sure", 1, 0),
        ("yes", "The answer is yes", 0, 1),  # beyond four characters
        ("no", "It is not", 0, 1),
        ("yes", "", 0, 0),
    ],
)
def test_official_keeps_the_quirks_that_strict_does_not_have(label, reply, official, strict):
    (question,) = made("OCR", [label])
    assert mme.official(question, Answer(reply)).score == official
    assert mme.strict(question, Answer(reply)).score == strict


def test_perfect_replies_score_2000_and_800_and_empty_ones_0():
    questions = [q for task in mme.PERCEPTION + mme.COGNITION for q in made(task, ["yes", "no"] * 2)]
    for perfect, (perception, cognition) in ((True, (2000, 800)), (False, (0, 0))):
        rows = [(q, mme.strict(q, Answer(q.reference if perfect else ""))) for q in questions]
        measures = {m.metric: m.value for m in mme.score(rows)}
        assert (measures["perception"], measures["cognition"]) == pytest.approx((perception, cognition))
