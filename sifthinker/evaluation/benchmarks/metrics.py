"""Aggregations that several benchmarks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from sifthinker.evaluation import statistics
from sifthinker.evaluation.benchmarks.question import REFUSALS, Measure, Result
from sifthinker.evaluation.statistics import Weights

Statistic = Callable[[Weights], float]


def groups(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each group, groups in order of appearance."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result[0].group, []).append(result)
    return found


def unparsable(results: Sequence[Result]) -> int:
    """How many replies could not be read."""
    return sum(bool(verdict.unparsable) for _, verdict in results)


def refused(results: Sequence[Result]) -> int:
    """How many replies declined, or said that they see no picture."""
    return sum(verdict.unparsable in REFUSALS for _, verdict in results)


def accuracy(metric: str, results: Sequence[Result]) -> Measure:
    """Share of right answers with its Wilson interval.

    Where several are about one image, it is at least as wide as a bootstrap over images: Wilson's takes them for
    independent. The bootstrap alone would be too narrow for few images.
    """
    right = sum(verdict.score for _, verdict in results)
    n = len(results)
    low, high = statistics.wilson(right, n)
    if len({cluster(result) for result in results}) < n:
        of_images = clustered(metric, results, share(results), "share")
        low, high = min(low, of_images.low), max(high, of_images.high)
    return Measure(
        metric, right / n if n else 0.0, n, unparsable(results), refused(results), low, high, "share"
    )


def clustered(
    metric: str,
    results: Sequence[Result],
    statistic: Statistic,
    unit: Literal["share", "points"],
    draws: int = 1000,
    top: float | None = None,
) -> Measure:
    """A score that is no plain share: `statistic` of all rows, with a bootstrap over images.

    Rows that are all wrong, or all right, have a bootstrap of no width: then it is Wilson's interval for as many
    images, of a score of 0 to `top` (a share's 1, or 100 points).
    """
    images = [cluster(result) for result in results]
    low, high = statistics.bootstrap(statistic, images, draws)
    value = statistic(np.ones(len(results)))
    top = top or {"share": 1.0, "points": 100.0}[unit]
    if low == high and value in (0, top):
        count = len(set(images))
        low, high = (top * bound for bound in statistics.wilson(count * value / top, count))
    return Measure(metric, value, len(results), unparsable(results), refused(results), low, high, unit)


def combined(
    metric: str,
    parts: Sequence[tuple[Sequence[Result], Statistic, float]],
    unit: Literal["share", "points"],
    draws: int = 1000,
    top: float | None = None,
) -> Measure:
    """The sum of several parts' statistics, each times its factor: a macro average, or a total of up to `top`."""
    edges = np.cumsum([len(rows) for rows, _, _ in parts])[:-1]

    def total(weights: Weights) -> float:
        shares = np.split(weights, edges)
        return sum(factor * of(part) for (_, of, factor), part in zip(parts, shares, strict=True))

    return clustered(metric, [row for rows, _, _ in parts for row in rows], total, unit, draws, top)


def share(results: Sequence[Result]) -> Statistic:
    """The mean score of rows that count `weights` times each."""
    scores = np.array([verdict.score for _, verdict in results])
    return lambda weights: mean(scores, weights)


def cluster(result: Result) -> str:
    """The image that a result's question is about."""
    question = result[0]
    return question.cluster or (question.image if isinstance(question.image, str) else question.id)


def mean(values: Weights, weights: Weights) -> float:
    """Weighted mean; NaN without weight, so that the bootstrap leaves such a draw out."""
    total = float(weights.sum())
    return float(values @ weights) / total if total else float("nan")
