"""The gate: numbers computed by hand, properties, an injected regression, and how often an unchanged model is raised."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifthinker.evaluation import gate
from sifthinker.evaluation.gate import Comparison, ScoredReply
from sifthinker.evaluation.statistics import wilson


def replies(scores: list[float], per_image: int = 1) -> list[ScoredReply]:
    return [ScoredReply((f"q/{i}",), f"image {i // per_image}", score) for i, score in enumerate(scores)]


def compare(before: list[float], after: list[float], margin: float = 0.0, per_image: int = 1) -> Comparison:
    made = gate.compare("b", "before", replies(before, per_image), replies(after, per_image), margin)
    assert made
    return made


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [
        (0, 0, 1.0),  # nothing changed
        (3, 0, 1 / 8),  # (1/2)^3
        (5, 1, 7 / 64),  # (C(6,5) + C(6,6)) / 2^6
        (8, 2, 56 / 1024),  # (45 + 10 + 1) / 2^10
        (2, 8, 1013 / 1024),  # 1 - (1 + 10) / 2^10: getting better is no regression
        (2, 2, 11 / 16),  # (6 + 4 + 1) / 2^4
    ],
)
def test_mcnemar_is_the_binomial_tail(lost: int, won: int, p: float) -> None:
    assert gate.mcnemar(lost, won) == pytest.approx(p)


def test_the_score_behind_the_interval_is_tangos() -> None:
    # Tango (1998), the contact lenses: 43 pairs agree, one is lost; equivalence within 0.1 has z = 1.709.
    assert gate._score(1, 0, 44, -0.1) == pytest.approx(1.709, abs=5e-4)
    # At no difference his score is McNemar's (won - lost) / sqrt(won + lost).
    assert gate._score(9, 4, 200, 0.0) == pytest.approx(-5 / math.sqrt(13))


def test_the_interval_of_no_pair_that_changed_is_not_empty() -> None:
    low, high = gate.interval(0, 0, 100)
    assert low == pytest.approx(-high)
    assert 0.03 < high < 0.04  # z^2 / (n + z^2): by symmetry Wilson's upper bound of 0 of 100
    assert high == pytest.approx(wilson(0, 100)[1], abs=1e-6)


def test_holm_is_over_everything_that_is_compared_at_once() -> None:
    # p: (3 lost, 1/8), (8 lost, 1/256), (6 lost, 1/64); Holm: 1/8 * 1, 1/256 * 3, 1/64 * 2.
    made = [compare([1.0] * 20, [0.0] * lost + [1.0] * (20 - lost)) for lost in (3, 8, 6)]
    judged = gate.judge(made, 0.02)
    assert [c.adjusted for c in judged] == pytest.approx([1 / 8, 3 / 256, 2 / 64])
    assert [c.regressed for c in judged] == [False, True, False]


def test_only_the_same_questions_are_paired() -> None:
    before = [*replies([1, 1, 1]), ScoredReply(("gone",), "x", 1.0)]
    after = [*replies([1, 0, 1]), ScoredReply(("new",), "y", 0.0), ScoredReply(("newer",), "z", 0.0)]
    made = gate.compare("b", "before", before, after, 0.0)
    assert made
    assert (made.n, made.unpaired, made.lost, made.won) == (3, 3, 1, 0)
    assert gate.compare("b", "before", before[3:], after, 0.0) is None


@pytest.mark.parametrize(
    ("before", "per_image", "test"),
    [
        ([1, 0, 1, 0], 1, "McNemar"),
        ([1, 0, 1, 0], 2, "swaps"),  # two questions about one image are not independent
        ([0.3, 0, 1, 0], 1, "swaps"),  # graded by ten people
    ],
)
def test_the_test_follows_from_the_replies(before: list[float], per_image: int, test: str) -> None:
    assert compare(before, [0, 0, 1, 1], per_image=per_image).test == test


def test_an_image_with_many_questions_counts_as_one() -> None:
    """Ten lost answers about one image are one piece of evidence, ten about ten images are ten."""
    before, after = [1.0] * 100, [0.0] * 10 + [1.0] * 90
    assert compare(before, after).p == pytest.approx(2**-10)
    assert compare(before, after, per_image=10).p == pytest.approx(1 / 2, abs=0.02)


def test_a_fall_within_the_margin_is_no_regression_however_sure() -> None:
    before, after = [1.0] * 4000, [0.0] * 30 + [1.0] * 3970
    for margin, regressed in ((0.0, True), (0.007, True), (0.008, False)):
        [made] = gate.judge([compare(before, after, margin)], level=0.01)
        assert made.adjusted < 1e-6
        assert made.regressed is regressed


def test_swaps_of_single_verdicts_are_mcnemar() -> None:
    for lost, won in ((5, 1), (8, 2), (3, 3)):
        differences = np.array([-1.0] * lost + [1.0] * won + [0.0] * 20)
        names = [str(i) for i in range(len(differences))]
        assert gate.swaps(differences, names) == pytest.approx(gate.mcnemar(lost, won), abs=0.015)


counts = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300)).filter(lambda t: sum(t) > 0)


@given(counts)
def test_p_is_a_probability_and_more_losses_never_raise_it(data: tuple[int, int, int]) -> None:
    lost, won, _ = data
    p = gate.mcnemar(lost, won)
    assert 0 <= p <= 1
    assert gate.mcnemar(lost + 1, won) <= p + 1e-12
    assert gate.mcnemar(lost, won + 1) >= p - 1e-12


@given(counts)
def test_the_interval_holds_the_difference_and_turns_with_the_sides(data: tuple[int, int, int]) -> None:
    lost, won, same = data
    n = lost + won + same
    low, high = gate.interval(lost, won, n)
    assert -1 <= low <= (won - lost) / n + 1e-9
    assert (won - lost) / n - 1e-9 <= high <= 1
    assert gate.interval(won, lost, n) == pytest.approx((-high, -low), abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.3, 0.0, 0.3, 1.0]), min_size=5, max_size=40))
def test_scores_by_image_have_the_same_properties(values: list[float]) -> None:
    differences = np.array(values)
    images = [str(i // 2) for i in range(len(values))]
    assert 0 < gate.swaps(differences, images) <= 1
    low, high = gate.bootstrap(differences, images)
    assert -1 <= low <= high <= 1
    assert gate.swaps(-np.abs(differences), images) <= gate.swaps(np.abs(differences), images)


def test_identical_replies_are_never_raised_not_even_without_a_margin() -> None:
    scores = [float(i % 3 > 0) for i in range(1000)]
    for per_image in (1, 4):
        made = gate.judge([compare(scores, scores, 0.0, per_image)] * 12, level=0.49)
        assert {(c.adjusted, c.regressed) for c in made} == {(1.0, False)}


@pytest.mark.parametrize("accuracy", [0.4, 0.9])
@pytest.mark.parametrize("per_image", [1, 4])
def test_five_percent_of_the_replies_made_wrong_are_caught_among_twelve_benchmarks(
    accuracy: float, per_image: int
) -> None:
    """1,000 questions; of the 50 made wrong only those that were right change, about 20 at an accuracy of 40 %.
    Two references each, so 24 comparisons; defaults: a level of 0.1 %, a margin of a point."""
    for seed in range(4):
        generator = np.random.default_rng(seed)
        before = (generator.random(1000) < accuracy).astype(float)
        after = before.copy()
        after[generator.choice(1000, 50, replace=False)] = 0.0
        others = [compare([1.0, 0.0] * 100, [1.0, 0.0] * 100, 0.01)] * 23
        first, *rest = gate.judge(
            [compare(before.tolist(), after.tolist(), 0.01, per_image), *others], level=0.001
        )
        assert first.regressed
        assert not any(c.regressed for c in rest)


def alarms(nights: int, margin: float, level: float, flaky: float, seed: int) -> int:
    """Nights with an alarm of a model that does not change: 12 benchmarks of 1,000 questions, a share `flaky` of whose
    replies is drawn anew every night; each night is held against one that passed."""
    generator = np.random.default_rng(seed)
    likely = generator.random((12, 1000))
    fixed, sure = generator.random((12, 1000)) < likely, generator.random((12, 1000)) > flaky

    def night() -> np.ndarray:
        return np.where(sure, fixed, generator.random((12, 1000)) < likely)

    raised, good = 0, night()
    for _ in range(nights):
        tonight = night()
        made = []
        for old, new in zip(good, tonight, strict=True):
            lost, won = int((old & ~new).sum()), int((new & ~old).sum())
            p, before, after = gate.mcnemar(lost, won), float(old.mean()), float(new.mean())
            made.append(
                Comparison("b", "before", 1000, 0, before, after, 0, 0, lost, won, "McNemar", margin, p)
            )
        if any(comparison.regressed for comparison in gate.judge(made, level)):
            raised += 1
        else:
            good = tonight
    return raised


def test_an_unchanged_model_is_not_raised_over_fifty_nights() -> None:
    """Deterministic replies never. Sampled ones, a fifth of them drawn anew every night: at the default level of 0.1 %
    a night is falsely refused with a chance of at most 0.1 % (alpha, by Holm over its comparisons, whatever their
    number), so that one of fifty is with a chance of at most 5 %; exactness and margin make it less."""
    assert alarms(50, margin=0.01, level=0.001, flaky=0.0, seed=1) == 0
    assert alarms(50, margin=0.01, level=0.001, flaky=0.2, seed=1) == 0


def test_the_rate_of_false_alarms_is_at_most_the_level() -> None:
    """5 %, no margin, 300 nights: more than 25 alarms would have a chance of 0.5 % at a rate of 5 %."""
    assert 0 < alarms(300, margin=0.0, level=0.05, flaky=0.2, seed=2) <= 25


def test_the_scored_replies_of_a_file_are_read_by_benchmark(tmp_path: Path) -> None:
    row = {
        "benchmark": "sif",
        "id": "1",
        "group": "g",
        "question": "What?",
        "reference": "red",
        "image_sha256": "abc",
        "strict": 0.5,
        "unparsable": "",
        "finish_reason": "stop",
        "boxes": [[0.1, 0.1, 0.2, 0.2]],
        "reply": "not read",
    }
    hidden = {**row, "id": "2", "strict": None}
    unread = {**row, "id": "3", "strict": 0.0, "unparsable": "no-answer", "boxes": []}
    other = {**row, "benchmark": "pope"}
    pq.write_table(pa.Table.from_pylist([row, hidden, other, unread]), tmp_path / "predictions.parquet")
    assert gate.load(tmp_path / "predictions.parquet") == {
        "sif": [
            ScoredReply(("1", "g", "What?", "red", "abc"), "abc", 0.5),
            ScoredReply(("3", "g", "What?", "red", "abc"), "abc", 0.0, frozenset({"unparsable", "no box"})),
        ],
        "pope": [ScoredReply(("1", "g", "What?", "red", "abc"), "abc", 0.5)],
    }


def test_a_comparison_holds_what_was_compared() -> None:
    unread = frozenset({"unparsable"})
    before = [
        ScoredReply((str(i),), f"image {i}", score, unread if i == 0 else frozenset())
        for i, score in enumerate([1.0, 1.0, 1.0, 0.0])
    ]
    after = [
        ScoredReply((str(i),), f"image {i}", score, unread if i < 3 else frozenset())
        for i, score in enumerate([0.0, 0.0, 1.0, 1.0])
    ]
    made = gate.compare("sif", "baseline", before, after, 0.01)
    low, high = gate.interval(2, 1, 4)
    assert made
    assert dataclasses.replace(made, adjusted=0.0, reachable=0.0) == Comparison(
        "sif", "baseline", 4, 0, 0.75, 0.5, low, high, 2, 1, "McNemar", 0.01, 1 / 2, 1 / 8, 0.25, 0.75, 0.0, False, 0.0
    )  # fmt: skip
    assert math.isnan(made.adjusted) and math.isnan(made.reachable)
    assert made.difference == -0.25 and made.fell


def test_scores_are_numbers_with_a_fraction_whatever_the_replies_hold() -> None:
    made = gate.pair(replies([1, 0]), replies([0, 0]))
    assert made and made.old.dtype == made.new.dtype == np.float64


def test_a_comparison_by_image_holds_the_swaps_and_the_bootstrap() -> None:
    before, after = [1.0, 1.0, 0.5, 0.0, 1.0, 1.0], [0.0, 1.0, 0.5, 0.25, 0.5, 1.0]
    made = compare(before, after, 0.01, per_image=2)
    changes, images = np.array(after) - before, [f"image {i // 2}" for i in range(6)]
    assert (made.low, made.high) == gate.bootstrap(changes, images)
    assert made.p == gate.swaps(changes, images) == 1 / 4  # of (-1, +0.25, -0.5) only -1.75 is less
    assert (made.lost, made.won, made.least) == (2, 1, 1 / 8)


@pytest.mark.parametrize(
    ("fall", "margin", "larger"),
    [(0.70 - 0.69, 0.01, False), (0.011, 0.01, True), (0.0, 0.0, False), (1e-6, 0.0, True), (-0.1, 0.0, False)],
)  # fmt: skip
def test_a_fall_of_the_margin_is_not_beyond_it(fall: float, margin: float, larger: bool) -> None:
    assert gate.beyond(fall, margin) is larger


def test_what_a_comparison_can_reach_alone_is_its_least_p_times_their_number() -> None:
    able = compare([1.0] * 10, [1.0] * 10)
    few = compare([1.0] * 3, [1.0] * 3)
    small = compare([0.05] * 40, [0.05] * 40, margin=0.05)  # cannot fall by more than the margin
    judged = gate.judge([able, few, small], level=3 * 2.0**-10)
    assert [c.reachable for c in judged] == pytest.approx([3 * 2.0**-10, 3 / 8, 3 / 100_001], rel=1e-5)
    assert [c.able for c in judged] == [True, False, False]
    [alone] = gate.judge([compare([1.0], [1.0])] , level=0.5)  # fmt: skip
    assert alone.reachable == 0.5 and alone.able
    assert gate.judge([few] * 20, 0.05)[0].reachable == 1.0


def test_a_p_of_the_level_is_a_regression() -> None:
    [made] = gate.judge([compare([1.0] * 3, [0.0] * 3)], level=1 / 8)
    assert made.adjusted == 1 / 8 and made.regressed
    [made] = gate.judge([compare([1.0] * 3, [0.0] * 3)], level=0.124)
    assert not made.regressed


@pytest.mark.parametrize(
    ("images", "least"),
    [
        (15, 2.0**-15),
        (16, 2.0**-16),  # all swaps are tried
        (17, (1 + 100_000 * 2.0**-17) / 100_001),  # the expected number of 100,000 draws
        (40, 1 / 100_001),
    ],
)
def test_the_least_p_by_swaps_is_that_of_the_images_with_a_score(images: int, least: float) -> None:
    before = [0.5, 1.0] * images + [0.0, 0.0] * 5
    made = gate.pair(replies(before, 2), replies(before, 2))
    assert made and gate.least(made) == pytest.approx(least, rel=1e-9)


def test_swaps_are_counted_up_to_sixteen_images_and_drawn_beyond() -> None:
    assert gate.swapped(-np.ones(16)) == 2.0**-16
    assert gate.swapped(np.array([*-np.ones(16), 0.0])) == 2.0**-16  # an image without a change tells nothing
    assert gate.swapped(np.array([-1.0, -1.0])) == 1 / 4
    assert gate.swapped(np.array([1.0, -1.0])) == 3 / 4  # 0 or less
    assert gate.swapped(np.zeros(3)) == 1.0
    drawn = gate.swapped(-np.ones(17))
    assert drawn == gate.swapped(-np.ones(17), 0) != gate.swapped(-np.ones(17), 1)
    assert drawn * 100_001 == pytest.approx(round(drawn * 100_001))
    assert drawn == pytest.approx(2.0**-17, abs=3e-5)
    mixed = np.array([*-np.ones(13), *np.ones(7)])
    assert gate.swapped(mixed) == pytest.approx(gate.mcnemar(13, 7), abs=0.005)


def test_the_interval_is_where_the_score_is_a_normal_quantile() -> None:
    for level, z in ((0.95, 1.959964), (0.9, 1.644854)):
        low, high = gate.interval(9, 4, 200, level)
        assert gate._score(9, 4, 200, low) == pytest.approx(z, abs=1e-4)
        assert gate._score(9, 4, 200, high) == pytest.approx(-z, abs=1e-4)
    assert gate.interval(9, 4, 200) == gate.interval(9, 4, 200, 0.95)
    assert gate.interval(5, 0, 5) == (-1.0, pytest.approx(-0.131, abs=0.005))
    assert gate.interval(0, 5, 5) == (pytest.approx(0.131, abs=0.005), 1.0)


@pytest.mark.parametrize(
    ("lost", "won", "n", "difference", "score"),
    [
        (0, 0, 10, 0.0, 0.0),  # the data are what it says, without a spread
        (0, 3, 10, 0.0, 3 / math.sqrt(3)),
        (3, 0, 10, 0.0, -3 / math.sqrt(3)),
        # With nothing lost: b = 2n d - won (1 + d), share = max(0, ...), by hand.
        (0, 0, 10, 0.2, -2 / math.sqrt(10 * 0.2 * 0.8)),
        (0, 0, 10, -0.2, 2 / math.sqrt(10 * (2 * 0.2 - 0.2 * 1.2))),
        (0, 0, 10, 0.02, -0.2 / math.sqrt(10 * 0.02 * 0.98)),
        (0, 9, 10, 1.0, -math.inf),  # a difference that the data rule out
        (9, 0, 10, -1.0, math.inf),
        (0, 10, 10, 1.0, 0.0),
    ],
)
def test_the_score_by_hand(lost: int, won: int, n: int, difference: float, score: float) -> None:
    assert gate._score(lost, won, n, difference) == pytest.approx(score)


def test_the_bootstrap_draws_whole_images_and_the_same_ones_for_a_seed() -> None:
    generator = np.random.default_rng(1)
    differences = np.repeat(generator.normal(size=100), 4)
    together = [str(i // 4) for i in range(400)]
    low, high = gate.bootstrap(differences, together)
    assert (
        (low, high)
        == gate.bootstrap(differences, together, 0.95, 0)
        != gate.bootstrap(differences, together, seed=1)
    )
    assert high - low == pytest.approx(2 * 1.96 * differences.std() / 10, rel=0.1)
    assert low < differences.mean() < high
    inner = gate.bootstrap(differences, together, level=0.5)
    assert inner[1] - inner[0] == pytest.approx(2 * 0.674 * differences.std() / 10, rel=0.1)
    assert gate.bootstrap(np.array([1.0, 0.0]), ["a", "b"]) == (0.0, 1.0)


def test_differences_are_summed_and_counted_by_image() -> None:
    sums, counts = gate.by_image(np.array([1.0, -0.5, 0.25, 2.0]), ["b", "a", "b", "c"])
    assert sums.tolist() == [-0.5, 1.25, 2.0]
    assert counts.tolist() == [1.0, 2.0, 1.0]
