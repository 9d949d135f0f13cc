"""HIoU, against polygon unions and scipy's assignment (the authors' way: PAPER.md R5.6 and R5.9)."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import shapely
from scipy.optimize import linear_sum_assignment
from shapely.ops import unary_union

from sifthinker.core import boxes
from tests.benchmarks.depth import random_boxes
from tests.benchmarks.pair import Pair, Work, close


def prepare(count: int, folder: Path, size: int) -> None:
    draw = random.Random(count)
    cases = [(random_boxes(count, draw), random_boxes(count, draw)) for _ in range(size)]
    (folder / "cases.json").write_text(json.dumps(cases))


def ours(folder: Path, size: int) -> Work:
    cases = json.loads((folder / "cases.json").read_text())
    return lambda: [boxes.hiou(pred, truth) for pred, truth in cases]


def polygons(folder: Path, size: int) -> Work:
    cases = json.loads((folder / "cases.json").read_text())
    return lambda: [hiou(pred, truth) for pred, truth in cases]


def hiou(pred: list[list[float]], truth: list[list[float]]) -> float:
    """(IoU of the unions + mean IoU of the best matching) / 2."""
    a, b = (unary_union([shapely.box(*box) for box in found]) for found in (pred, truth))
    union = a.union(b).area
    union_iou = a.intersection(b).area / union if union > 0 else 0.0
    table = np.array([[iou(p, t) for t in truth] for p in pred])
    rows, columns = linear_sum_assignment(-table)
    return (union_iou + float(table[rows, columns].mean())) / 2


def iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


PAIRS = [
    Pair(
        f"HIoU of {count}x{count} boxes",
        "shapely unions, scipy assignment",
        20, size, 20, "cases", partial(prepare, count), ours, polygons, close(1e-9),
    )
    for count, size in ((1, 2000), (3, 1000), (10, 300))
]  # fmt: skip
