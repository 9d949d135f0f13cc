"""r_ans = s + (s - mean of the sample's scores in the last epoch) (PAPER.md P5.4).

s in 0..1 is the judge's score; None (the judge could not be reached) stays None, never 0 (R5.3).

`paper`: signed progress, on raw scores. `release`: progress only where s >= the mean (R5.2). The release takes the
mean of the shaped rewards of the last epoch, so for that variant `Book` keeps the rewards instead of the scores. The
authors' code forgets a mean of exactly 0, and all means on a restart; that is not copied.

In a sample's first epoch there is no mean: the reward is s alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from sifthinker.rewards.variant import Variant

JUDGE = "judge"  # the column of the raw scores


def reward(
    scores: Sequence[float | None],
    previous_means: Sequence[float | None],
    variant: Variant = "paper",
    progress: bool = True,
) -> list[float | None]:
    """r_ans of each completion.

    Args:
        scores: the judge's, 0..1; None where it could not be reached.
        previous_means: of each one's sample in the last epoch (`Book.previous`); None where there is none.
        variant: "paper" (-1..2) or "release" (0..2).
        progress: False is the paper's ablation: the score alone.

    Returns:
        One reward per score, in order; None where the score is None.

    Raises:
        ValueError: the two sequences are not of one length.
    """
    rewards: list[float | None] = []
    for score, mean in zip(scores, previous_means, strict=True):
        if score is None or mean is None or not progress:
            rewards.append(score)
        else:
            gain = score - mean
            rewards.append(score + (max(0.0, gain) if variant == "release" else gain))
    return rewards


def details(
    scores: Sequence[float | None],
    previous_means: Sequence[float | None],
    variant: Variant = "paper",
    progress: bool = True,
) -> tuple[Sequence[float | None], Sequence[float | None]]:
    """What `reward` is made of, for the logs: the scores and the means as they are."""
    return scores, previous_means


class Book:
    """The scores of every sample in every epoch, and their means.

    The same scores give the same book, means and JSON, in whatever order and from whatever rank they came.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self._scores: dict[str, dict[int, list[float]]] = {}

    def add(self, sample: str, epoch: int, scores: Iterable[float | None]) -> None:
        """Enters scores of a sample's completions.

        Args:
            sample: its id.
            epoch: from 0.
            scores: finite numbers; None (no score) is left out.

        Raises:
            ValueError: a score is not a finite number.
        """
        known = [float(score) for score in scores if score is not None]
        if not all(map(math.isfinite, known)):
            raise ValueError(f"sample {sample}, epoch {epoch}: a score is not a finite number: {known}")
        if known:
            entries = self._scores.setdefault(sample, {}).setdefault(epoch, [])
            entries.extend(known)
            entries.sort()

    def enter(self, completions: Iterable[Mapping[str, Any]], epoch: int, variant: Variant) -> None:
        """Enters what progress is measured on: the judge's scores, in the variant `release` the rewards.

        Args:
            completions: rows with id and the columns "judge" and "answer".
            epoch: from 0.
            variant: "paper" or "release".
        """
        column = "answer" if variant == "release" else JUDGE
        for completion in completions:
            self.add(completion["id"], epoch, [completion[column]])

    def previous(self, sample: str, epoch: int) -> float | None:
        """Mean score of a sample in the epoch before `epoch`; None where it has none."""
        scores = self._scores.get(sample, {}).get(epoch - 1)
        return math.fsum(scores) / len(scores) if scores else None

    def to_json(self) -> dict[str, dict[str, list[float]]]:
        """Plain values for a checkpoint, sorted: {sample: {epoch: scores}}."""
        return {
            sample: {str(epoch): list(scores) for epoch, scores in sorted(epochs.items())}
            for sample, epochs in sorted(self._scores.items())
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The book that `to_json` wrote.

        Raises:
            ValueError: `values` is not what `to_json` writes.
        """
        book = cls()
        try:
            for sample, epochs in values.items():
                for epoch, scores in epochs.items():
                    book.add(sample, int(epoch), scores)
        except (AttributeError, TypeError) as error:
            raise ValueError(f"not a book of scores: {error}") from error
        return book
