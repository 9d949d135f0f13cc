"""Geometry of boxes: frames, and overlap (IoU, union IoU, pair IoU, HIoU).

A box is `(x1, y1, x2, y2)` in 0..1 of the image itself, x2 > x1 and y2 > y1. What a model predicts may break
this. The overlap functions say how they count such a box; all other functions expect valid boxes.

Source: PAPER.md P5.2 (HIoU).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from sifthinker.core.records import Box

Boxes = Sequence[Sequence[float]]


def from_pixels(box: Sequence[float], width: int, height: int) -> Box:
    """Converts a box from pixels to 0..1 of its image.

    Args:
        box: (x1, y1, x2, y2) in pixels of the image.
        width: of the image in pixels, at least 1.
        height: of the image in pixels, at least 1.

    Returns:
        The box in 0..1, neither clipped nor rounded: a box that leaves the image stays outside 0..1.
    """
    x1, y1, x2, y2 = box
    return x1 / width, y1 / height, x2 / width, y2 / height


def to_pixels(box: Sequence[float], width: int, height: int) -> Box:
    """Converts a box from 0..1 of its image to pixels, neither clipped nor rounded; the inverse of `from_pixels`.

    Args:
        box: (x1, y1, x2, y2) in 0..1 of the image.
        width: of the image in pixels.
        height: of the image in pixels.
    """
    x1, y1, x2, y2 = box
    return x1 * width, y1 * height, x2 * width, y2 * height


def turn(said: tuple[int, int], upright: tuple[int, int], orientation: int) -> int:
    """The EXIF orientation by which boxes have to be turned, from the size that goes with them; 1 = not at all.

    * The size of the upright picture and not of the stored one: the boxes are of the upright picture already.
    * Any other, also a size that both have (a square, a half turn, a mirror) or none: the boxes are of the stored
      pixels. That is how the authors' code, which opens files without a look at EXIF, takes the boxes of VisCoT
      and TallyQA, and where the sizes of these files come from.

    Args:
        said: width and height that go with the boxes; (0, 0) = not known.
        upright: width and height of the upright picture.
        orientation: of the file, 1 to 8.
    """
    stored = upright if orientation < 5 else upright[::-1]
    return 1 if said == upright != stored else orientation


def turned(box: Sequence[float], width: float, height: float, orientation: int) -> Box:
    """A box on the stored pixels, `width` x `height`, as a box on the upright picture of an EXIF orientation.

    In pixels, or in 0..1 with a width and a height of 1.
    """
    x1, y1, x2, y2 = box
    if orientation >= 5:  # rows and columns are exchanged
        x1, y1, x2, y2, width, height = y1, x1, y2, x2, height, width
    if orientation in (2, 3, 6, 7):
        x1, x2 = width - x2, width - x1
    if orientation in (3, 4, 7, 8):
        y1, y2 = height - y2, height - y1
    return x1, y1, x2, y2


def from_padded(box: Sequence[float], width: int, height: int) -> Box:
    """Converts a box from 0..1 of VisCoT's canvas to 0..1 of the image.

    The canvas is the image centred on a square of its longer side. The margin is whole pixels,
    `|width - height| // 2` (PAPER.md F2.1; VisCoT, convert_data_to_llava_format.py).

    Args:
        box: (x1, y1, x2, y2) in 0..1 of the canvas.
        width: of the image in pixels, at least 1.
        height: of the image in pixels, at least 1.

    Returns:
        The box in 0..1 of the image, neither clipped nor rounded.
    """
    side, left, top = _canvas(width, height)
    x1, y1, x2, y2 = box
    return from_pixels((x1 * side - left, y1 * side - top, x2 * side - left, y2 * side - top), width, height)


def to_padded(box: Sequence[float], width: int, height: int) -> Box:
    """Converts a box from 0..1 of the image to 0..1 of VisCoT's square canvas; the inverse of `from_padded`."""
    side, left, top = _canvas(width, height)
    x1, y1, x2, y2 = to_pixels(box, width, height)
    return (x1 + left) / side, (y1 + top) / side, (x2 + left) / side, (y2 + top) / side


def intersects(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two boxes of one frame share an area; touching is not enough."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def hull(boxes: Boxes) -> Box:
    """The smallest box around all boxes, in their frame.

    Raises:
        ValueError: there are no boxes.
    """
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def merge(boxes: Boxes) -> list[Box]:
    """Replaces boxes that share an area by their hull until no two do (PAPER.md R3.3).

    Args:
        boxes: of one frame; none is allowed.

    Returns:
        Boxes that share no area, in the order of the first box of each group.
    """
    merged: list[Box] = [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes]
    while True:
        kept: list[Box] = []
        for box in merged:
            met = next((i for i, other in enumerate(kept) if intersects(box, other)), None)
            if met is None:
                kept.append(box)
            else:
                kept[met] = hull([kept[met], box])
        if len(kept) == len(merged):
            return kept
        merged = kept


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes of one frame, 0..1; 0 if one is degenerate (x2 <= x1 or y2 <= y1)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def union_iou(pred: Boxes, gt: Boxes) -> float:
    """IoU of the union of `pred` and the union of `gt`, 0..1: the paper's "GIoU" (PAPER.md P5.2).

    Both empty: 1; one empty: 0. Degenerate boxes cover nothing. Areas are exact: between two neighbouring vertical
    edges the boxes are stretches of one line, whose covered lengths are added up from the top.

    Args:
        pred: boxes that a model gave; they may be degenerate or overlap.
        gt: ground truth, in the same frame; its boxes may overlap too.
    """
    if not pred or not gt:
        return float(len(pred) == len(gt))
    if len(pred) == len(gt) == 1:
        return iou(pred[0], gt[0])
    boxes = [*pred, *gt]
    downwards = sorted((b[1], b[3], b[0], b[2], i < len(pred)) for i, b in enumerate(boxes))
    xs = sorted({x for box in boxes for x in (box[0], box[2])})
    in_pred = in_gt = in_any = 0.0
    for left, right in pairwise(xs):
        end_pred = end_gt = end_any = -math.inf  # how far down is covered
        high_pred = high_gt = high_any = 0.0  # lengths
        for y1, y2, x1, x2, predicted in downwards:
            if not (x1 <= left < x2 and y1 < y2):
                continue
            if y2 > end_any:
                high_any += y2 - max(y1, end_any)
                end_any = y2
            if predicted and y2 > end_pred:
                high_pred += y2 - max(y1, end_pred)
                end_pred = y2
            elif not predicted and y2 > end_gt:
                high_gt += y2 - max(y1, end_gt)
                end_gt = y2
        in_pred += (right - left) * high_pred
        in_gt += (right - left) * high_gt
        in_any += (right - left) * high_any
    return max(0.0, in_pred + in_gt - in_any) / in_any if in_any > 0 else 0.0


def pair_iou(pred: Boxes, gt: Boxes) -> float:
    """Mean IoU over the one-to-one matching of `pred` and `gt` with the largest total IoU, 0..1: the paper's PIoU.

    The mean is over all min(len(pred), len(gt)) pairs, also those with IoU 0; boxes without a partner do not
    count (1/|M|, PAPER.md P5.2 and R5.6). Both empty: 1; one empty: 0. A degenerate box is matched like any
    other, with IoU 0.

    Args:
        pred: boxes that a model gave.
        gt: ground truth, in the same frame.
    """
    if not pred or not gt:
        return float(len(pred) == len(gt))
    if min(len(pred), len(gt)) == 1:
        return max(iou(p, g) for p in pred for g in gt)
    from scipy.optimize import linear_sum_assignment  # 0.7 s, which a command need not wait for

    values = [[iou(p, g) for g in gt] for p in pred]
    pairs = list(zip(*linear_sum_assignment(values, maximize=True), strict=True))
    return math.fsum(values[p][g] for p, g in pairs) / len(pairs)


def hiou(pred: Boxes, gt: Boxes) -> float:
    """(union IoU + pair IoU) / 2, 0..1: the paper's HIoU (PAPER.md P5.2).

    Args:
        pred: boxes that a model gave; both empty give 1, one empty 0.
        gt: ground truth, in the same frame.
    """
    return (union_iou(pred, gt) + pair_iou(pred, gt)) / 2


def _canvas(width: int, height: int) -> tuple[int, int, int]:
    """Side of VisCoT's square canvas and the image's left and top on it, pixels."""
    return max(width, height), max(0, height - width) // 2, max(0, width - height) // 2
