"""Whether boxes are those of the ground truth, in whatever order."""

from __future__ import annotations

from collections.abc import Sequence

from sifthinker.core.records import Box


def same_boxes(found: Sequence[Box], truth: Sequence[Box], margins: Sequence[float]) -> bool:
    """Whether each of `found` is another one of `truth`, every edge to within its margin, and none is left.

    Expansion and rounding move edges by a pixel, so that sorted lists of near boxes need not be in one order.

    Args:
        found: boxes.
        truth: boxes in the same frame.
        margins: for x1, y1, x2 and y2, in that frame.
    """
    if len(found) != len(truth):
        return False
    near = [
        [all(abs(a - b) <= m for a, b, m in zip(one, other, margins, strict=True)) for other in truth]
        for one in found
    ]
    if not all(map(any, near)):
        return False
    if all(sum(row) == 1 for row in near):
        return len({row.index(True) for row in near}) == len(truth)
    from scipy.optimize import linear_sum_assignment  # 0.7 s, which a command need not wait for

    return all(near[i][j] for i, j in zip(*linear_sum_assignment(near, maximize=True), strict=True))
