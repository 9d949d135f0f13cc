"""SEED-Bench image: its file, what its comparison takes and does not, and the strict reading."""

import pytest

from sifthinker.core import errors
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import seed
from sifthinker.evaluation.benchmarks.question import Answer, Missing, Question

OPTIONS = (("A", "One"), ("B", "Two"), ("C", "Three"), ("D", "Four"))
ROW = {
    "answer": "B",
    "choice_a": "One",
    "choice_b": "Two",
    "choice_c": "Three",
    "choice_d": "Four",
    "data_id": "1454426_2591111986",
    "data_type": "image",
    "question": "How many towels are in the image?",
    "question_id": "101669",
    "question_type_id": 5,
}


def asked(reference="B"):
    return Question("1", "Instances Counting", "", "x", reference, OPTIONS)


def test_image_questions_load_and_videos_are_passed_over(place):
    rows = [ROW, {**ROW, "data_type": "video"}, {**ROW, "answer": "E"}, {**ROW, "choice_c": ""}, 3]
    document = {"questions": rows, "question_type": {"Instances Counting": 5}}
    first, *rejects = seed.load(place("seed", {"SEED-Bench.json": document}))
    assert isinstance(first, Question)
    assert first.text == (
        "How many towels are in the image?\nA. One\nB. Two\nC. Three\nD. Four\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (first.id, first.group, first.image) == ("101669", "Instances Counting", "1454426_2591111986")
    assert [(r.row, r.reason) for r in rejects if isinstance(r, Reject)] == [
        (2, "bad-field"),
        (3, "bad-field"),
        (4, "not-an-object"),
    ]
    with pytest.raises(Missing, match=r"SEED-Bench\.json.*AILab-CVC"):
        list(seed.load(place("empty", {"x": b""})))
    with pytest.raises(errors.UserError, match="a list of `questions`"):
        list(seed.load(place("wrong", {"SEED-Bench.json": []})))


@pytest.mark.parametrize(
    ("reply", "official", "strict"),
    [
        ("B", 1, 1),
        ("B.", 0, 1),
        ("b", 0, 1),
        ("two", 0, 1),
        ("2", 0, 1),
        ("A", 0, 0),
        ("", 0, 0),
        ("B or C", 0, 0),
    ],
)
def test_official_keeps_the_quirks_that_strict_does_not_have(reply, official, strict):
    assert seed.official(asked(), Answer(reply)).score == official
    assert seed.strict(asked(), Answer(reply)).score == strict


def test_scores_are_over_all_and_by_type():
    rows = [(asked(), seed.strict(asked(), Answer(reply))) for reply in ("B", "A", "B", "?")]
    image, kind = seed.score(rows)
    assert (image.metric, image.value, image.unparsable) == ("image", 0.5, 1)
    assert (kind.metric, kind.n) == ("Instances Counting", 4)
