"""Intervals and tests for scores.

Accuracies get Wilson intervals; every other score, and accuracies of several questions about one image, a bootstrap that
draws whole clusters (images), because the questions about one image are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
Weights = NDArray[np.float64]  # (rows,), how often each row was drawn


def wilson(right: float, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a share `right / n`, in 0..1; (0, 1) when nothing was asked (Wilson, 1927)."""
    if n == 0:
        return 0.0, 1.0
    from scipy import stats  # a second to import, and every command imports this module

    z = float(stats.norm.ppf(0.5 + level / 2))
    share = right / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At 0 and n the bound is the share itself; rounding must not put it outside the interval.
    return min(share, max(0.0, (centre - spread) / scale)), max(share, min(1.0, (centre + spread) / scale))


def bootstrap(
    statistic: Callable[[Weights], float],
    clusters: Sequence[str],
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of `statistic` under drawing clusters of rows with replacement.

    Args:
        statistic: the score when row i counts `weights[i]` times; NaN when it is undefined for that draw.
        clusters: the cluster (image) of each row.
        draws: how many data sets are drawn.
        level: coverage.
        seed: same seed, same interval.
    """
    _, member = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    groups = int(member.max()) + 1
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        drawn = np.bincount(generator.integers(0, groups, groups), minlength=groups)
        values.append(statistic(drawn[member].astype(np.float64)))
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p-values, by name: comparable with the level itself (Holm, 1979)."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
