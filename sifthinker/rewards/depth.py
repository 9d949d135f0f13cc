"""r_depth = 1 where every stated depth d_i is right: |d_i - d_i^gt| <= T d_i^gt, T = 0.1 (PAPER.md P5.6).

d_i^gt is the mean of the depth map inside the box that the model chose, with 3 decimals as chains state it. The
paper's sentence speaks of an absolute error and its formula of a relative one; the formula is followed.

`paper`: all or nothing over all regions of the chain. `release`: the share of regions that are right (R5.7),
read from the areas alone; a region with d_i^gt = 0 is never right.

1. A completion that is no chain is wrong, 0.0.
2. d_i^gt = 0, where the paper's quotient is undefined: only d_i = 0 is right (`paper`).
3. A region that covers at least `WHOLE_SHARE` of the image must be right like any other, but a chain with no other
   region gets 0.0 (`paper`): one whole-image box, whose depth is easily guessed, earns nothing (R5.7).
   What the formula still allows is choosing boxes of easy depth; r_bbox is what holds against that.
"""

from __future__ import annotations

from collections.abc import Sequence

from sifthinker.core import chain
from sifthinker.core.depth_maps import SummedArea
from sifthinker.core.records import Region
from sifthinker.rewards.variant import Variant

WHOLE_SHARE = 0.95  # ours: of the image's area
_ROUNDING = 1e-9  # 0.99 * 0.1 in floats must not decide


def reward(
    completions: Sequence[str], maps: Sequence[SummedArea], variant: Variant = "paper", tolerance: float = 0.1
) -> list[float]:
    """r_depth of each completion, 0..1.

    Args:
        completions: texts of the model.
        maps: depth map of each one's sample, 0 = nearest, 1 = farthest; completions of one sample share one.
        variant: "paper" (0 or 1) or "release" (a share).
        tolerance: T, relative to the true depth.

    Returns:
        One reward per completion, in order.

    Raises:
        ValueError: the two sequences are not of one length.
    """
    pairs = zip(completions, maps, strict=True)
    if variant == "release":
        return [_share(completion, depth, tolerance) for completion, depth in pairs]
    return [_all(completion, depth, tolerance) for completion, depth in pairs]


def _all(completion: str, depth: SummedArea, tolerance: float) -> float:
    try:
        steps = chain.parse(completion).steps
    except chain.Malformed:
        return 0.0
    regions = [region for step in steps for region in step.regions]
    somewhere = any(_area(region) < WHOLE_SHARE for region in regions)
    return float(somewhere and all(_is_right(region, depth, tolerance) for region in regions))


def _share(completion: str, depth: SummedArea, tolerance: float) -> float:
    regions = [region for area in chain.areas(completion) or [] for region in area]
    right = [depth.mean(region.box) > 0 and _is_right(region, depth, tolerance) for region in regions]
    return sum(right) / len(right) if right else 0.0


def _is_right(region: Region, depth: SummedArea, tolerance: float) -> bool:
    truth = round(depth.mean(region.box), 3)
    return abs(region.depth - truth) <= tolerance * truth + _ROUNDING


def _area(region: Region) -> float:
    x1, y1, x2, y2 = region.box
    return (x2 - x1) * (y2 - y1)
