"""Rows of several seeds compared: the error has the questions' part and the seeds', and a difference of nothing is not found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

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
    error = math.sqrt(by_questions + by_seeds)
    freedom = error**4 / (by_questions**2 / 3 + by_seeds**2 / 1)
    assert found.p == pytest.approx(2 * stats.t.sf(0.5 / error, freedom))
    half = stats.t.ppf(0.975, freedom) * error
    assert (found.low, found.high) == (max(-1, 0.5 - half), min(1, 0.5 + half))


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


def test_a_difference_without_any_spread_is_found() -> None:
    rows = [{seed: replies([value] * 9) for seed in (0, 1)} for value in (0.0, 1.0)]
    found = over_seeds.compare(*rows)
    assert found and (found.mean, found.p) == (1.0, 0.0)
    same = over_seeds.compare(rows[0], rows[0])
    assert same and (same.mean, same.p) == (0.0, 1.0)


@pytest.mark.parametrize(("spread", "most"), [(0.0, 0.05), (0.03, 0.06), (0.08, 0.09)])
def test_nothing_is_found_more_often_than_promised_where_seeds_differ(spread: float, most: float) -> None:
    """600 pairs of rows that differ by their seeds and questions alone, three seeds of 150 questions each."""
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(600):
        hard = rng.normal(0, 1, 150)

        def row(hard: np.ndarray = hard) -> over_seeds.Seeds:
            shares = stats.norm.cdf(hard + rng.normal(0, spread * 3, (3, 1)))
            return dict(enumerate(replies([*(rng.random(150) < share).astype(float)]) for share in shares))

        one = over_seeds.compare(row(), row())
        found += bool(one and one.p < 0.05)
    assert found / 600 <= most


def test_judge_corrects_by_holm() -> None:
    some = [over_seeds.Difference(1, 0.1, 0.0, 0.2, p) for p in (0.01, 0.04, 0.5)]
    assert over_seeds.judge(some) == pytest.approx([0.03, 0.08, 0.5])
