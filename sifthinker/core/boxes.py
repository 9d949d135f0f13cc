"""Geometry of boxes: frames, overlap (IoU, union IoU, pair IoU, HIoU) and reverse expansion.

A box is `(x1, y1, x2, y2)` in 0..1 of the image itself, x2 > x1 and y2 > y1. What a model predicts may break
this; the overlap functions say what they make of such a box, all others are given valid ones.

Source: PAPER.md P5.2 (HIoU) and section 3 (expansion). The docstrings of `expand`, `focus` and `_distractor` say
where they depart from the release.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from itertools import pairwise

from sifthinker.core.records import WHOLE, Box

Boxes = Sequence[Sequence[float]]

EXPANSIONS = 5  # release, produce.py: nominal steps from the ground truth to the whole image
PROGRESSIVE_EXPANSIONS = 4  # ours: with the ground truth at most 5 areas, the release's longest chain
PROGRESSIVE_SAME = 0.75  # ours: a step that overlaps the one before by more shows nothing new
DISTRACTOR_MARGIN = 1.2  # release, bbox_adjust.py
DISTRACTOR_SCALE = (0.7, 1.3)  # release, bbox_adjust.py


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


def expand(boxes: Boxes, width: int, height: int, variant: str = "release") -> list[list[Box]]:
    """Reverse expansion: the boxes grow outwards, merging where they meet, up to the whole image.

    Step 0 is the ground truth, the last step `[WHOLE]`; every box of a step lies inside one of the next step.

    `release`: ground truth, one expansion, the hull of that where it is several boxes, the whole image (the
    release plans five expansions and uses the first, PAPER.md R3.4, with the step of R3.2). One expansion
    may already be the whole image, which then stands there twice.

    `progressive` is our reading of the paper's Fig. 1b, for which no definition is published (D3.1): every edge moves
    outwards to the image's border in `PROGRESSIVE_EXPANSIONS` equal steps ("expand"), boxes that meet become
    their hull ("merge"), and a step that overlaps the last one kept by more than `PROGRESSIVE_SAME` is left out
    ("select").

    Our one departure in `release`: a box that the release's truncation to whole pixels or the rounding to 3
    decimals would leave without area is rounded outwards instead.

    Args:
        boxes: at least one, valid, in 0..1 of the image.
        width: of the image in pixels; the release's grid and shortest step are one pixel.
        height: of the image in pixels.
        variant: "release" or "progressive".

    Returns:
        Steps of boxes in 0..1, 3 decimals.

    Raises:
        ValueError: no boxes, an invalid box, or an unknown variant.
    """
    for box in boxes:
        if not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise ValueError(f"box {list(box)} is not 0 <= x1 < x2 <= 1, 0 <= y1 < y2 <= 1")
    if not boxes:
        raise ValueError("expand needs at least one box")
    if variant == "release":
        truth = [_on_pixels(box, width, height) for box in boxes]
        grown = [_on_pixels(box, width, height) for box in merge(_grow(boxes, width, height))]
        steps = [truth, merge([*grown, *truth])]  # the truth again: a box rounded outwards may stand out
        if len(steps[-1]) > 1:
            steps.append([hull(steps[-1])])
        return [*steps, [WHOLE]]
    if variant == "progressive":
        steps = [[_rounded(box) for box in boxes]]
        for k in range(1, PROGRESSIVE_EXPANSIONS):
            out = k / PROGRESSIVE_EXPANSIONS
            grown = [
                _rounded((x1 - x1 * out, y1 - y1 * out, x2 + (1 - x2) * out, y2 + (1 - y2) * out))
                for x1, y1, x2, y2 in boxes
            ]
            step = merge([*grown, *steps[-1]])
            if union_iou(step, steps[-1]) <= PROGRESSIVE_SAME:
                steps.append(step)
        if len(steps) > 1 and union_iou(steps[-1], [WHOLE]) > PROGRESSIVE_SAME:
            steps.pop()
        return steps if steps == [[WHOLE]] else [*steps, [WHOLE]]
    raise ValueError(f"unknown expansion variant {variant!r}; known: release, progressive")


def focus(
    sample_id: str,
    boxes: Boxes,
    width: int,
    height: int,
    variant: str = "release",
    distractor_share: float = 0.5,
    seed: int = 0,
) -> tuple[list[list[Box]], int]:
    """Where the chain of a sample looks: the steps of `expand` in forward order, with or without a distractor.

    A distractor ("attention to be corrected", R3.5) is a box beside the target, looked at right after the whole image.
    It is drawn from `seed` and the sample's id alone, so a rerun, another order or another shard gives the same.
    Unlike the release, no step is equal to the one before it.

    Args:
        sample_id: decides with `seed`.
        boxes: ground truth in 0..1, at least one.
        width: of the image in pixels.
        height: of the image in pixels.
        variant: of `expand`.
        distractor_share: of the samples that are to have a distractor, 0..1; where none fits there is none.
        seed: of the run.

    Returns:
        The steps, whole image first and ground truth last, and the distractor's index in them (-1 for none). Boxes
        are in 0..1 with 3 decimals.

    Raises:
        ValueError: see `expand`.
    """
    outwards = expand(boxes, width, height, variant)
    steps = [outwards[-1], *(b for a, b in pairwise(reversed(outwards)) if a != b)]
    digest = hashlib.sha256(f"{seed}\0{sample_id}".encode()).digest()
    draw = random.Random(int.from_bytes(digest, "big"))
    if draw.random() < distractor_share:
        distractor = _distractor(hull(outwards[min(1, len(outwards) - 1)]), draw)
        if distractor is not None:
            return [steps[0], [distractor], *steps[1:]], 1
    return steps, -1


def _distractor(target: Box, draw: random.Random) -> Box | None:
    """A box about as large as `target` that shares no area with it, or None where there is no room.

    Release (bbox_adjust.py): 1.2 times the target, clipped to the image, scaled by a uniform 0.7..1.3; put
    diagonally against one of the target's corners, uniformly among those where it fits; where it fits at none,
    up to 1000 random places are tried until one is free, or the sample silently goes without (R3.6).

    Ours: 1. the scale is uniform over the part of 0.7..1.3 for which there is room, so large targets are not left
    out more often than they must be; 2. the free place is drawn directly, uniformly over all of them, which is
    the distribution that the release's tries have.
    """
    x1, y1, x2, y2 = target
    out_x, out_y = (x2 - x1) * (DISTRACTOR_MARGIN - 1) / 2, (y2 - y1) * (DISTRACTOR_MARGIN - 1) / 2
    wide = min(1.0, x2 + out_x) - max(0.0, x1 - out_x)
    high = min(1.0, y2 + out_y) - max(0.0, y1 - out_y)
    largest = max(min(max(x1, 1 - x2) / wide, 1 / high), min(max(y1, 1 - y2) / high, 1 / wide))
    low, top = DISTRACTOR_SCALE
    if largest < low:
        return None
    scale = low + (min(top, largest) - low) * draw.random()
    w, h = wide * scale, high * scale
    corners = [
        (x, y) for x in (x1 - w, x2) for y in (y1 - h, y2) if x >= 0 and x + w <= 1 and y >= 0 and y + h <= 1
    ]
    if corners:
        x, y = corners[int(draw.random() * len(corners))]
    else:
        # Free places of the upper left corner: left of, right of, above and below the target, without overlap.
        inner = (max(0.0, x1 - w), min(x2, 1 - w))
        free = [
            (a, b, c, d)
            for a, b, c, d in (
                (0.0, 0.0, x1 - w, 1 - h),
                (x2, 0.0, 1 - w, 1 - h),
                (inner[0], 0.0, inner[1], y1 - h),
                (inner[0], y2, inner[1], 1 - h),
            )
            if c >= a and d >= b
        ]
        if not free:
            return None
        areas = [(c - a) * (d - b) for a, b, c, d in free]
        a, b, c, d = draw.choices(free, areas if sum(areas) > 0 else None)[0]
        x, y = a + (c - a) * draw.random(), b + (d - b) * draw.random()
    box = _rounded((max(x, 0.0), max(y, 0.0), min(x + w, 1.0), min(y + h, 1.0)))
    return None if intersects(box, target) else box


def _grow(boxes: Boxes, width: int, height: int) -> list[Box]:
    """The first of the release's expansions (PAPER.md R3.2): not merged, not rounded."""
    x_room = (1 - max(box[0] for box in boxes) - min(box[2] for box in boxes)) * width
    y_room = (1 - max(box[1] for box in boxes) - min(box[3] for box in boxes)) * height
    step = max(x_room / EXPANSIONS, y_room / EXPANSIONS, 1.0)  # pixels
    dx, dy = step / width, step / height
    return [
        (max(0.0, x1 - dx), max(0.0, y1 - dy), min(1.0, x2 + dx), min(1.0, y2 + dy))
        for x1, y1, x2, y2 in boxes
    ]


def _on_pixels(box: Sequence[float], width: int, height: int) -> Box:
    """The box truncated to whole pixels, in 0..1 with 3 decimals; outwards on an axis that would vanish."""
    x1, y1, x2, y2 = to_pixels(box, width, height)
    left, top = int(x1), int(y1)
    right = int(x2) if int(x2) > left else math.ceil(x2)
    bottom = int(y2) if int(y2) > top else math.ceil(y2)
    return _rounded((left / width, top / height, right / width, bottom / height))


def _rounded(box: Sequence[float]) -> Box:
    """The box with 3 decimals; outwards on an axis that would vanish."""
    (x1, x2), (y1, y2) = _rounded_axis(box[0], box[2]), _rounded_axis(box[1], box[3])
    return x1, y1, x2, y2


def _rounded_axis(low: float, high: float) -> tuple[float, float]:
    near, far = round(low, 3), round(high, 3)
    if near < far:
        return near, far
    below = min(math.floor(low * 1000), 999)
    return below / 1000, (max(math.ceil(high * 1000), below + 1)) / 1000


def _canvas(width: int, height: int) -> tuple[int, int, int]:
    """Side of VisCoT's square canvas and the image's left and top on it, pixels."""
    return max(width, height), max(0, height - width) // 2, max(0, width - height) // 2
