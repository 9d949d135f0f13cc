"""Is one set of replies worse than another? Paired tests on the same questions, one level over all comparisons.

The gate works on the `strict` scores of single questions, whatever the benchmark makes of them later (pairs, F1,
points): the mean over the questions that both sets have. A benchmark has regressed when

* its fall is significant: the one-sided test of "not worse" has a p-value of at most `level`, adjusted by Holm over
  all comparisons that are made at once. A model that did not change is therefore refused with a chance of at most
  `level`, however many benchmarks there are and however its replies vary; and
* its mean fell by more than the benchmark's margin, which a significant but small fall on many questions need not.

The test where verdicts are right or wrong and each question has an image of its own: McNemar's, exact. Otherwise
(graded scores, several questions about an image) its generalisation: had nothing changed, before and after could be
swapped image by image, so the fall is compared with those under random swaps. The interval of the difference is
Tango's score interval (Statistics in Medicine 17, 1998) in the first case, else a bootstrap that draws whole images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from sifthinker import statistics
from sifthinker.sample import read
from sifthinker.statistics import Interval

SWAPS = 100_000  # the smallest p-value is 1e-5, so that a hundred comparisons can be held at 0.1 %
DRAWS = 2_000  # of the bootstrap
COLUMNS = ["benchmark", "id", "group", "question", "reference", "image_sha256", "strict"]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The scored reply to one question."""

    question: tuple[
        str, ...
    ]  # what makes it the same question in two sets: id, group, text, reference, image
    image: str  # SHA-256
    strict: float  # 1 = right, 0 = wrong, in between where the rule is graded


@dataclass(frozen=True, slots=True)
class Comparison:
    """One benchmark, later against earlier. Means and differences are of 1."""

    benchmark: str
    against: str  # what it is compared with: "last good night", "baseline"
    n: int  # questions that both have
    unpaired: int  # questions that only one of them has
    before: float
    after: float
    low: float  # 95 % interval of after - before
    high: float
    lost: int  # questions with a lower score than before
    won: int
    test: str
    margin: float
    p: float  # of "not worse", one-sided
    adjusted: float = math.nan  # the same, by Holm over all comparisons at once
    regressed: bool = False

    @property
    def difference(self) -> float:
        return self.after - self.before


def load(predictions: Path) -> dict[str, list[Verdict]]:
    """The scored replies of a `predictions.parquet` by benchmark; those with a hidden reference are left out."""
    found: dict[str, list[Verdict]] = {}
    for row in read(predictions, COLUMNS):
        if row["strict"] is not None:
            of = tuple(row[name] for name in COLUMNS[1:-1])
            found.setdefault(row["benchmark"], []).append(Verdict(of, row["image_sha256"], row["strict"]))
    return found


def compare(
    benchmark: str, against: str, before: Sequence[Verdict], after: Sequence[Verdict], margin: float
) -> Comparison | None:
    """One benchmark's two sets of replies, not yet adjusted; None when no question is in both."""
    earlier = {verdict.question: verdict for verdict in before}
    pairs = [(earlier[v.question].strict, v) for v in after if v.question in earlier]
    if not pairs:
        return None
    old = np.array([score for score, _ in pairs])
    new = np.array([verdict.strict for _, verdict in pairs])
    images = [verdict.image for _, verdict in pairs]
    lost, won = int((new < old).sum()), int((new > old).sum())
    binary = bool(np.isin(old, (0, 1)).all() and np.isin(new, (0, 1)).all())
    if binary and len(set(images)) == len(images):
        test = "McNemar"
        p, (low, high) = mcnemar(lost, won), interval(lost, won, len(pairs))
    else:
        test = "swaps"
        p, (low, high) = swaps(new - old, images), bootstrap(new - old, images)
    return Comparison(
        benchmark,
        against,
        len(pairs),
        len(before) + len(after) - 2 * len(pairs),
        float(old.mean()),
        float(new.mean()),
        low,
        high,
        lost,
        won,
        test,
        margin,
        p,
    )


def judge(comparisons: Iterable[Comparison], level: float) -> list[Comparison]:
    """The comparisons with their adjusted p-values, and whether each regressed; one family, held at `level`."""
    made = list(comparisons)
    adjusted = statistics.holm({str(index): comparison.p for index, comparison in enumerate(made)})
    return [
        replace(comparison, adjusted=p, regressed=p <= level and comparison.difference < -comparison.margin)
        for comparison, p in zip(made, adjusted.values(), strict=True)
    ]


def mcnemar(lost: int, won: int) -> float:
    """Exact one-sided p-value of "right replies did not become fewer".

    Args:
        lost: questions that were right and are wrong.
        won: questions that were wrong and are right.
    """
    return float(stats.binom.sf(lost - 1, lost + won, 0.5)) if lost else 1.0


def swaps(differences: Numbers, images: Sequence[str], seed: int = 0) -> float:
    """One-sided p-value of "the scores did not fall" (after - before), by swapping before and after of whole images."""
    sums = _by_image(differences, images)[0]
    sums = sums[sums != 0]
    generator = np.random.default_rng(seed)
    observed, as_low = float(sums.sum()), 0
    for _ in range(0, SWAPS, 500):  # in pieces, for large benchmarks
        signs = generator.integers(0, 2, (500, len(sums))) * 2.0 - 1.0
        as_low += int((signs @ sums <= observed + 1e-9).sum())
    return (1 + as_low) / (1 + SWAPS)


def interval(lost: int, won: int, n: int, level: float = 0.95) -> Interval:
    """Tango's score interval of the difference of two paired shares (after - before)."""
    z = float(stats.norm.ppf(0.5 + level / 2))
    edge = 1 - 1e-9
    estimate = (won - lost) / n

    def bound(sign: int) -> float:
        """Where the score is sign * z; it falls from one end to the other."""
        far = -sign * edge
        if (_score(lost, won, n, far) - sign * z) * sign <= 0:
            return float(-sign)
        return float(optimize.brentq(lambda d: _score(lost, won, n, d) - sign * z, *sorted((far, estimate))))

    return bound(1), bound(-1)


def bootstrap(differences: Numbers, images: Sequence[str], level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile interval of the mean of differences, drawing whole images."""
    sums, counts = _by_image(differences, images)
    generator = np.random.default_rng(seed)
    means = np.empty(DRAWS)
    for draw in range(DRAWS):
        drawn = generator.integers(0, len(sums), len(sums))
        means[draw] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _by_image(differences: Numbers, images: Sequence[str]) -> tuple[Numbers, Numbers]:
    """The sum and the number of the differences of each image."""
    _, member = np.unique(np.asarray(images, dtype=str), return_inverse=True)
    sums: Numbers = np.bincount(member, differences).astype(np.float64)
    return sums, np.bincount(member).astype(np.float64)


def _score(lost: int, won: int, n: int, difference: float) -> float:
    """Tango's score statistic of a true difference (after - before); 0 where the data are what it says."""
    b = (2 * n - won + lost) * difference - won - lost
    c = -lost * difference * (1 - difference)
    # The share of lost questions, estimated under that difference.
    share = max(0.0, (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n))
    distance = won - lost - n * difference
    variance = n * (2 * share + difference * (1 - difference))
    if variance <= 1e-12:
        return 0.0 if abs(distance) < 1e-12 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def table(comparisons: Sequence[Comparison]) -> str:
    """The comparisons in Markdown, what regressed first; all of 100."""
    lines = [
        "| benchmark | against | before | after | difference | 95 % interval | lost / won | margin | p (Holm) | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for c in sorted(comparisons, key=lambda c: (not c.regressed, c.adjusted)):
        lines.append(
            f"| {c.benchmark} | {c.against} | {100 * c.before:.1f} | {100 * c.after:.1f} "
            f"| {100 * c.difference:+.1f} | {100 * c.low:+.1f} to {100 * c.high:+.1f} | {c.lost} / {c.won} of {c.n} "
            f"| {100 * c.margin:.1f} | {c.adjusted:.2g} | {'**regressed**' if c.regressed else ''} |"
        )
    return "\n".join(lines)
