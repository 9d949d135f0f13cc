"""CV-Bench: its files, cambrian's quirks, and the official averages."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sifthinker.core import errors
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import choices, cvbench, wording
from sifthinker.evaluation.benchmarks.question import Answer, Missing, Question

CHOICES = ["left", "3", "dark red"]
OPTIONS = (("A", "left"), ("B", "3"), ("C", "dark red"))
ROW = {
    "idx": 4,
    "type": "2D",
    "task": "Count",
    "source": "ADE20K",
    "filename": "img/2D/count/ade20k_10.png",
    "question": "How many?",
    "choices": CHOICES,
    "answer": "(B)",
    "prompt": "How many? Select from the following choices.\n(A) left\n(B) 3\n(C) dark red",
}


def asked(reference="B", source="ADE20K", number=0, image="i"):
    return Question(f"q{number}", source, "", image, reference, OPTIONS)


def parquet(rows) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def test_parquet_with_images_and_jsonl_with_paths_give_the_same_questions(place, picture):
    embedded = [
        {**ROW, "image": {"bytes": picture, "path": None}},
        {**ROW, "idx": 5, "image": {"bytes": b"x", "path": None}},
    ]
    source = place(
        "cvbench",
        {"test_2d.parquet": parquet(embedded), "test_3d.jsonl": [{**ROW, "type": "3D", "source": "Omni3D"}]},
    )
    inside, broken, beside = cvbench.load(source)
    assert isinstance(inside, Question) and isinstance(beside, Question)
    assert (inside.id, inside.group, inside.reference, inside.options) == ("2D/4", "ADE20K", "B", OPTIONS)
    assert inside.image == picture and beside.image == ROW["filename"] and inside.cluster == ROW["filename"]
    assert (
        inside.text
        == beside.text
        == ROW["prompt"] + "\nAnswer with the option's letter from the given choices directly."
    )
    assert isinstance(broken, Reject) and (broken.reason, broken.row) == ("image-format", 1)


def test_bad_rows_missing_and_broken_files_are_named(place):
    rows = [{**ROW, "answer": "(D)"}, {**ROW, "choices": "A"}]
    rejects = list(cvbench.load(place("cvbench", {"test_2d.jsonl": rows}, split="2d")))
    assert [r.field for r in rejects] == ["answer", "choices"]
    with pytest.raises(Missing, match=r"test_3d\.parquet.*nyu-visionx/CV-Bench"):
        list(cvbench.load(place("cvbench", {}, split="3d")))
    with pytest.raises(errors.UserError, match="cannot be read as Parquet"):
        list(cvbench.load(place("cvbench", {"test_3d.parquet": b"PAR?"}, split="3d")))


@pytest.mark.parametrize(
    ("reference", "reply", "official", "strict"),
    [
        ("B", "(B)", 1, 1),
        ("B", "3", 0, 1),  # only Omni3D's script takes the text
        ("B", "three", 0, 1),
        ("C", "A dark red one", 0, 1),  # the article is read as A
        ("A", "An apple", 1, 0),
        ("C", "dark red", 0, 1),  # "d"
        ("B", "The answer is B. 3", 1, 1),
        ("B", "It is B", 0, 1),
        ("B", "B or C", 1, 0),
        ("A", "", 0, 0),
    ],
)
def test_official_keeps_the_quirks_that_strict_does_not_have(reference, reply, official, strict):
    assert cvbench.official(asked(reference), Answer(reply)).score == official
    assert cvbench.strict(asked(reference), Answer(reply)).score == strict


def test_the_averages_are_of_sources_and_dimensions_not_of_questions():
    counts = {"ADE20K": (1, 1), "COCO": (0, 3), "Omni3D": (3, 4)}  # right, asked
    rows = []
    for source, (right, n) in counts.items():
        for i in range(n):
            question = asked(source=source, number=i, image=f"{source}{i}")
            rows.append((question, cvbench.strict(question, Answer("B" if i < right else "A"))))
    measures = {m.metric: m for m in cvbench.score(rows)}
    assert {name: m.value for name, m in measures.items()} == pytest.approx(
        {"ADE20K": 1.0, "COCO": 0.0, "Omni3D": 0.75, "2D": 0.5, "average": 0.625}
    )
    assert measures["average"].n == 8
    assert measures["average"].low <= 0.625 <= measures["average"].high


SAMPLES = [("A", "neither; the samples have the same temperature"), ("B", "sample A"), ("C", "sample B")]


@pytest.mark.parametrize(
    ("reply", "chosen"),
    [
        ("B", "1"),
        ("B. sample A", "1"),
        ("(B) sample A", "1"),
        ("The correct answer is **B. sample A**.", "1"),
        ("sample A", "1"),
        ("The answer is sample A.", "1"),
        ("C. sample B", "2"),
        ("sample B", "2"),
        ("A. neither; the samples have the same temperature", "0"),
    ],
)
def test_the_letter_that_an_option_ends_in_is_no_article(reply, chosen):
    """ScienceQA asks which of two samples is warmer, with these options."""
    assert choices.choice(reply, SAMPLES) == wording.Reading(chosen)
