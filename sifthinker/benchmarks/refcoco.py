"""RefCOCO, RefCOCO+ and RefCOCOg: the box of the one thing that an expression describes; Acc@0.5.

The eight files of Visual-CoT, `REC_refcoco+_unc_testB.jsonl` and so on, one expression a row, pixel boxes:

    {"img_path": "COCO_train2014_000000581563.jpg", "expression": "black car", "bbox": [0.0, 373.89, 137.59, 500.0],
     "dataset_name": "jxu124/refcocoplus", "height": 500, "width": 333, "image_id": 581563, "sent_id": 70,
     "split": "testB"}

`path` is one of the files or the folder with them; `split` then names some, comma-separated; empty means all eight.

`official` is Visual-CoT's rule (playground/data/eval/REC/calculation.py): right when the IoU is *greater than* 0.5.
That script scales by the longer side, because Visual-CoT's models answer on the padded square; ours answer in 0..1
of the image itself, so width and height are what their numbers are scaled by (facts: E1, 4.6). It takes whatever
numbers there are: a box beyond the image or a plain reply with more than four numbers is scored all the same.
`strict` asks for real boxes inside the image. Several boxes in the last area stand for the box around all of them,
in both: the expression describes one region.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sifthinker import boxes, config, prompts
from sifthinker.benchmarks import files, metrics, replies
from sifthinker.benchmarks.question import Answer, Measure, Missing, Question, Result, Verdict
from sifthinker.sample import Box, Reject

PUBLISHED = (
    "https://huggingface.co/datasets/deepcs233/Visual-CoT (REC files), https://cocodataset.org (train2014)"
)
FILES = {
    "refcoco_val": "REC_refcoco_unc_val.jsonl",
    "refcoco_testA": "REC_refcoco_unc_testA.jsonl",
    "refcoco_testB": "REC_refcoco_unc_testB.jsonl",
    "refcoco+_val": "REC_refcoco+_unc_val.jsonl",
    "refcoco+_testA": "REC_refcoco+_unc_testA.jsonl",
    "refcoco+_testB": "REC_refcoco+_unc_testB.jsonl",
    "refcocog_val": "REC_refcocog_umd_val.jsonl",
    "refcocog_test": "REC_refcocog_umd_test.jsonl",
}
THRESHOLD = 0.5


def load(source: config.Benchmark) -> Iterator[Question | Reject]:
    """The expressions of the wanted splits; see `question.Benchmark`."""
    files.image_folder(source, PUBLISHED)
    for split, path in _files(source):
        for line, row in files.jsonl(path, source.name):
            if isinstance(row, Reject):
                yield row
                continue
            try:
                yield _question(row, split)
            except files.BadRow as error:
                yield files.reject(source.name, path, line, error)


def official(question: Question, answer: Answer) -> Verdict:
    """Visual-CoT's calculation.py; see the module."""
    found = replies.boxes_in(answer.area) if "<area>" in answer.area else []
    if not found:  # a plain reply: the first four numbers of what is between ", ", brackets left out
        numbers = re.sub(r"[\[\]]", "", answer.text.replace(" .", "")).split(", ")[:4]
        try:
            x1, y1, x2, y2 = map(float, numbers)
        except ValueError:
            return Verdict(0.0, unparsable="no-box")
        found = [(x1, y1, x2, y2)]
    return _verdict(question, found)


def strict(question: Question, answer: Answer) -> Verdict:
    """Boxes inside the image, nothing else."""
    if not answer.boxes:
        return Verdict(0.0, unparsable="bad-box" if answer.area else answer.absent or "no-box")
    return _verdict(question, answer.boxes)


def score(results: Sequence[Result]) -> list[Measure]:
    """Accuracy of each split. The paper gives no average over splits, so none is made."""
    return [metrics.accuracy(group, rows) for group, rows in metrics.groups(results).items()]


def _verdict(question: Question, found: Sequence[Box]) -> Verdict:
    x1, y1, x2, y2 = zip(*found, strict=True)
    around: Box = (min(x1), min(y1), max(x2), max(y2))
    truth: Box = tuple(json.loads(question.reference))
    # IoU does not change when both axes are scaled, so 0..1 gives what pixels would.
    right = boxes.iou(around, truth) > THRESHOLD
    return Verdict(float(right), json.dumps(around))


def _files(source: config.Benchmark) -> list[tuple[str, Path]]:
    wanted = [split.strip() for split in source.split.split(",") if split.strip()]
    if source.path.is_file():
        known = {name: split for split, name in FILES.items()}
        return [(source.split or known.get(source.path.name, ""), source.path)]
    unknown = sorted(set(wanted) - set(FILES))
    if unknown:
        raise config.UserError(f"{source.name}: no split {', '.join(unknown)}; known: {', '.join(FILES)}")
    named = [(split, source.path / FILES[split]) for split in wanted or FILES]
    absent = [path.name for _, path in named if not path.is_file()]
    if absent:
        raise Missing(f"{source.name}: wants {', '.join(absent)} in {source.path}; published at {PUBLISHED}")
    return named


def _question(row: dict[str, Any], split: str) -> Question:
    width, height = files.integer(row, "width"), files.integer(row, "height")
    box = row.get("bbox")
    if not (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in box)
    ):
        raise files.BadRow("bad-box", f"bbox: wanted four numbers, found {box!r:.80}", "bbox")
    x1, y1, x2, y2 = map(float, box)
    if width < 1 or height < 1 or not (x2 > x1 and y2 > y1):
        raise files.BadRow("bad-box", f"bbox: {box} is no box of a {width} x {height} image", "bbox")
    # "jxu124/refcocoplus" + "testB" -> "refcoco+_testB"
    dataset = files.text(row, "dataset_name").rsplit("/", 1)[-1].replace("plus", "+")
    group = split or f"{dataset}_{files.text(row, 'split')}"
    return Question(
        id=f"{group}/{files.integer(row, 'sent_id')}",
        group=group,
        text=prompts.REC_QUESTION.format(query=files.text(row, "expression")),
        image=files.text(row, "img_path"),
        reference=json.dumps(boxes.from_pixels((x1, y1, x2, y2), width, height)),
        width=width,
        height=height,
    )
