"""RefCOCO, RefCOCO+ and RefCOCOg: the box of the one thing that an expression describes; Acc@0.5.

The eight files of Visual-CoT, `REC_refcoco+_unc_testB.jsonl` and so on, one expression a row, pixel boxes:

    {"img_path": "COCO_train2014_000000581563.jpg", "expression": "black car", "bbox": [0.0, 373.89, 137.59, 500.0],
     "dataset_name": "jxu124/refcocoplus", "height": 500, "width": 333, "image_id": 581563, "sent_id": 70,
     "split": "testB"}

`path` is one of the files or the folder with them; `split` then names some, comma-separated; empty means all eight.

Or `lmms-lab-encoder/RefCOCO`, `RefCOCOplus` and `RefCOCOg`, Parquet files (`RefCOCO/data/testA-00000-of-00001.parquet`) with the
image inside, one object a row with all of its expressions in `answer` and the box as corner and size, in pixels:

    {"question_id": "1719310", "image": {"bytes": b"...", "path": ...}, "question": "Please carefully observe ...",
     "answer": ["black car", "car on the left"], "bbox": [0.0, 373.89, 137.59, 126.11], "segmentation": [...],
     "iscrowd": 0, "file_name": "COCO_train2014_000000581563_16.jpg"}

`path` is the folder with the repositories, each under its name, or one of them. Every expression is a question; ours,
not the file's, which asks for a description of the box. RefCOCO's `val` there has 8,811 objects and RefCOCOg's 7,573:
those of the paper's splits (UNC's 3,811, UMD's 2,573) and Google's 5,000 together, and nothing in a row tells them
apart. Their scores are of other sets, so they have other names: `refcoco_val+google`, `refcocog_val+google`. RefCOCO's
`test`, which is Google's alone, is left out.

`official` is Visual-CoT's rule (playground/data/eval/REC/calculation.py): right when the IoU is *greater than* 0.5.
That script scales by the longer side, because Visual-CoT's models answer on the padded square; ours answer in 0..1
of the image itself, so width and height are what their numbers are scaled by (PAPER.md M7.6). It takes whatever
numbers there are: a box beyond the image or a plain reply with more than four numbers is scored all the same.
`strict` asks for an answer, and for real boxes inside the image; one that is written in the family's own form and in its pixels is
"pixel-box" (`evaluate.box_frame` reads it, in both scores). Several boxes in the last area stand for the box around all of them,
in both: the expression describes one region.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sifthinker import config
from sifthinker.core import boxes, errors, prompts
from sifthinker.core.errors import BadRow
from sifthinker.core.records import Box, Reject
from sifthinker.evaluation.benchmarks import files, metrics, replies
from sifthinker.evaluation.benchmarks.question import Answer, Measure, Missing, Question, Result, Verdict

PUBLISHED = (
    "https://github.com/deepcs233/Visual-CoT (llava/eval/REC) with https://cocodataset.org (train2014), "
    "https://huggingface.co/datasets/lmms-lab-encoder/RefCOCO, RefCOCOplus, RefCOCOg (Parquet)"
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
PARQUET = {  # split: repository of lmms-lab-encoder, its split
    "refcoco_val+google": ("RefCOCO", "val"),
    "refcoco_testA": ("RefCOCO", "testA"),
    "refcoco_testB": ("RefCOCO", "testB"),
    "refcoco+_val": ("RefCOCOplus", "val"),
    "refcoco+_testA": ("RefCOCOplus", "testA"),
    "refcoco+_testB": ("RefCOCOplus", "testB"),
    "refcocog_val+google": ("RefCOCOg", "val"),
    "refcocog_test": ("RefCOCOg", "test"),
}
THRESHOLD = 0.5


def load(source: config.Benchmark) -> Iterator[Question | Reject]:
    """The expressions of the wanted splits; see `question.Benchmark`."""
    if repositories := _repositories(source):
        yield from _embedded(source, repositories)
        return
    named = _files(source)
    files.image_folder(source, PUBLISHED)
    for split, path in named:
        for line, row in files.jsonl(path, source.name):
            if isinstance(row, Reject):
                yield row
                continue
            try:
                yield _question(row, split)
            except BadRow as error:
                yield files.reject(source.name, path, line, error)


def official(question: Question, answer: Answer) -> Verdict:
    """Visual-CoT's calculation.py; see the module.

    It looks for boxes alone: of a chain that was cut off, or that has no answer, the last area counts.
    """
    found = replies.boxes_in(answer.area) if "<area>" in answer.area else []
    if not found and answer.frame:  # that script knows no other form; these boxes were converted
        found = replies.boxes_in(answer.area)
    if not found:  # a plain reply: the first four numbers of what is between ", ", brackets left out
        numbers = re.sub(r"[\[\]]", "", answer.text.replace(" .", "")).split(", ")[:4]
        try:
            x1, y1, x2, y2 = map(float, numbers)
        except ValueError:
            return Verdict(0.0, unparsable="no-box")
        found = [(x1, y1, x2, y2)]
    return _verdict(question, found)


def strict(question: Question, answer: Answer) -> Verdict:
    """Boxes inside the image, nothing else; none of a reply without an answer, whose last area is one on the way."""
    if answer.absent:
        return Verdict(0.0, unparsable=answer.absent)
    if not answer.boxes:
        if not answer.frame and replies.in_pixels(answer.area):
            return Verdict(0.0, unparsable="pixel-box")
        return Verdict(0.0, unparsable="bad-box" if answer.area else "no-box")
    return _verdict(question, answer.boxes)


def turned(question: Question, orientation: int) -> Question:
    """The question with its box on the upright picture of a file with this EXIF orientation."""
    box = boxes.turned(json.loads(question.reference), 1, 1, orientation)
    width, height = question.width, question.height
    size = (width, height) if orientation < 5 else (height, width)
    return dataclasses.replace(question, reference=json.dumps(box), width=size[0], height=size[1])


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
    if source.path.is_file():
        known = {name: split for split, name in FILES.items()}
        return [(source.split or known.get(source.path.name, ""), source.path)]
    named = [(split, source.path / FILES[split]) for split in _wanted(source, FILES)]
    absent = [path.name for _, path in named if not path.is_file()]
    if absent:
        raise Missing(
            f"{source.name}: wants {', '.join(absent)}, or the folders RefCOCO, RefCOCOplus and RefCOCOg with "
            f"Parquet files, in {source.path}; published at {PUBLISHED}"
        )
    return named


def _wanted(source: config.Benchmark, known: Mapping[str, object]) -> list[str]:
    """The splits that `source.split` names, all of the known ones where it names none."""
    wanted = [split.strip() for split in source.split.split(",") if split.strip()]
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise errors.UserError(f"{source.name}: no split {', '.join(unknown)}; known: {', '.join(known)}")
    return wanted or list(known)


def _repositories(source: config.Benchmark) -> dict[str, Path]:
    """The folders of lmms-lab-encoder's repositories that are there, by name; empty where there are none."""
    names = {repository for repository, _ in PARQUET.values()}
    if source.path.name in names and (source.path / "data").is_dir():
        return {source.path.name: source.path}
    return {name: source.path / name for name in sorted(names) if (source.path / name).is_dir()}


def _embedded(source: config.Benchmark, repositories: dict[str, Path]) -> Iterator[Question | Reject]:
    alone = source.path.name in repositories  # `path` is one repository: its splits are all that is wanted
    known = {split: at for split, at in PARQUET.items() if not alone or at[0] in repositories}
    shards: dict[str, list[Path]] = {}
    for split in _wanted(source, known):
        repository, part = known[split]
        folder = repositories.get(repository, source.path / repository)
        shards[split] = sorted(folder.glob(f"data/{part}-*.parquet"))
    absent = ["/data/".join(known[split]) + "-*.parquet" for split, paths in shards.items() if not paths]
    if absent:
        folder = source.path.parent if alone else source.path
        raise Missing(f"{source.name}: wants {', '.join(absent)} in {folder}; published at {PUBLISHED}")
    for split, paths in shards.items():
        shards[split] = files.one_upload(source.name, paths)
    for split, paths in shards.items():
        place = 0  # of the row in its split; `question_id` may come twice where two sets were put together
        for path in paths:
            for index, row in files.parquet(path):
                try:
                    yield from _expressions(row, split, place)
                except BadRow as error:
                    yield files.reject(source.name, path, index, error)
                place += 1


def _expressions(row: dict[str, Any], split: str, place: int) -> list[Question]:
    expressions = row.get("answer")
    if not (isinstance(expressions, list) and expressions and all(isinstance(e, str) for e in expressions)):
        raise BadRow("bad-field", f"answer: wanted expressions, found {expressions!r:.80}", "answer")
    image = files.picture(row, "image")
    width, height = files.pixels(image)
    x, y, w, h = files.box(row, "bbox")
    reference = _reference((x, y, x + w, y + h), width, height)
    return [
        Question(
            id=f"{split}/{place}/{number}",
            group=split,
            text=prompts.REC_QUESTION.format(query=expression),
            image=image,
            reference=reference,
            width=width,
            height=height,
        )
        for number, expression in enumerate(expressions)
    ]


def _reference(box: Box, width: int, height: int) -> str:
    """A pixel box (xyxy) as questions have it: 0..1 of the image."""
    x1, y1, x2, y2 = box
    if width < 1 or height < 1 or not (x2 > x1 and y2 > y1):
        raise BadRow("bad-box", f"bbox: {box} is no box of a {width} x {height} image", "bbox")
    return json.dumps(boxes.from_pixels(box, width, height))


def _question(row: dict[str, Any], split: str) -> Question:
    width, height = files.integer(row, "width"), files.integer(row, "height")
    reference = _reference(files.box(row, "bbox"), width, height)
    # "jxu124/refcocoplus" + "testB" -> "refcoco+_testB"
    dataset = files.text(row, "dataset_name").rsplit("/", 1)[-1].replace("plus", "+")
    group = split or f"{dataset}_{files.text(row, 'split')}"
    return Question(
        id=f"{group}/{files.integer(row, 'sent_id')}",
        group=group,
        text=prompts.REC_QUESTION.format(query=files.text(row, "expression")),
        image=files.text(row, "img_path"),
        reference=reference,
        width=width,
        height=height,
    )
