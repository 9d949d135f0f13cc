"""MMBench: its files, VLMEvalKit's quirks, CircularEval and the submission."""

import base64

import pytest

from sifthinker.core import errors
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import mmbench
from sifthinker.evaluation.benchmarks.question import Answer, Missing, Question

OPTIONS = (("A", "red"), ("B", "blue car"), ("C", "green"), ("D", "none of these"))
COLUMNS = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "split"]


def tsv(*rows):
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        filled = {
            "question": "What?",
            "hint": "nan",
            "A": "red",
            "B": "blue",
            "C": "",
            "D": "",
            "category": "colour",
            "split": "dev",
        } | row
        lines.append("\t".join(str(filled.get(column, "")) for column in COLUMNS))
    return "\n".join(lines) + "\n"


def made(index, reference="A"):
    unit = f"dev/{index % mmbench.ROTATION}"
    return Question(f"dev/{index}", "colour", "", b"", reference, OPTIONS, unit=unit, cluster=unit)


def test_rows_and_their_rotations_share_a_unit_and_a_picture(place, picture):
    image = base64.b64encode(picture).decode()
    content = tsv(
        {"index": 7, "answer": "A", "image": image, "hint": "Look."},
        {"index": 1000007, "answer": "B", "image": "7", "A": "blue", "B": "red", "C": "nan"},
        {"index": 8, "answer": "C", "image": image},
        {"index": 9, "answer": "A", "image": "5"},
        {"index": 10, "answer": "A", "image": "!" * 80},
    )
    first, turned, *rejects = mmbench.load(place("mmbench", {"dev.tsv": content}, path="dev.tsv"))
    assert isinstance(first, Question) and isinstance(turned, Question)
    assert (
        first.text
        == "Look.\nWhat?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly."
    )
    assert turned.text.startswith("What?\nA. blue\nB. red\nAnswer")
    assert (first.unit, turned.unit, turned.id) == ("dev/7", "dev/7", "dev/1000007")
    assert first.image == turned.image == picture
    assert [(r.row, r.reason) for r in rejects if isinstance(r, Reject)] == [
        (4, "bad-field"),
        (5, "image-missing"),
        (6, "image-broken"),
    ]


def test_missing_and_broken_files_are_named(place):
    with pytest.raises(Missing, match=r"MMBench_DEV_EN\.tsv.*open-compass/MMBench"):
        list(mmbench.load(place("mmbench", {}, path="dev.tsv")))
    with pytest.raises(errors.UserError, match="columns A, B, image are missing"):
        list(mmbench.load(place("mmbench", {"dev.tsv": "index\tquestion\n"}, path="dev.tsv")))


@pytest.mark.parametrize(
    ("reference", "reply", "official", "strict"),
    [
        ("B", "B", 1, 1),
        ("B", "(B) blue car", 1, 1),
        ("B", "b", 0, 1),
        ("B", "A blue car", 0, 1),  # the article is read as A
        ("A", "It is tired", 1, 0),  # "red" inside a word
        ("A", "not red", 1, 0),
        (
            "C",
            "The colour that I see on the whole of this thing is, all in all, green",
            0,
            1,
        ),  # too long to infer
        ("A", "", 0, 0),
    ],
)
def test_official_keeps_the_quirks_that_strict_does_not_have(reference, reply, official, strict):
    assert mmbench.official(made(1, reference), Answer(reply)).score == official
    assert mmbench.strict(made(1, reference), Answer(reply)).score == strict


def test_a_question_is_right_only_when_all_its_rotations_are():
    replies = {1: "A", 1000001: "A", 2: "A", 1000002: "B", 2000002: "A", 3: "A"}
    rows = [(made(index), mmbench.strict(made(index), Answer(reply))) for index, reply in replies.items()]
    circular, single = mmbench.score(rows)
    assert (circular.metric, circular.value) == ("dev", pytest.approx(2 / 3))
    assert (single.metric, single.value) == ("dev single rows", pytest.approx(5 / 6))


def test_hidden_answers_give_a_submission_without_pictures(place, picture):
    image = base64.b64encode(picture).decode()
    content = tsv(
        {"index": 7, "image": image, "split": "test"}, {"index": 8, "image": image, "split": "test"}
    )
    source = place("mmbench", {"test.tsv": content}, path="test.tsv")
    first, _ = mmbench.load(source)
    assert isinstance(first, Question) and first.reference == ""
    name, data = mmbench.submission(source, [(first, "B")])
    header, row = data.decode().splitlines()
    assert name == "mmbench_submission.tsv"
    assert header.split("\t")[-1] == "prediction" and "image" not in header
    assert row.split("\t")[0] == "7" and row.endswith("\tB")
