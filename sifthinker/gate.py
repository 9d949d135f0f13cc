"""Is one set of replies worse than another? Paired tests on the same questions, one level over all comparisons.

The gate works on the `strict` scores of single questions, whatever the benchmark makes of them later (pairs, F1,
points): the mean over the questions that both sets have. A benchmark has regressed when the hypothesis "its mean did
not fall by more than the margin" is rejected at `level`, adjusted by Holm over all comparisons that are made at once.
A set of comparisons in which nothing fell by more than its margin is therefore refused with a chance of at most
`level`, and with a smaller one the farther the true differences are from the margins.

* Verdicts right or wrong, and an image of its own for each question: McNemar's test; with a margin above 0 its score
  form (Tango, Statistics in Medicine 17, 1998), never less than the exact test without a margin, which guards small
  counts. Interval: the same score inverted.
* Otherwise (graded scores, several questions about an image): bootstrap of the difference, drawing whole images.
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

DRAWS = 10_000  # the smallest p-value is 1e-4: below 0.01 / 50, so that 50 comparisons can be held at 1 %
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
    p: float  # of "not worse by more than the margin"
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
        p, (low, high) = mcnemar(lost, won, len(pairs), margin), interval(lost, won, len(pairs))
    else:
        test = "bootstrap"
        p, (low, high) = bootstrap(new - old, images, margin)
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
        replace(comparison, adjusted=p, regressed=p <= level)
        for comparison, p in zip(made, adjusted.values(), strict=True)
    ]


def mcnemar(lost: int, won: int, n: int, margin: float = 0.0) -> float:
    """One-sided p-value of "the share of right replies did not fall by more than `margin`".

    Args:
        lost: questions that were right and are wrong.
        won: questions that were wrong and are right.
        n: all questions.
        margin: of 1.
    """
    exact = float(stats.binom.sf(lost - 1, lost + won, 0.5)) if lost else 1.0
    return max(exact, float(stats.norm.cdf(_score(lost, won, n, -margin)))) if margin else exact


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


def bootstrap(
    differences: Numbers, images: Sequence[str], margin: float, level: float = 0.95, seed: int = 0
) -> tuple[float, Interval]:
    """One-sided p-value as `mcnemar`'s and percentile interval of the mean of differences, drawing whole images.

    The p-value is that of the drawn means, moved so that their centre is -margin (Davison & Hinkley, 1997, 4.4).
    """
    _, member = np.unique(np.asarray(images, dtype=str), return_inverse=True)
    sums, counts = np.bincount(member, differences), np.bincount(member)
    generator = np.random.default_rng(seed)
    means = np.empty(DRAWS)
    for draw in range(DRAWS):
        drawn = generator.integers(0, len(sums), len(sums))
        means[draw] = sums[drawn].sum() / counts[drawn].sum()
    mean = float(differences.mean())
    as_low = int((means - mean - margin <= mean + 1e-12).sum())
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return (1 + as_low) / (DRAWS + 1), (float(low), float(high))


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
