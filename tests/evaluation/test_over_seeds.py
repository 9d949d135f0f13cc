"""Rows of several seeds compared: the error has the questions' part and the seeds', and a difference of nothing is not found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from sifthinker.evaluation import gate, over_seeds


def replies(values: list[float], images: list[str] | None = None) -> list[gate.ScoredReply]:
    shown = images or [str(i) for i in range(len(values))]
    return [
        gate.ScoredReply((str(i),), image, value)
        for i, (value, image) in enumerate(zip(values, shown, strict=True))
    ]


def test_by_hand_with_the_same_seeds_in_both_rows() -> None:
    """Four questions, two seeds. Differences by question: 0.5, 1, 0, 0.5; by seed: 0.75, 0.25."""
    before = {0: replies([0, 0, 1, 0]), 1: replies([0, 0, 1, 0])}
    after = {0: replies([1, 1, 1, 1]), 1: replies([0, 1, 1, 0])}
    found = over_seeds.compare(before, after)
    assert found and found.questions == 4 and found.mean == pytest.approx(0.5)
    by_questions = (0 + 0.25 + 0.25 + 0) / 16 * 4 / 3
    by_seeds = 0.125 / 2  # variance of 0.75 and 0.25, over two
    assert found.p == pytest.approx(_convolved(0.5, (by_questions, 3), (by_seeds, 1)))
    assert (found.low, found.high) == (-1, 1)
    sure = over_seeds.Part(by_questions / 25, 3), over_seeds.Part(by_seeds / 25, 1)
    half = over_seeds.half_width(sure)
    assert _convolved(half, *((part.variance, part.freedom) for part in sure)) == pytest.approx(
        0.05, rel=1e-4
    )


def _convolved(size: float, one: tuple[float, float], other: tuple[float, float]) -> float:
    """P(|X + Y| >= size) of two scaled Student variables (variance, degrees of freedom), by their convolution."""
    (a, b), (first, second) = (math.sqrt(variance) for variance, _ in (one, other)), (one[1], other[1])

    def at(x: float) -> float:
        return float(stats.t.pdf(x, first) * 2 * stats.t.sf((size - a * x) / b, second))

    return float(integrate.quad(at, -math.inf, math.inf)[0])


@pytest.mark.parametrize("size", [0.1, 5.0, 1e3, 1e6])
def test_two_seeds_and_two_questions_are_two_cauchy_variables(size: float) -> None:
    """With one degree of freedom each the sum is a Cauchy variable whose scale is the sum of both: 2 + 3."""
    found = over_seeds.tail(size, [over_seeds.Part(4, 1), over_seeds.Part(9, 1)])
    assert found == pytest.approx(2 * stats.cauchy.sf(size / 5), rel=1e-7)


@pytest.mark.parametrize("freedom", [1, 2, 4, 40, math.inf])
def test_one_part_alone_is_the_t_test(freedom: float) -> None:
    part = over_seeds.Part(4.0, freedom)
    for size in (0.0, 1.0, 12.0):
        assert over_seeds.tail(size, [part]) == pytest.approx(2 * stats.t.sf(size / 2, freedom), rel=1e-7)
        assert over_seeds.tail(size, [part, over_seeds.Part(0.0, 1)]) == pytest.approx(
            over_seeds.tail(size, [part]), rel=1e-7
        )
    assert over_seeds.half_width([part]) == pytest.approx(2 * stats.t.ppf(0.975, freedom), rel=1e-5)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_large_table_of_nothing_shows_nothing(seeds: int) -> None:
    """Seeds 5 points apart, questions that add 1: Holm's level in a table of 150 tests is 0.05 / 150 = 0.00033.

    Of 15,000 tests 5 are to be under it, by chance up to 10 (in 99 of 100 cases).
    """
    rng = np.random.default_rng(3)
    level, questions = 0.05 / 150, over_seeds.Part(0.01**2, 299)
    found = by_satterthwaite = 0
    for of in rng.normal(0, 0.05, (15000, seeds)):
        mean = abs(of.mean() + rng.normal(0, 0.01))
        spread = over_seeds.Part(float(of.var(ddof=1)) / seeds, seeds - 1)
        error = math.sqrt(questions.variance + spread.variance)
        if 2 * stats.norm.sf(mean / error) > level:  # p is never smaller
            continue
        freedom = error**4 / (questions.variance**2 / 299 + spread.variance**2 / (seeds - 1))
        by_satterthwaite += 2 * stats.t.sf(mean / error, freedom) < level
        found += over_seeds.tail(mean, [questions, spread]) < level
    assert found <= 10 < 2 * 10 < by_satterthwaite


def test_p_of_not_worse_is_half_of_the_two_sided_one_on_the_side_of_a_fall() -> None:
    low = {0: replies([0, 0, 1, 0]), 1: replies([0, 0, 1, 0])}
    high = {0: replies([1, 1, 1, 1]), 1: replies([0, 1, 1, 0])}
    rose, fell = over_seeds.compare(low, high), over_seeds.compare(high, low)
    assert rose and fell and rose.by_seeds and fell.by_seeds
    assert (rose.p_fell, fell.p_fell) == pytest.approx((1 - rose.p / 2, fell.p / 2))
    exact = over_seeds.compare({0: replies([1.0] * 5)}, {0: replies([0.0] * 5)})
    assert exact and (exact.p_fell, exact.by_seeds) == (0.5**5, False)


def test_other_seeds_in_the_two_rows_are_not_paired() -> None:
    before = {0: replies([0, 0, 1, 0]), 1: replies([1, 0, 1, 0])}
    after = {0: replies([1, 1, 1, 1]), 2: replies([0, 1, 1, 0])}
    paired, apart = over_seeds.compare(before, {0: after[0], 1: after[2]}), over_seeds.compare(before, after)
    assert paired and apart and apart.mean == paired.mean and apart.p != paired.p


def test_questions_about_one_image_count_as_one() -> None:
    rng = np.random.default_rng(0)
    changes = rng.integers(0, 2, 60).astype(float)
    once = over_seeds.compare(
        {0: replies([0.0] * 60), 1: replies([0.0] * 60)}, {s: replies([*changes]) for s in (0, 1)}
    )
    thrice = over_seeds.compare(
        {s: replies([0.0] * 180, [str(i) for i in range(60)] * 3) for s in (0, 1)},
        {s: replies([*changes] * 3, [str(i) for i in range(60)] * 3) for s in (0, 1)},
    )
    assert once and thrice
    assert (thrice.p, thrice.low, thrice.high) == pytest.approx((once.p, once.low, once.high))


def test_one_seed_each_has_the_exact_test() -> None:
    before, after = [1.0] * 2 + [0.0] * 18, [0.0] * 2 + [1.0] * 8 + [0.0] * 10
    found = over_seeds.compare({0: replies(before)}, {0: replies(after)})
    assert found and found.p == pytest.approx(2 * stats.binom.cdf(2, 10, 0.5))


def test_only_questions_that_all_seeds_have_count() -> None:
    before = {0: replies([0, 0, 1, 0]), 1: replies([0, 0, 1])}
    found = over_seeds.compare(before, {0: replies([1, 1, 1, 1])})
    assert found and found.questions == 3
    assert over_seeds.compare({0: []}, {0: replies([1.0])}) is None


def test_only_the_seeds_that_both_rows_have_are_compared() -> None:
    """Seeds 3 and 4 of the earlier row are worse; nobody has made the later row with them."""
    rng = np.random.default_rng(1)
    same = {seed: replies([*rng.integers(0, 2, 40).astype(float)]) for seed in range(3)}
    worse = {seed: replies([0.0] * 40) for seed in (3, 4)}
    found = over_seeds.compare({**same, **worse}, same)
    assert found and (found.mean, found.seeds, found.p) == (0.0, (3, 3), 1.0)


@pytest.mark.parametrize(("questions", "p"), [(2, 0.5), (5, 2 * 0.5**5), (9, 2 * 0.5**9)])
def test_where_nothing_varies_the_questions_are_counted(questions: int, p: float) -> None:
    rows = [{seed: replies([value] * questions) for seed in (0, 1)} for value in (0.0, 1.0)]
    found = over_seeds.compare(*rows)
    assert found and (found.mean, found.p) == (1.0, pytest.approx(p))
    same = over_seeds.compare(rows[0], rows[0])
    assert same and (same.mean, same.p) == (0.0, 1.0)


def test_a_row_that_depends_on_no_seed_adds_no_spread() -> None:
    before = {0: replies([0, 0, 1, 0, 1, 1])}
    after = {seed: replies([1, seed == 0, 1, 0, 1, seed == 2]) for seed in range(3)}
    base, trained = (over_seeds.compare(before, after, (depends, True)) for depends in (False, True))
    assert base and trained and base.mean == trained.mean and base.p < trained.p


@pytest.mark.parametrize(
    ("seeds", "spread"),
    [
        ((3, 3), 0.0),
        ((3, 3), 0.03),
        ((3, 3), 0.08),
        ((2, 2), 0.08),
        ((1, 3), 0.03),
        ((1, 3), 0.08),
        ((5, 1), 0.08),
    ],
)
def test_nothing_is_found_more_often_than_promised_where_seeds_differ(
    seeds: tuple[int, int], spread: float
) -> None:
    """300 pairs of rows that differ by their seeds and questions alone, with 150 questions."""
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(300):
        hard = rng.normal(0, 1, 150)

        def row(count: int, first: int, hard: np.ndarray = hard) -> over_seeds.Seeds:
            shares = stats.norm.cdf(hard + rng.normal(0, spread * 3, (count, 1)))
            drawn = (replies([*(rng.random(150) < share).astype(float)]) for share in shares)
            return dict(enumerate(drawn, first))

        one = over_seeds.compare(row(seeds[0], 0), row(seeds[1], 0 if seeds[0] == seeds[1] else 9))
        found += bool(one and one.p < 0.05)
    assert found / 300 <= 0.05


def test_judge_corrects_by_holm() -> None:
    some = [over_seeds.Difference(1, (1, 1), 0.1, 0.0, 0.2, p) for p in (0.01, 0.04, 0.5)]
    assert over_seeds.judge(some) == pytest.approx([0.03, 0.08, 0.5])
