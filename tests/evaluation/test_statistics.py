"""Intervals and tests, against published values and known properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.evaluation import statistics


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),  # the same
        (0, 20, 0.0, 0.1611),  # the same
        (1, 29, 0.0061, 0.1718),  # the same
    ],
)
def test_wilson_agrees_with_newcombes_table(right, n, low, high):
    assert statistics.wilson(right, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_stays_in_bounds(case):
    right, n = case
    low, high = statistics.wilson(right, n)
    assert 0 <= low <= right / n <= high <= 1
    narrower = statistics.wilson(right, n, level=0.5)
    assert low <= narrower[0] and narrower[1] <= high


def test_nothing_asked_says_nothing():
    assert statistics.wilson(0, 0) == (0.0, 1.0)


def test_the_bootstrap_of_a_mean_has_the_textbook_width():
    values = np.random.default_rng(1).normal(size=400)
    low, high = statistics.bootstrap(
        lambda w: float(np.average(values, weights=w)), [str(i) for i in range(400)]
    )
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert low < values.mean() < high


def test_rows_of_one_image_are_drawn_together():
    values = np.repeat(np.random.default_rng(1).normal(size=50), 8)  # eight equal rows an image
    mean = lambda w: float(np.average(values, weights=w))  # noqa: E731
    alone = statistics.bootstrap(mean, [str(i) for i in range(400)])
    together = statistics.bootstrap(mean, [str(i // 8) for i in range(400)])
    assert (together[1] - together[0]) / (alone[1] - alone[0]) == pytest.approx(8**0.5, rel=0.15)


def test_the_bootstrap_is_the_same_for_the_same_seed():
    values = np.arange(20.0)
    mean = lambda w: float(np.average(values, weights=w))  # noqa: E731
    clusters = [str(i) for i in range(20)]
    assert statistics.bootstrap(mean, clusters, seed=3) == statistics.bootstrap(mean, clusters, seed=3)
    assert statistics.bootstrap(mean, clusters, seed=3) != statistics.bootstrap(mean, clusters, seed=4)


def test_holm_multiplies_step_by_step_and_never_decreases():
    adjusted = statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert statistics.holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_every_draw_has_as_many_clusters_as_there_are():
    weight = lambda w: float(w.sum())  # noqa: E731
    assert statistics.bootstrap(weight, ["a", "a"]) == (2.0, 2.0)
    assert statistics.bootstrap(weight, ["b", "a", "c"]) == (3.0, 3.0)


def test_the_bootstrap_draws_a_thousand_times_for_95_percent_from_seed_0():
    values = np.arange(20.0)
    mean = lambda w: float(np.average(values, weights=w))  # noqa: E731
    clusters = [str(i) for i in range(20)]
    usual = statistics.bootstrap(mean, clusters)
    assert usual == statistics.bootstrap(mean, clusters, 1000, 0.95, 0)
    assert usual != statistics.bootstrap(mean, clusters, 1001)


def test_draws_without_a_score_are_left_out():
    first = lambda w: float(w[0]) if w[0] else float("nan")  # noqa: E731
    low, high = statistics.bootstrap(first, ["a", "b", "c"])
    assert low == 1.0 and 1 < high <= 3
