"""V*Bench: its file, lmms-eval's quirks, and the strict reading."""

import pytest

from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import vstar
from sifthinker.evaluation.benchmarks.question import Answer, Missing, Question

OPTIONS = (("A", "blue"), ("B", "red"), ("C", "dark green"), ("D", "black"))
TEXT = "What color is the car?\n(A) blue\n(B) red\n(C) dark green\n(D) black\nAnswer with the option's letter from the given choices directly."
ROW = {
    "image": "direct_attributes/sa_1.jpg",
    "text": TEXT,
    "category": "direct_attributes",
    "label": "B",
    "question_id": 0,
}
QUESTION = Question(
    "direct_attributes/0", "direct_attributes", TEXT, "direct_attributes/sa_1.jpg", "B", OPTIONS
)


def test_the_published_file_becomes_questions(place):
    spatial = {**ROW, "category": "relative_position", "question_id": 1, "label": "(A)"}
    source = place("vstar", {"test_questions.jsonl": [ROW, spatial, {**ROW, "label": "B", "question_id": 2}]})
    first, bad, last = vstar.load(source)
    assert first == QUESTION
    assert isinstance(bad, Reject) and (bad.reason, bad.field, bad.row) == ("bad-field", "label", 2)
    assert isinstance(last, Question) and last.id == "direct_attributes/2"


def test_missing_files_are_named_with_where_they_are_published(place):
    source = place("vstar", {"other.txt": b""})
    with pytest.raises(Missing, match=r"test_questions\.jsonl.*huggingface\.co/datasets/craigwu/vstar_bench"):
        list(vstar.load(source))


@pytest.mark.parametrize(
    ("reply", "official", "strict"),
    [
        ("B", 1, 1),
        ("(B) red", 1, 1),
        ("Answer: B", 0, 1),  # the port reads the A of "ANSWER"
        ("red", 0, 1),  # the one letter of "RED" is D
        ("A red car", 0, 1),  # the article is read as A
        ("Blue", 1, 0),  # the B of "BLUE"
        ("B. blue", 1, 0),  # contradictory
        ("A", 0, 0),
        ("", 0, 0),
    ],
)
def test_official_keeps_the_quirks_that_strict_does_not_have(reply, official, strict):
    assert vstar.official(QUESTION, Answer(reply)).score == official
    assert vstar.strict(QUESTION, Answer(reply)).score == strict


def test_scores_are_by_category_and_pooled():
    spatial = Question("relative_position/1", "relative_position", TEXT, "x.jpg", "A", OPTIONS)
    rows = [(QUESTION, vstar.strict(QUESTION, Answer(reply))) for reply in ("B", "A", "none")]
    rows.append((spatial, vstar.strict(spatial, Answer("A"))))
    attribute, relation, overall = vstar.score(rows)
    assert (attribute.metric, attribute.value, attribute.n, attribute.unparsable) == (
        "direct_attributes",
        1 / 3,
        3,
        1,
    )
    assert (relation.metric, relation.value) == ("relative_position", 1)
    assert (overall.metric, overall.value) == ("overall", 0.5)
    assert 0 < overall.low < 0.5 < overall.high <= 1  # of two pictures
