"""Is one set of replies worse than another? Paired tests on the same questions, one level over all comparisons.

The gate works on the `strict` scores of single questions, whatever the benchmark makes of them later (pairs, F1,
points): the mean over the questions that both sets have. A benchmark has regressed when

* its fall is significant: the one-sided test of "not worse" has a p-value of at most `level`, adjusted by Holm over
  all comparisons that are made at once. A model that did not change is therefore refused with a chance of at most
  `level`, however many benchmarks there are and however its replies vary; and
* its mean fell by more than the benchmark's margin, which a significant but small fall on many questions need not.

A comparison on few questions may be unable to fail: even when every score falls to 0, its p-value stays above the level.
`Comparison.able` says whether it could have failed. power.py says how large a fall it would have found.

The test where verdicts are right or wrong and each question has an image of its own: McNemar's, exact. Otherwise
(graded scores, several questions about an image) its generalisation: had nothing changed, before and after could be
swapped image by image, so the fall is compared with those under all swaps, or under many random ones where more than
`EXACT` images changed. The interval of the difference is
Tango's score interval (Statistics in Medicine 17, 1998) in the first case, else a bootstrap that draws whole images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from sifthinker.core.tables import read
from sifthinker.evaluation import failures, statistics
from sifthinker.evaluation.statistics import Interval

EXACT = 16  # up to so many images that changed, all swaps are tried
SWAPS = 100_000  # of more images; the smallest p-value is 1e-5: a hundred comparisons can be held at 0.1 %
DRAWS = 2_000  # of the bootstrap
MCNEMAR, BY_IMAGE = "McNemar", "swaps"
COLUMNS = ["benchmark", "id", "group", "question", "reference", "image_sha256", "strict"]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScoredReply:
    """The scored reply to one question."""

    question: tuple[str, ...]  # id, group, text, reference, image: equal in two sets for the same question
    image: str  # SHA-256
    strict: float  # 1 = right, 0 = wrong, in between where the rule is graded
    failures: frozenset[str] = frozenset()  # keys of `failures.KINDS`


@dataclass(frozen=True, slots=True, eq=False)
class Paired:
    """The questions that two sets of replies share, one row a question."""

    old: Numbers  # (questions,) strict scores before
    new: Numbers  # (questions,) strict scores after
    images: tuple[str, ...]  # (questions,) SHA-256
    # By kind of failure that occurs: (questions,) before and after, 1 where the reply fails in that way.
    failed: Mapping[str, tuple[Numbers, Numbers]] = field(default_factory=dict)

    @property
    def unparsable(self) -> tuple[float, float]:
        """Share of the replies that could not be read, before and after."""
        before, after = self.failed.get(failures.UNPARSABLE, (np.zeros(1), np.zeros(1)))
        return float(before.mean()), float(after.mean())

    @property
    def changes(self) -> Numbers:
        """The score after less that before, (questions,)."""
        return self.new - self.old

    @property
    def test(self) -> str:
        """The test that fits: McNemar's where scores are 0 or 1 and each question has its own image, else swaps."""
        binary = bool(np.isin(self.old, (0, 1)).all() and np.isin(self.new, (0, 1)).all())
        return MCNEMAR if binary and len(set(self.images)) == len(self.images) else BY_IMAGE

    def equals(self, other: Paired) -> bool:
        """Whether both say the same of the same questions, so that comparing twice would be one comparison."""
        return (
            self.images == other.images
            and np.array_equal(self.old, other.old)
            and np.array_equal(self.new, other.new)
            and self.failed.keys() == other.failed.keys()
            and all(np.array_equal(self.failed[kind], other.failed[kind]) for kind in self.failed)
        )

    @property
    def lost(self) -> int:
        """Questions with a lower score than before."""
        return int((self.new < self.old).sum())

    @property
    def won(self) -> int:
        """Questions with a higher score than before."""
        return int((self.new > self.old).sum())


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
    least: float = 0.0  # the smallest p that it can have: everything falls to 0
    unparsable_before: float = 0.0  # share of the n replies, of 1
    unparsable_after: float = 0.0
    adjusted: float = math.nan  # p by Holm over all comparisons at once
    regressed: bool = False
    reachable: float = math.nan  # `least` by Holm, when this benchmark alone falls
    able: bool = False  # it could have regressed, had everything fallen to 0
    detectable: float | None = None  # the smallest fall, of 1, that is found in 80 % of the cases: power.py

    @property
    def difference(self) -> float:
        """The mean after less that before."""
        return self.after - self.before

    @property
    def fell(self) -> bool:
        """By more than the margin, significant or not."""
        return beyond(-self.difference, self.margin)


def load(predictions: Path) -> dict[str, list[ScoredReply]]:
    """The scored replies of a `predictions.parquet` by benchmark; those with a hidden reference are left out."""
    found: dict[str, list[ScoredReply]] = {}
    for row in read(predictions, [*COLUMNS, *failures.COLUMNS]):
        if row["strict"] is not None:
            of = tuple(row[name] for name in COLUMNS[1:-1])
            reply = ScoredReply(of, row["image_sha256"], row["strict"], failures.kinds(row))
            found.setdefault(row["benchmark"], []).append(reply)
    return found


def pair(before: Sequence[ScoredReply], after: Sequence[ScoredReply]) -> Paired | None:
    """The questions that both have, in the order of `after`; None when there are none."""
    earlier = {reply.question: reply for reply in before}
    pairs = [(earlier[reply.question], reply) for reply in after if reply.question in earlier]
    if not pairs:
        return None
    return Paired(
        np.array([old.strict for old, _ in pairs], dtype=np.float64),
        np.array([new.strict for _, new in pairs], dtype=np.float64),
        tuple(new.image for _, new in pairs),
        {kind: sides for kind in failures.KINDS if any(map(np.any, sides := _failing(pairs, kind)))},
    )


def _failing(pairs: Sequence[tuple[ScoredReply, ScoredReply]], kind: str) -> tuple[Numbers, Numbers]:
    """Which replies fail in one way, before and after: (questions,) each."""
    before = np.array([kind in old.failures for old, _ in pairs], dtype=np.float64)
    return before, np.array([kind in new.failures for _, new in pairs], dtype=np.float64)


def compare(
    benchmark: str, against: str, before: Sequence[ScoredReply], after: Sequence[ScoredReply], margin: float
) -> Comparison | None:
    """Compares two sets of replies to one benchmark, p not yet adjusted; None when they share no question."""
    paired = pair(before, after)
    if paired is None:
        return None
    unpaired = len(before) + len(after) - 2 * len(paired.old)
    return compare_pairs(benchmark, against, paired, unpaired, margin)


def compare_pairs(benchmark: str, against: str, paired: Paired, unpaired: int, margin: float) -> Comparison:
    """`compare` where the questions are paired already."""
    n, lost, won = len(paired.old), paired.lost, paired.won
    if paired.test == MCNEMAR:
        p, (low, high) = mcnemar(lost, won), interval(lost, won, n)
    else:
        p = swaps(paired.changes, paired.images)
        low, high = bootstrap(paired.changes, paired.images)
    return Comparison(
        benchmark,
        against,
        n,
        unpaired,
        float(paired.old.mean()),
        float(paired.new.mean()),
        low,
        high,
        lost,
        won,
        paired.test,
        margin,
        p,
        least(paired),
        *paired.unparsable,
    )


def judge(comparisons: Iterable[Comparison], level: float) -> list[Comparison]:
    """The comparisons with their adjusted p-values, and whether each regressed; one family, held at `level`.

    The least adjusted p that a comparison can reach is that of a fall of this benchmark alone, so it is multiplied by
    the number of comparisons: a night in which another benchmark falls as well has failed already.
    """
    made = list(comparisons)
    adjusted = statistics.holm({str(index): comparison.p for index, comparison in enumerate(made)})
    return [
        replace(
            comparison,
            adjusted=p,
            regressed=p <= level and comparison.fell,
            reachable=(reachable := min(1.0, len(made) * comparison.least)),
            able=reachable <= level and beyond(comparison.before, comparison.margin),
        )
        for comparison, p in zip(made, adjusted.values(), strict=True)
    ]


def least(paired: Paired) -> float:
    """The p-value when every score falls to 0. No replies to these questions can give a smaller one."""
    if paired.test == MCNEMAR:
        return float(0.5 ** int(paired.old.sum()))
    # All of these images fall in one of 2^images swaps.
    images = int((by_image(paired.old, paired.images)[0] > 0).sum())
    return float(0.5**images if images <= EXACT else (1 + SWAPS * 0.5**images) / (1 + SWAPS))


def beyond(fall: float, margin: float) -> bool:
    """Whether a fall is larger than the margin. Rounding does not count: 0.70 - 0.69 is not larger than 0.01."""
    return fall > margin + 1e-9


def mcnemar(lost: int, won: int) -> float:
    """Exact one-sided p-value of "right replies did not become fewer".

    Args:
        lost: questions that were right and are wrong.
        won: questions that were wrong and are right.
    """
    return float(stats.binom.sf(lost - 1, lost + won, 0.5)) if lost else 1.0


def swaps(differences: Numbers, images: Sequence[str]) -> float:
    """One-sided p-value of "the scores did not fall" (after - before), by swapping before and after of whole images."""
    return swapped(by_image(differences, images)[0])


def swapped(sums: Numbers, seed: int = 0) -> float:
    """`swaps` of the sums (images,) of the differences of each image: exact up to `EXACT` images, else by draws."""
    sums = sums[sums != 0]
    observed = float(sums.sum()) + 1e-9
    if len(sums) <= EXACT:
        totals = np.zeros(1)
        for value in sums:
            totals = np.concatenate((totals - value, totals + value))
        return float((totals <= observed).mean())
    generator = np.random.default_rng(seed)
    as_low = 0
    for _ in range(0, SWAPS, 500):  # in pieces, for large benchmarks
        signs = generator.integers(0, 2, (500, len(sums))) * 2.0 - 1.0
        as_low += int((signs @ sums <= observed).sum())
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
    sums, counts = by_image(differences, images)
    generator = np.random.default_rng(seed)
    means = np.empty(DRAWS)
    for draw in range(DRAWS):
        drawn = generator.integers(0, len(sums), len(sums))
        means[draw] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def by_image(differences: Numbers, images: Sequence[str]) -> tuple[Numbers, Numbers]:
    """The sum and the number of the differences of each image."""
    _, member = np.unique(np.asarray(images, dtype=str), return_inverse=True)
    sums: Numbers = np.bincount(member, differences).astype(np.float64)
    return sums, np.bincount(member).astype(np.float64)


def _score(lost: int, won: int, n: int, difference: float) -> float:
    """Tango's score statistic for an assumed difference (after - before); 0 where the data show just that difference."""
    b = (2 * n - won + lost) * difference - won - lost
    c = -lost * difference * (1 - difference)
    # The share of lost questions, estimated under that difference.
    share = max(0.0, (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n))
    distance = won - lost - n * difference
    variance = n * (2 * share + difference * (1 - difference))
    if variance <= 1e-12:
        return 0.0 if abs(distance) < 1e-12 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)
