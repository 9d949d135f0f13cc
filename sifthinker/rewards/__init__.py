"""The four rewards of GRPO-SIF, each a plain function over a batch (PAPER.md P5.1).

None means "not applicable" and is left out of sums and statistics; 0 means "wrong". An exception is a bug and stops
the run. What counts is the chain that `chain.parse` reads strictly: a completion that is no chain has no regions
and gets 0 for format, grounding and depth. Each module states its formula, its source and where it departs.

    format(completions, variant)                              1 where the completion is a chain
    answer(scores, previous_means, variant, progress)         s + (s - mean of the last epoch)
    grounding(completions, truths, variant)                   s_end + (s_end - s_init), s = HIoU
    depth(completions, maps, variant, tolerance)              1 where every stated depth is right
"""

from collections.abc import Callable

from sifthinker.rewards import answer, depth, format, grounding

REWARDS: dict[str, Callable[..., list[float] | list[float | None]]] = {
    "format": format.reward,
    "answer": answer.reward,
    "grounding": grounding.reward,
    "depth": depth.reward,
}
