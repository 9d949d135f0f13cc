"""OVDEval: detection of objects by name, with hard negatives; eight sub-tasks, scored by NMS-AP.

`<sub>.json` in COCO's form with the query texts of each picture; pictures in a folder of the sub-task's name, or
directly in the image folder:

    {"categories": [{"supercategory": "object", "id": 1, "name": "red bag"}],
     "images": [{"file_name": "1.jpg", "id": 1, "height": 480, "width": 640, "text": ["red bag"],
                 "neg_text": ["blue bag"]}],
     "annotations": [{"id": 1, "bbox": [10, 20, 30, 40], "category_id": 1, "image_id": 1, "iscrowd": 0, "area": 1200}]}

`split` names sub-tasks, comma-separated; empty means the eight that VLM-R1 averages; "coco" is the ninth. A picture is
asked for all categories (coco, celebrity, logo, landmark) or for its own texts, true and false (the others).

Which box has which label is not documented for SIFThinker, whose areas carry none. Ours, the option `labels`: the
boxes are those of the last area, the labels the targets that the answer names. "listed" (default): one named target
is the label of all boxes, as many as boxes go by order, anything else is unreadable. "each": every box counts once
for every named target. An answer that is itself a JSON list of `bbox_2d` and `label` (VLM-R1's form) is taken as it
is; "None" is no box.

The score (om-ai-lab/OVDEval, eval.py): per picture, and whatever the labels, of all predictions with IoU > 0.5 to a
true box only one stays (the highest score; scores are all 1, and among equals NumPy's reversed order keeps the last);
then COCO's AP@[.50:.95], all areas, 100 detections. `official` takes numbers as they come, `strict` only boxes inside
the image, and none of a reply without an answer. A single verdict's score is the picture's F1 at IoU 0.5, for looking at; the AP is not made from it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sifthinker import config
from sifthinker.core import boxes, errors, prompts
from sifthinker.core.errors import BadRow
from sifthinker.core.records import Box, Reject
from sifthinker.evaluation.benchmarks import files, metrics, replies
from sifthinker.evaluation.benchmarks.question import Answer, Measure, Question, Result, Verdict

PUBLISHED = "https://huggingface.co/datasets/omlab/OVDEval"
SUBTASKS = ("celebrity", "color", "landmark", "logo", "material", "negation", "position", "relationship")
ALL_CATEGORIES = ("coco", "celebrity", "logo", "landmark")  # eval_glip.py
MAX_DETECTIONS = 100  # pycocotools
DRAWS = 100  # of the bootstrap: an AP over thousands of categories is slow

_IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)

Detection = tuple[str, Box]  # label, 0..1


def load(source: config.Benchmark) -> Iterator[Question | Reject]:
    """One question a picture; see `question.Benchmark`."""
    wanted = [name.strip() for name in source.split.split(",") if name.strip()] or list(SUBTASKS)
    unknown = sorted(set(wanted) - {*SUBTASKS, "coco"})
    if unknown:
        raise errors.UserError(
            f"{source.name}: no split {', '.join(unknown)}; known: {', '.join(SUBTASKS)}, coco"
        )
    paths = {name: files.find(source, f"{name}.json", PUBLISHED) for name in wanted}
    files.image_folder(source, PUBLISHED)
    for name, path in paths.items():
        document = files.json_document(path)
        if not isinstance(document, dict) or not {"images", "annotations", "categories"} <= set(document):
            raise errors.UserError(f"{path}: wanted an object with images, annotations and categories")
        objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
        try:
            categories: dict[int, str] = {entry["id"]: entry["name"] for entry in document["categories"]}
            for entry in document["annotations"]:
                objects[entry["image_id"]].append(entry)
        except (TypeError, KeyError) as error:
            raise errors.UserError(
                f"{path}: categories need id and name, and annotations need image_id, as COCO has them: {error!r}"
            ) from error
        folder = f"{name}/" if (source.images / name).is_dir() else ""
        for index, row in enumerate(document["images"]):
            try:
                yield _question(row, name, folder, categories, objects[row.get("id")], source.labels)
            except BadRow as error:
                yield files.reject(source.name, path, index, error)


def official(question: Question, answer: Answer) -> Verdict:
    """The detections with any numbers; see the module.

    Where there is one target, of a chain that was cut off, or that has no answer, the boxes of the last area count.
    """
    return _verdict(question, answer, tuple(replies.boxes_in(answer.area)) or answer.boxes)


def strict(question: Question, answer: Answer) -> Verdict:
    """The detections whose boxes are inside the image; none of a reply without an answer."""
    if answer.absent:
        return Verdict(0.0, "[]", answer.absent)
    bad = answer.area and not answer.boxes
    if (listed := _listed_json(answer.text, question)) is not None:
        bad = not all(replies.is_box(box) for _, box in listed)
    plain = "<area>" not in answer.area
    if bad and not _says_none(answer.text):
        return Verdict(0.0, "[]", "pixel-box" if plain and replies.in_pixels(answer.text) else "bad-box")
    return _verdict(question, answer, answer.boxes)


def turned(question: Question, orientation: int) -> Question:
    """The question with its boxes on the upright picture of a file with this EXIF orientation."""
    truth = json.loads(question.reference)
    width, height = question.width, question.height
    for entry in truth["objects"]:
        x, y, w, h = entry[1]
        x1, y1, x2, y2 = boxes.turned((x, y, x + w, y + h), width, height, orientation)
        entry[1] = [x1, y1, x2 - x1, y2 - y1]
    size = (width, height) if orientation < 5 else (height, width)
    return dataclasses.replace(question, reference=json.dumps(truth), width=size[0], height=size[1])


def score(results: Sequence[Result]) -> list[Measure]:
    """NMS-AP of each sub-task, and the mean of all eight."""
    parts = {name: sorted(rows, key=_image_id) for name, rows in metrics.groups(results).items()}
    aps = {name: _average_precision(rows) for name, rows in parts.items()}
    measures = [metrics.clustered(name, rows, aps[name], "share", DRAWS) for name, rows in parts.items()]
    if set(parts) != set(SUBTASKS):
        return measures
    eighths = [(rows, aps[name], 1 / len(parts)) for name, rows in parts.items()]
    return [*measures, metrics.combined("average", eighths, "share", DRAWS)]


def _question(
    row: dict[str, Any],
    name: str,
    folder: str,
    categories: dict[int, str],
    objects: list[dict[str, Any]],
    labels: str,
) -> Question:
    targets = (
        list(categories.values())
        if name in ALL_CATEGORIES
        else [*row.get("text", []), *row.get("neg_text", [])]
    )
    if not targets or not all(isinstance(target, str) and target for target in targets):
        raise BadRow("bad-field", f"text, neg_text: wanted names of objects, found {targets!r:.80}", "text")
    width, height = files.integer(row, "width"), files.integer(row, "height")
    truth = []
    for entry in objects:
        _, _, w, h = files.box(entry, "bbox")
        category = entry.get("category_id")
        if category not in categories or w <= 0 or h <= 0:
            raise BadRow("bad-box", f"annotation {entry.get('id')}: {entry!r:.120}", "annotations")
        truth.append([categories[category], entry["bbox"], entry.get("iscrowd", 0)])
    return Question(
        id=f"{name}/{files.integer(row, 'id')}",
        group=name,
        text=prompts.OVD_QUESTION.format(targets=", ".join(dict.fromkeys(targets))),
        image=folder + files.text(row, "file_name"),
        reference=json.dumps({"objects": truth, "labels": labels}),
        options=tuple(("", target) for target in dict.fromkeys(targets)),
        width=width,
        height=height,
    )


def _verdict(question: Question, answer: Answer, found: Sequence[Box]) -> Verdict:
    truth = json.loads(question.reference)
    detections, problem = _labelled(question, answer, found, truth["labels"])
    kept = _suppressed(detections, truth["objects"], question)
    hits = len(kept) and sum(_matched(kept, truth["objects"], question))
    total = len(kept) + len(truth["objects"])
    return Verdict(2 * hits / total if total else float(not problem), json.dumps(detections), problem)


def _labelled(
    question: Question, answer: Answer, found: Sequence[Box], labels: str
) -> tuple[list[Detection], str]:
    """The detections of a reply, and why there are none if that is not what it says."""
    if _says_none(answer.text):
        return [], ""
    if (listed := _listed_json(answer.text, question)) is not None:
        return listed, ""
    if not found:
        return [], answer.absent or "no-box"
    targets = [target for _, target in question.options]
    named = targets if len(targets) == 1 else _named(answer.text, targets)
    if labels == "each":
        named = list(dict.fromkeys(named))
        return [(label, box) for label in named for box in found], "" if named else "no-label"
    if len(set(named)) == 1:
        return [(named[0], box) for box in found], ""
    if len(named) != len(found):
        return [], "no-label" if not named else "labels-and-boxes-differ"
    return list(zip(named, found, strict=True)), ""


def _says_none(text: str) -> bool:
    return re.fullmatch(r"\W*none\W*", text, re.I) is not None


def _listed_json(text: str, question: Question) -> list[Detection] | None:
    """The boxes of a JSON list with their labels, which may be in other case than the targets; None of any other text."""
    fenced = re.fullmatch(r"\s*(?:```(?:json)?)?\s*(\[.*\])\s*(?:```)?\s*", text, re.S)
    if not fenced:
        return None
    targets = {target.casefold(): target for _, target in question.options}
    try:
        said = [(str(item["label"]).strip(), _box(item["bbox_2d"])) for item in json.loads(fenced.group(1))]
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    return [(targets.get(label.casefold(), label), box) for label, box in said]


def _box(values: Sequence[float]) -> Box:
    x1, y1, x2, y2 = map(float, values)
    return x1, y1, x2, y2


def _named(text: str, targets: Sequence[str]) -> list[str]:
    """The targets that a text names, in its order; the longer one where one is inside another."""
    found: list[tuple[int, str]] = []
    rest = text.lower()
    for target in sorted(targets, key=len, reverse=True):
        for match in list(re.finditer(rf"(?<!\w){re.escape(target.lower())}(?:e?s)?(?!\w)", rest)):
            found.append((match.start(), target))
            rest = rest[: match.start()] + "#" * len(match.group()) + rest[match.end() :]
    return [target for _, target in sorted(found)]


def _xywh(detection: Detection, question: Question) -> Box:
    """Corner and size in pixels, as COCO has boxes."""
    x1, y1, x2, y2 = boxes.to_pixels(detection[1], question.width, question.height)
    return x1, y1, x2 - x1, y2 - y1


def _suppressed(
    detections: Sequence[Detection], objects: Sequence[Any], question: Question
) -> list[Detection]:
    """OVDEval's suppression: one prediction a true box, the last among equals, whatever its label."""
    keep: set[int] = set()
    remove: set[int] = set()
    for _, truth, _ in objects:
        near = [i for i, d in enumerate(detections) if _overlap(_xywh(d, question), truth) > 0.5]
        if near:
            keep.add(near[-1])
            remove.update(near[:-1])
    return [d for i, d in enumerate(detections) if i in keep or i not in remove]


def _matched(detections: Sequence[Detection], objects: Sequence[Any], question: Question) -> list[bool]:
    """Which detections find an object of their label with IoU >= 0.5, each object once."""
    free = list(objects)
    hits = []
    for detection in detections:
        near = [o for o in free if o[0] == detection[0] and _overlap(_xywh(detection, question), o[1]) >= 0.5]
        hits.append(bool(near))
        if near:
            free.remove(near[0])
    return hits


@dataclass(frozen=True, slots=True)
class _Category:
    """One category's detections over all images, matched at every IoU threshold."""

    image: NDArray[np.int64]  # (D,) row of each detection
    hit: NDArray[np.bool_]  # (10, D)
    ignored: NDArray[np.bool_]  # (10, D) matched to a crowd, neither right nor wrong
    truths: NDArray[np.int64]  # (G,) row of each object that must be found


def _average_precision(rows: Sequence[Result]) -> metrics.Statistic:
    """COCO's AP over the rows' detections after suppression, when each image counts `weights` times."""
    found: dict[str, list[tuple[int, NDArray[np.bool_], NDArray[np.bool_]]]] = defaultdict(list)
    truths: dict[str, list[int]] = defaultdict(list)
    for index, (question, verdict) in enumerate(rows):
        objects = json.loads(question.reference)["objects"]
        detections = [(label, _box(box)) for label, box in json.loads(verdict.reading or "[]")]
        kept = _suppressed(detections, objects, question)
        labels = {label for label, _, _ in objects}
        for label in labels | {label for label, _ in kept}:
            mine = [_xywh(d, question) for d in kept if d[0] == label][:MAX_DETECTIONS]
            theirs = [(box, crowd) for name, box, crowd in objects if name == label]
            hit, ignored = _match(mine, theirs)
            found[label] += [(index, hit[:, i], ignored[:, i]) for i in range(len(mine))]
            truths[label] += [index] * sum(not crowd for _, crowd in theirs)
    categories = [_category(found[label], truths[label]) for label in sorted(truths) if truths[label]]

    def average(weights: NDArray[np.float64]) -> float:
        precisions = [p for c in categories if (p := _precision(c, weights)) is not None]
        return float(np.mean(precisions)) if precisions else float("nan")

    return average


def _category(
    found: Sequence[tuple[int, NDArray[np.bool_], NDArray[np.bool_]]], truths: Sequence[int]
) -> _Category:
    empty = np.zeros((len(_IOUS), 0), dtype=bool)
    return _Category(
        np.array([index for index, _, _ in found], dtype=np.int64),
        np.stack([hit for _, hit, _ in found], axis=1) if found else empty,
        np.stack([ignored for _, _, ignored in found], axis=1) if found else empty,
        np.array(truths, dtype=np.int64),
    )


def _match(
    mine: Sequence[Box], theirs: Sequence[tuple[Box, int]]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The greedy matching of pycocotools, of one image and category; (10, D) hits, and matches with a crowd."""
    theirs = sorted(theirs, key=lambda item: item[1])  # crowds last
    hit = np.zeros((len(_IOUS), len(mine)), dtype=bool)
    ignored = np.zeros_like(hit)
    overlap = [[_overlap(box, truth, crowd) for truth, crowd in theirs] for box in mine]
    for level, threshold in enumerate(_IOUS):
        taken: set[int] = set()
        for i, row in enumerate(overlap):
            best, chosen = min(threshold, 1 - 1e-10), -1
            for j, value in enumerate(row):
                crowd = theirs[j][1]
                if j in taken and not crowd:
                    continue
                if chosen >= 0 and not theirs[chosen][1] and crowd:
                    break
                if value >= best:
                    best, chosen = value, j
            if chosen >= 0:
                taken.add(chosen)
                hit[level, i], ignored[level, i] = True, bool(theirs[chosen][1])
    return hit, ignored


def _overlap(box: Box, truth: Sequence[float], crowd: int = 0) -> float:
    """IoU of two boxes of corner and size, or the share of `box` that lies in a crowd; pycocotools' arithmetic."""
    width = min(box[0] + box[2], truth[0] + truth[2]) - max(box[0], truth[0])
    height = min(box[1] + box[3], truth[1] + truth[3]) - max(box[1], truth[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared, area = width * height, box[2] * box[3]
    return shared / (area if crowd else area + truth[2] * truth[3] - shared)


def _precision(category: _Category, weights: NDArray[np.float64]) -> float | None:
    """Mean interpolated precision at 101 recalls and 10 thresholds; None without an object to find."""
    truths = float(weights[category.truths].sum())
    if not truths:
        return None
    if not len(category.image):
        return 0.0
    counted = weights[category.image] * ~category.ignored  # (10, D)
    right = np.cumsum(counted * category.hit, axis=1)
    every = np.cumsum(counted, axis=1)
    precision = np.maximum.accumulate((right / (every + np.spacing(1)))[:, ::-1], axis=1)[:, ::-1]
    total = 0.0
    for level in range(len(_IOUS)):
        place = np.searchsorted(right[level] / truths, _RECALLS, side="left")
        total += float(precision[level][place[place < len(category.image)]].sum())
    return total / (len(_IOUS) * len(_RECALLS))


def _image_id(result: Result) -> int:
    return int(result[0].id.rsplit("/", 1)[-1])
