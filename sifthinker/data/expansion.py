"""Stage expand: where the chain of each sample will look (reverse expansion, PAPER.md section 3).

Reads `SAMPLES`, writes `FOCUS`. `expand` grows the ground truth out to the whole image (P3.1), `focus` turns its
steps round and places a distractor, and `expand_samples` does that for the rows of the stage. The docstrings say
where they depart from the release.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from sifthinker import config
from sifthinker.core.boxes import Boxes, hull, intersects, merge, to_pixels, union_iou
from sifthinker.core.records import WHOLE, Box, Focus, Reject, Sample

EXPANSIONS = 5  # release, produce.py: nominal steps from the ground truth to the whole image
PROGRESSIVE_EXPANSIONS = 4  # ours: with the ground truth at most 5 areas, the release's longest chain
PROGRESSIVE_SAME = 0.75  # ours: a step that overlaps the one before by more shows nothing new
DISTRACTOR_MARGIN = 1.2  # release, bbox_adjust.py
DISTRACTOR_SCALE = (0.7, 1.3)  # release, bbox_adjust.py


def expand_samples(samples: Iterable[Sample], settings: config.Expand) -> Iterator[Focus | Reject]:
    """The focus of every sample, in order; one row out for each row in.

    Args:
        samples: with boxes in 0..1 of the image, and the image's size in pixels.
        settings: the stage's.

    Yields:
        A `Focus` with boxes in 0..1 (3 decimals), or a `Reject` with the reason `box-invalid` where `focus`
        refuses the sample's boxes.
    """
    for sample in samples:
        try:
            steps, distractor = focus(
                sample.id,
                sample.boxes,
                sample.width,
                sample.height,
                settings.variant,
                settings.distractor_share,
                settings.seed,
            )
        except ValueError as error:
            yield Reject("expand", "box-invalid", str(error), sample.id, sample.source, field="boxes")
            continue
        yield Focus(sample.id, sample.image_sha256, tuple(map(tuple, steps)), distractor)


def expand(boxes: Boxes, width: int, height: int, variant: str = "release") -> list[list[Box]]:
    """Reverse expansion: the boxes grow outwards, merging where they meet, up to the whole image.

    Step 0 is the ground truth, the last `[WHOLE]`; except in `each`, a step's boxes lie inside those of the next step.

    `release`: ground truth, one expansion, the hull of that where it is several boxes, the whole image (the
    release plans five expansions and uses the first, PAPER.md R3.4, with the step of R3.2). One expansion
    may already be the whole image; the steps then end with it twice.

    `progressive` is our reading of the paper's Fig. 1b, for which no definition is published (D3.1): every edge moves
    outwards to the image's border in `PROGRESSIVE_EXPANSIONS` equal steps ("expand"), boxes that meet become
    their hull ("merge"), and a step that overlaps the last one kept by more than `PROGRESSIVE_SAME` is left out
    ("select").

    `each` is ours and no expansion: the boxes, each of them by itself, the last one first, and the whole image.

    Our one departure in `release`: a box that the release's truncation to whole pixels or the rounding to 3
    decimals would leave without area is rounded outwards instead.

    Args:
        boxes: at least one, valid, in 0..1 of the image.
        width: of the image in pixels; the release's grid and shortest step are one pixel.
        height: of the image in pixels.
        variant: "release", "progressive" or "each".

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
    truth = [_on_pixels(box, width, height) for box in boxes]
    if variant == "each":
        return _each(truth)
    if variant == "release":
        grown = [_on_pixels(box, width, height) for box in merge(_grow(boxes, width, height))]
        steps = [truth, merge([*grown, *truth])]  # the truth again: a box rounded outwards may stand out
        if len(steps[-1]) > 1:
            steps.append([hull(steps[-1])])
        return [*steps, [WHOLE]]
    if variant == "progressive":
        steps = [[rounded(box) for box in boxes]]
        for k in range(1, PROGRESSIVE_EXPANSIONS):
            out = k / PROGRESSIVE_EXPANSIONS
            grown = [
                rounded((x1 - x1 * out, y1 - y1 * out, x2 + (1 - x2) * out, y2 + (1 - y2) * out))
                for x1, y1, x2, y2 in boxes
            ]
            step = merge([*grown, *steps[-1]])
            if union_iou(step, steps[-1]) <= PROGRESSIVE_SAME:
                steps.append(step)
        if len(steps) > 1 and union_iou(steps[-1], [WHOLE]) > PROGRESSIVE_SAME:
            steps.pop()
        return steps if steps == [[WHOLE]] else [*steps, [WHOLE]]
    raise ValueError(f"unknown expansion variant {variant!r}; known: release, progressive, each")


def _each(truth: list[Box]) -> list[list[Box]]:
    return [truth, *([box] for box in reversed(truth)), [WHOLE]]


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
        nearest = 0 if variant == "each" else min(1, len(outwards) - 1)
        distractor = _distractor(hull(outwards[nearest]), draw)
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
    box = rounded((max(x, 0.0), max(y, 0.0), min(x + w, 1.0), min(y + h, 1.0)))
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
    return rounded((left / width, top / height, right / width, bottom / height))


def rounded(box: Sequence[float]) -> Box:
    """The box with 3 decimals; outwards on an axis that would vanish."""
    (x1, x2), (y1, y2) = _rounded_axis(box[0], box[2]), _rounded_axis(box[1], box[3])
    return x1, y1, x2, y2


def _rounded_axis(low: float, high: float) -> tuple[float, float]:
    near, far = round(low, 3), round(high, 3)
    if near < far:
        return near, far
    below = min(math.floor(low * 1000), 999)
    return below / 1000, (max(math.ceil(high * 1000), below + 1)) / 1000
