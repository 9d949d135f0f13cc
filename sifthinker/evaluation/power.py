"""The smallest fall that a comparison would have found, and the chance that it finds a fall of a size.

The model of a fall: on a share of the images, drawn at random, every score is 0 now. On the others the replies vary as
much as they did tonight: the gains and losses that cancel each other occur again, in random places. A fall of a size
is *detectable* when the gate calls it a regression (p and margin) in at least `RATE` of the cases, with no other
benchmark falling: its p-value is then multiplied by the number of comparisons, as Holm does it.

Whole images are taken because questions about one image are not independent, which is what the test assumes. The same
fall spread over more images would be found more easily.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable

import numpy as np
from scipy import stats

from sifthinker.evaluation import gate
from sifthinker.evaluation.gate import Numbers, Paired

RATE = 0.8  # the usual power of a study
DRAWS = 400  # simulated nights; the rate is then known within 4 points
_STEPS = 14  # of halving: 1/16,000 of the score before
_RARE = 1e-9  # what is less likely is left out of a sum


def detectable(paired: Paired, margin: float, level: float) -> float | None:
    """The smallest expected fall of the mean score (0..1) that is found in `RATE` of the cases.

    Args:
        paired: the questions of the comparison.
        margin: fall, of 1, that is never called a regression.
        level: what the p-value must not exceed, after Holm: the night's level divided by its comparisons.

    Returns:
        None when not even a fall to 0 would be found.
    """
    mean = float(paired.old.mean())
    if gate.least(paired) > level or not gate.beyond(mean, margin):
        return None
    enough = (_often if paired.test == gate.MCNEMAR else _simulated)(paired, margin, level)
    low, high = 0.0, 1.0  # share of the images; all of them are enough, as was just checked
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high * mean


def chance(paired: Paired, fall: float, margin: float, level: float) -> float | None:
    """How often the gate calls a fall of the mean score a regression.

    Args:
        paired: the questions of the comparison.
        fall: expected, of 1.
        margin: as in `detectable`.
        level: as in `detectable`.

    Returns:
        A share of the cases; None where the score cannot fall so far.
    """
    mean = float(paired.old.mean())
    if fall > mean or not mean:
        return None
    if gate.least(paired) > level or not gate.beyond(mean, margin):
        return 0.0
    share = fall / mean
    if paired.test == gate.MCNEMAR:
        return _counted(paired, margin, level)(share)
    night = _nights(paired)
    falls = [night(seed, share) for seed in range(DRAWS)]
    found = [
        _p(sums) <= level and gate.beyond(-float(sums.sum()) / len(paired.old), margin) for sums in falls
    ]
    return sum(found) / DRAWS


def _counted(paired: Paired, margin: float, level: float) -> Callable[[float], float]:
    """How often a share of the questions that fall is found, exact, by McNemar's test.

    Of the questions that were right, those that fall are lost, and of the others as many as by tonight's changes. Of
    those that were wrong and do not fall, as many are won. Both numbers are binomial.
    """
    n, right = len(paired.old), int(paired.old.sum())
    cancelling = min(paired.lost, paired.won)
    losing, winning = cancelling / right, cancelling / (n - right) if right < n else 0.0
    most = int(stats.binom.isf(_RARE, n - right, winning)) if winning else 0
    won = np.arange(most + 1)
    needed = np.array([_needed(w, right, n, margin, level) for w in range(most + 1)])

    def rate(share: float) -> float:
        likely = stats.binom.pmf(won, n - right, (1 - share) * winning)
        found = stats.binom.sf(needed - 1, right, share + (1 - share) * losing)
        return float((likely * found).sum())

    return rate


def _often(paired: Paired, margin: float, level: float) -> Callable[[float], bool]:
    """Whether a share of the questions that fall is found in `RATE` of the cases."""
    rate = _counted(paired, margin, level)
    return lambda share: rate(share) >= RATE


def _needed(won: int, right: int, n: int, margin: float, level: float) -> int:
    """The fewest lost questions that are a regression; one more than there are where none is."""

    def regressed(lost: int) -> bool:
        return gate.beyond((lost - won) / n, margin) and gate.mcnemar(lost, won) <= level

    return bisect_left(range(right + 1), True, key=regressed)


def _nights(paired: Paired) -> Callable[[int, float], Numbers]:
    """Simulates nights: the sums of differences of the images, by a seed and the share of images that fall to 0.

    The same seed draws the same for every share.
    """
    before, _ = gate.by_image(paired.old, paired.images)
    changes, _ = gate.by_image(paired.changes, paired.images)
    sides = [np.abs(changes[changes < 0]), changes[changes > 0]]
    cancelling = min(sides, key=lambda side: float(side.sum()))
    often = min(0.5, len(cancelling) / len(before))  # an image gains this often, and loses as often

    def night(seed: int, share: float) -> Numbers:
        generator = np.random.default_rng(seed)
        fallen = generator.random(len(before)) < share
        if not len(cancelling):
            return np.where(fallen, -before, 0.0)
        side, size = generator.random(len(before)), generator.choice(cancelling, len(before))
        other = np.where(side < often, size, np.where(side < 2 * often, -size, 0.0))
        return np.where(fallen, -before, other)

    return night


def _simulated(paired: Paired, margin: float, level: float) -> Callable[[float], bool]:
    """Whether a share of the images that fall is found in `RATE` of the cases, by simulation of the test by swaps.

    The simulated nights are put in the order of their standardised falls, and the one that `RATE` of them exceed is
    tested.
    """
    night = _nights(paired)

    def enough(share: float) -> bool:
        nights = [
            (_standardised(sums), float(sums.sum()), sums) for sums in map(_at(night, share), range(DRAWS))
        ]
        place = math.ceil(RATE * DRAWS) - 1
        fall = sorted(-total / len(paired.old) for _, total, _ in nights)[DRAWS - 1 - place]
        _, _, sums = sorted(nights, key=lambda made: made[0])[place]
        return _p(sums) <= level and gate.beyond(fall, margin)

    return enough


def _p(sums: Numbers) -> float:
    """The p-value of the test by swaps; where more than `gate.EXACT` images changed, by the normal approximation."""
    if int((sums != 0).sum()) <= gate.EXACT:
        return gate.swapped(sums)
    return float(stats.norm.cdf(_standardised(sums)))


def _at(night: Callable[[int, float], Numbers], share: float) -> Callable[[int], Numbers]:
    return lambda seed: night(seed, share)


def _standardised(sums: Numbers) -> float:
    """The fall in standard deviations of what random swaps give; negative where it is a fall."""
    spread = math.sqrt(float((sums * sums).sum()))
    return float(sums.sum()) / spread if spread else 0.0
