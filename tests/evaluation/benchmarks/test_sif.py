"""Held-out rows of a source: the four scores of a chain, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sifthinker import config
from sifthinker.core import errors
from sifthinker.core.chain import Chain, Step, render
from sifthinker.core.depth_maps import SummedArea
from sifthinker.core.records import Region, Reject
from sifthinker.data.export import messages
from sifthinker.evaluation.benchmarks import replies, sif
from sifthinker.evaluation.benchmarks.question import Answer, Missing, Question, Verdict

DEPTH = SummedArea(np.tile(np.linspace(0, 1, 100, dtype=np.float32), (100, 1)))  # left is near
WHOLE = Step((Region((0.0, 0.0, 1.0, 1.0), 0.5),), "All of it.")


def source(folder: Path, *rows: dict[str, object], split: str = "") -> config.Benchmark:
    (folder / "images").mkdir()
    Image.new("RGB", (100, 100)).save(folder / "images" / "a.png")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return config.Benchmark(name="sif", path=folder / "rows.jsonl", images=folder / "images", split=split)


def row(number: int, dataset: str = "gqa", **more: object) -> dict[str, object]:
    fixed = {"question": "Which color?", "answer": "Red", "image": "a.png", "width": 100, "height": 100}
    return {
        **fixed,
        "bboxs": [[0, 0, 50, 100]],
        "dataset": dataset,
        "split": "val",
        "question_id": number,
        **more,
    }


def chained(box: tuple[float, float, float, float], depth: float, answer: str) -> Answer:
    text = render(Chain((WHOLE, Step((Region(box, depth),), "Closer.")), answer))
    return whole(text)


def whole(text: str) -> Answer:
    read = replies.read(text, think=True)
    return Answer(read.text, read.boxes, read.area, read.absent, chain=text, depth=DEPTH)


@pytest.fixture
def question(tmp_path: Path) -> Question:
    (only,) = sif.load(source(tmp_path, row(7)))
    assert isinstance(only, Question)
    return only


def test_a_row_is_a_question_and_tells_the_model_nothing_more(question: Question) -> None:
    assert (question.id, question.group, question.text, question.image) == (
        "sif/gqa/7", "gqa", "Which color?", "a.png",
    )  # fmt: skip
    assert json.loads(question.reference) == {"answer": "Red", "boxes": [[0.0, 0.0, 0.5, 1.0]]}


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (chained((0.0, 0.0, 0.5, 1.0), 0.247, "red."), (1, 1, 1, 1)),
        (chained((0.0, 0.0, 0.5, 1.0), 0.3, "blue"), (0, 1, 0, 1)),  # 0.3 is more than a tenth off 0.247
        (chained((0.25, 0.0, 0.75, 1.0), 0.5, "red"), (1, 1 / 3, 1, 1)),  # 25 of 75 are shared
        (chained((0.5, 0.0, 1.0, 1.0), 0.753, "a red one"), (0, 0, 1, 1)),
        (whole("It is red."), (0, 0, 0, 0)),
        (whole("<think>?</think><answer>red</answer>"), (1, 0, 0, 0)),
    ],
)
def test_the_four_scores(question: Question, answer: Answer, parts: tuple[float, ...]) -> None:
    verdict = sif.strict(question, answer)
    assert dict(verdict.parts) == pytest.approx(dict(zip(sif.SCORES, parts, strict=True)))
    assert verdict.score == parts[0] and bool(verdict.unparsable) == (not answer.text)
    assert sif.official(question, answer) == verdict


def test_a_plain_answer_has_no_other_score(question: Question) -> None:
    verdict = sif.strict(question, Answer("Red"))
    assert verdict.parts == (("answer", 1.0),)
    assert [measure.metric for measure in sif.score([(question, verdict)])] == ["answer"]


def test_scores_are_means_over_all_and_over_each_data_set(tmp_path: Path) -> None:
    asked = [q for q in sif.load(source(tmp_path, row(0), row(1), row(0, "vsr"))) if isinstance(q, Question)]
    given = [Verdict(s, parts=(("answer", s), ("boxes", s / 2))) for s in (1.0, 0.0, 1.0)]
    found = {m.metric: (round(m.value, 9), m.n) for m in sif.score(list(zip(asked, given, strict=True)))}
    assert found == {
        "answer": (round(2 / 3, 9), 3),
        "boxes": (round(1 / 3, 9), 3),
        "answer/gqa": (0.5, 2),
        "boxes/gqa": (0.25, 2),
        "answer/vsr": (1.0, 1),
        "boxes/vsr": (0.5, 1),
    }


def test_bad_rows_are_rejected_by_name_and_files_that_are_not_there_are_missing(tmp_path: Path) -> None:
    made = source(tmp_path, row(0), row(1, bboxs=[]), row(2, image="b.png"))
    assert [item.reason for item in sif.load(made) if isinstance(item, Reject)] == ["no-box", "image-missing"]
    with pytest.raises(errors.UserError, match="tallyqa"):
        list(sif.load(made.model_copy(update={"split": "coco"})))
    with pytest.raises(Missing, match=r"none\.jsonl"):
        list(sif.load(made.model_copy(update={"path": tmp_path / "none.jsonl"})))


WIDE = {"width": 200, "height": 100, "image": "wide.png"}
BOXES = {  # [20, 10, 60, 90] of the wide picture
    "padded": [20, 10, 60, 90],  # rows with sizes are in pixels
    "pixels": [20, 10, 60, 90],
    "fractions": [0.1, 0.1, 0.3, 0.9],
    "thousandths": [100, 100, 300, 900],
    "xywh": [20, 10, 40, 80],
}


@pytest.mark.parametrize("frame", BOXES)
def test_the_boxes_of_the_file_are_in_the_frame_that_is_declared(tmp_path: Path, frame: str) -> None:
    made = source(tmp_path, *[row(number, **WIDE, bboxs=[BOXES[frame]]) for number in range(20)])
    Image.new("RGB", (200, 100)).save(tmp_path / "images" / "wide.png")
    found = list(sif.load(made.model_copy(update={"frame": frame})))
    assert all(isinstance(item, Question) for item in found) and len(found) == 20
    for item in found:
        assert isinstance(item, Question)
        assert json.loads(item.reference)["boxes"] == [pytest.approx([0.1, 0.1, 0.3, 0.9])]


def exported(number: int) -> dict[str, object]:
    """As `sif export` writes it: the box is in 0..1 of the picture, and not of VisCoT's padded square."""
    chain = render(Chain((WHOLE, Step((Region((0.1, 0.02, 0.3, 0.98), 0.5),), "Closer.")), "Red"))
    return {
        "dataset": "gqa",
        "image": "wide.png",
        "problem": f"Which color is thing {number}?",
        "normalized_solution_round": {"bbox_3d": [[0.1, 0.02, 0.3, 0.98]], "illegal_content": False},
        "response": "Red",
        "messages": messages(f"Which color is thing {number}?", chain),
        "images": ["wide.png"],
    }


def test_an_export_is_refused_until_its_frame_is_said(tmp_path: Path) -> None:
    made = source(tmp_path, split="published")
    Image.new("RGB", (200, 100)).save(tmp_path / "images" / "wide.png")
    made.path.write_text(json.dumps([exported(number) for number in range(30)]))
    with pytest.raises(
        errors.UserError, match=r"fractions .*\(here: `frame` of its entry in evaluate\.benchmarks\)"
    ):
        list(sif.load(made))
    found = list(sif.load(made.model_copy(update={"frame": "fractions"})))
    assert len(found) == 30
    for item in found:
        assert isinstance(item, Question)
        assert json.loads(item.reference)["boxes"] == [pytest.approx([0.1, 0.02, 0.3, 0.98])]
