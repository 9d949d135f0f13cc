"""r_bbox = s_end + (s_end - s_init), s = HIoU with the ground truth (PAPER.md P5.5).

s_init is of the first area that is not exactly the whole image (the whole image where there is no other), s_end of
the last area. `paper`: signed. `release`: the progress is clipped, s_end + max(0, s_end - s_init) (R5.4).

1. A completion that is no chain is wrong, 0.0. A chain with bad boxes can score less (down to -1), but it has
   r_format = 1 on top, so with unit weights breaking the format never pays.
2. `release` reads the areas alone (`chain.areas`), as the authors' code does: the rest of the format may be broken.
   Where an area cannot be read the completion gets 0.0.
3. The paper's formula itself rewards a bad first box: s_end = 0.9 gives 0.9 after s_init = 0.9 and 1.8 after
   s_init = 0 (R5.5). It is kept as the paper has it; `scores` gives both parts, so that a falling
   s_init shows in the logs.
4. Spam boxes: pair IoU counts matched pairs only (the paper's 1/|M|, R5.6), so they do not lower that half of
   HIoU; they do lower union IoU, the other half.
5. HIoU does not see a box that is there twice: it is 1 for the true boxes with one of them repeated, so r_bbox cannot teach
   how many there are. `repeats` (ours, 0 unless it is set) is taken off times the share of the last area's boxes that
   repeat an earlier one of it. It is not in the progress, so that what is repeated costs the same in every chain.
"""

from __future__ import annotations

from collections.abc import Sequence

from sifthinker.core import boxes, chain
from sifthinker.core.records import WHOLE, Box, Region
from sifthinker.rewards.variant import Variant

REPEATED = 0.5  # IoU with an earlier box of the area from which a box repeats it


def reward(
    completions: Sequence[str],
    truths: Sequence[Sequence[Box]],
    variant: Variant = "paper",
    repeats: float = 0.0,
) -> list[float]:
    """r_bbox of each completion.

    Args:
        completions: texts of the model.
        truths: ground-truth boxes of each one's sample, 0..1 of the image.
        variant: "paper" (-1..2) or "release" (0..2).
        repeats: what an area of nothing but repeated boxes would cost.

    Returns:
        One reward per completion, in order; 0.0 for one that cannot be read.

    Raises:
        ValueError: the two sequences are not of one length.
    """
    rewards = []
    for completion, truth in zip(completions, truths, strict=True):
        parts = scores(completion, truth, variant)
        if parts is None:
            rewards.append(0.0)
            continue
        first, last = parts
        progress = last - first
        cost = repeats * repeated(completion, variant) if repeats else 0.0
        rewards.append(last + (max(0.0, progress) if variant == "release" else progress) - cost)
    return rewards


def repeated(completion: str, variant: Variant = "paper") -> float:
    """The share of the last area's boxes that repeat an earlier one of it, 0..1; 0 of a completion without an area."""
    looks = _looks(completion, variant)
    if not looks or not looks[-1]:
        return 0.0
    last = looks[-1]
    again = [
        any(boxes.iou(box, earlier) > REPEATED for earlier in last[:place]) for place, box in enumerate(last)
    ]
    return sum(again) / len(last)


def details(
    completions: Sequence[str],
    truths: Sequence[Sequence[Box]],
    variant: Variant = "paper",
    repeats: float = 0.0,
) -> tuple[list[float | None], list[float | None]]:
    """The two parts of every completion's r_bbox, for the logs: all s_init, and all s_end; see `scores`.

    They are without what repeated boxes cost.
    """
    parts = [scores(text, truth, variant) for text, truth in zip(completions, truths, strict=True)]
    return [part and part[0] for part in parts], [part and part[1] for part in parts]


def scores(completion: str, truth: Sequence[Box], variant: Variant = "paper") -> tuple[float, float] | None:
    """The two parts of r_bbox.

    Args:
        completion: text of the model.
        truth: ground-truth boxes of its sample, 0..1 of the image.
        variant: how the completion is read: "paper" (a strict chain) or "release" (its areas alone).

    Returns:
        (s_init, s_end), each an HIoU in 0..1; None if the completion cannot be read or has no area.
    """
    looks = _looks(completion, variant)
    if not looks:
        return None
    first = next((look for look in looks if look != [WHOLE]), [WHOLE])
    return boxes.hiou(first, truth), boxes.hiou(looks[-1], truth)


def _looks(completion: str, variant: Variant) -> list[list[Box]] | None:
    """The boxes of each area, in order."""
    areas: Sequence[Sequence[Region]] | None
    if variant == "release":
        areas = chain.areas(completion)
    else:
        try:
            areas = [step.regions for step in chain.parse(completion).steps]
        except chain.Malformed:
            areas = None
    return None if areas is None else [[region.box for region in area] for area in areas]
