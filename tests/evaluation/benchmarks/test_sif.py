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
