"""The rewards of GRPO-SIF, each a plain function over a batch (PAPER.md P5.1).

None means "not applicable" and is left out of sums and statistics; 0 means "wrong". An exception is a bug and stops
the run. What counts is the chain that `chain.parse` reads strictly: a completion that is no chain has no regions
and gets 0 for format, grounding and depth. Each module states its formula, its source and where it departs.

    format(completions, variant)                              1 where the completion is a chain
    answer(scores, previous_means, variant, progress)         s + (s - mean of the last epoch)
    grounding(completions, truths, variant, repeats)          s_end + (s_end - s_init), s = HIoU
    depth(completions, maps, variant, tolerance)              1 where every stated depth is right

A new reward is a file here, an entry below, and a test. From the entry follow its weight in `grpo.rewards` of a
configuration, what the trainer is given, the logged metrics, the columns of `completions.parquet` and
`rewards.parquet`, the curves, the page of a training, the report, and the ablation's row without it.
"""

from collections.abc import Iterator

from sifthinker.rewards import answer, depth, format, grounding
from sifthinker.rewards.reward import Batch, Column, Reward, Values

__all__ = ["REWARDS", "Batch", "Column", "Reward", "Values", "columns", "shown"]

# Unit weights: release code; the paper states none. The order is that of columns and curves.
REWARDS: dict[str, Reward] = {
    "format": Reward(format.reward, ("texts", "settings.variant"), "the chain's format"),
    "answer": Reward(
        answer.reward,
        ("scores", "previous", "settings.variant", "settings.progress"),
        "the judged answer",
        columns=(
            Column(answer.JUDGE, mean="judge/score", shown=True),
            Column("previous", absent="rewards/answer/progress_absent"),
        ),
        details=answer.details,
    ),
    "grounding": Reward(
        grounding.reward,
        ("texts", "truths", "settings.variant", "settings.repeats"),
        "the boxes",
        columns=(
            Column("first_hiou", mean="grounding/first_hiou"),
            Column("last_hiou", mean="grounding/last_hiou"),
        ),
        details=grounding.details,
    ),
    "depth": Reward(
        depth.reward,
        ("texts", "maps", "settings.variant", "settings.depth_tolerance"),
        "the depths",
    ),
}


def columns() -> Iterator[Column]:
    """What is kept of a completion beside the rewards, in the order of `REWARDS`."""
    for reward in REWARDS.values():
        yield from reward.columns


def shown() -> tuple[str, ...]:
    """The numbers of a completion that people look at: the rewards, then the columns that say so."""
    return (*REWARDS, *(column.name for column in columns() if column.shown))
