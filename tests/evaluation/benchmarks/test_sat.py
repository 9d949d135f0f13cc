"""SAT static: its file, the quirks of SAT's own rule, and the strict reading."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import sat
from sifthinker.evaluation.benchmarks.question import Answer, Missing, Question

OPTIONS = (("", "left"), ("", "to my right"), ("", "no"))


def asked(reference="left"):
    return Question("static/0", "other", "", b"", reference, OPTIONS)


def parquet(rows) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def test_the_published_file_becomes_questions_in_the_authors_words(place, picture):
    row = {
        "image_bytes": [picture],
        "question": "Where is it?",
        "answers": ["left", "no"],
        "question_type": "other",
        "correct_answer": "no",
    }
    rows = [row, {**row, "image_bytes": [picture, picture]}, {**row, "correct_answer": "up"}]
    first, *rejects = sat.load(place("sat", {"SAT_static.parquet": parquet(rows)}))
    assert isinstance(first, Question)
    assert first.text == (
        "Where is it?\nChoices:\n- left\n- no\nAnswer strictly with only one of the above options."
    )
    assert (first.reference, first.options, first.image) == ("no", (("", "left"), ("", "no")), picture)
    assert [(r.reason, r.row) for r in rejects if isinstance(r, Reject)] == [
        ("several-images", 1),
        ("bad-field", 2),
    ]
    with pytest.raises(Missing, match=r"SAT_static\.parquet.*array/SAT"):
        list(sat.load(place("empty", {})))


@pytest.mark.parametrize(
    ("reference", "reply", "official", "strict"),
    [
        ("left", "left", 1, 1),
        ("left", "Left", 1, 1),
        ("left", "left.", 0, 1),  # the full stop
        ("left", "It is on the left", 0, 1),  # the first word is "it"
        ("to my right", "to my right", 0, 1),  # several words
        ("no", "no, to my right", 0, 0),  # two answers
        ("left", "", 0, 0),
        ("left", "left of me, or to my right", 1, 0),
    ],
)
def test_official_keeps_the_quirks_that_strict_does_not_have(reference, reply, official, strict):
    assert sat.official(asked(reference), Answer(reply)).score == official
    assert sat.strict(asked(reference), Answer(reply)).score == strict


def test_an_unreadable_reply_is_wrong():
    """PAPER.md R7.3: the authors' script counts it as right."""
    verdict = sat.strict(asked(), Answer("", absent="no-answer"))
    assert (verdict.score, verdict.unparsable) == (0, "no-answer")
    (overall, _) = sat.score([(asked(), verdict)])
    assert (overall.metric, overall.value, overall.unparsable) == ("static", 0, 1)
