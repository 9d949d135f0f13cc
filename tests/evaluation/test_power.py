"""The smallest fall that a night finds: by hand, against simulated nights that are really tested, and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sifthinker.evaluation import gate, power
from sifthinker.evaluation.gate import Numbers, Paired, ScoredReply


def paired(old: Numbers, new: Numbers, per_image: int = 1) -> Paired:
    def verdicts(scores: Numbers) -> list[ScoredReply]:
        return [ScoredReply((f"q/{i}",), f"image {i // per_image}", float(s)) for i, s in enumerate(scores)]

    made = gate.pair(verdicts(old), verdicts(new))
    assert made
    return made


def fallen(old: Numbers, new: Numbers, per_image: int, share: float, seed: int) -> Numbers:
    """A night in which a share of the images falls to 0; elsewhere the changes of `new` occur again, moved about.

    Gains and losses are drawn question by question, which is not how power.py draws them for images.
    """
    generator = np.random.default_rng([seed, 7])
    images = len(old) // per_image
    down = np.repeat(generator.random(images) < share, per_image)
    cancelling = min(int((new > old).sum()), int((new < old).sum()))
    right, wrong = old > 0, old == 0
    made = old.copy()
    if cancelling:
        made[right & (generator.random(len(old)) < cancelling / right.sum())] = 0.0
        made[wrong & (generator.random(len(old)) < cancelling / wrong.sum())] = 1.0
    return np.where(down, 0.0, made)


def rate(
    old: Numbers, new: Numbers, per_image: int, fall: float, margin: float, family: int, times: int = 400
) -> float:
    """How often a fall of that size is called a regression by the gate itself, among comparisons without a change."""
    found = 0
    for seed in range(times):
        tonight = fallen(old, new, per_image, fall / float(old.mean()), seed)
        made = paired(old, tonight, per_image)
        if made.test == gate.MCNEMAR:
            p = gate.mcnemar(made.lost, made.won)
        else:
            p = gate.swaps(made.changes, made.images)
        found += p * family <= 0.001 and float(made.changes.mean()) < -margin
    return found / times


@pytest.mark.parametrize(
    ("questions", "per_image", "right", "unsteady", "margin", "times"),
    [
        (100, 1, 0.7, 0.0, 0.01, 400),  # McNemar, replies that do not vary
        (400, 1, 0.5, 0.1, 0.01, 400),  # a tenth of the replies are drawn anew
        (1000, 1, 0.6, 0.0, 0.05, 400),  # the margin is what binds, not p
        (48, 2, 0.85, 0.0, 0.01, 400),  # two questions an image: swaps, counted
        # Swaps, by the normal approximation; a simulated night takes time.
        pytest.param(400, 2, 0.5, 0.1, 0.01, 150, marks=pytest.mark.slow),
    ],
)
def test_a_fall_of_the_detectable_size_is_found_in_four_of_five_nights(
    questions: int, per_image: int, right: float, unsteady: float, margin: float, times: int
) -> None:
    generator = np.random.default_rng(5)
    old = (generator.random(questions) < right).astype(float)
    redrawn = generator.random(questions) < unsteady
    new = np.where(redrawn, (generator.random(questions) < right).astype(float), old)
    fall = power.detectable(paired(old, new, per_image), margin, 0.001 / 8)
    assert fall is not None and margin < fall < float(old.mean())
    # 400 nights: two standard errors are 4 points (of 150: 7); 4 more for the 400 draws of power.py.
    tolerance = 0.08 if times == 400 else 0.11
    assert rate(old, new, per_image, fall, margin, 8, times) == pytest.approx(power.RATE, abs=tolerance)
    assert rate(old, new, per_image, fall / 2, margin, 8, times // 4) < 0.6


def test_graded_scores_have_a_detectable_fall_of_that_rate_too() -> None:
    old = np.round(np.random.default_rng(3).random(200), 2)
    fall = power.detectable(paired(old, old, 2), 0.01, 0.001 / 4)
    assert fall
    assert rate(old, old, 2, fall, 0.01, 4) == pytest.approx(power.RATE, abs=0.08)


def test_it_is_the_binomial_quantile_when_nothing_varies() -> None:
    """40 right of 100, level 1/1000 of one comparison: ten must be lost, (1/2)^10 <= 0.001. Of 40 that are lost with a
    chance f each, ten or more are lost in 80 % of the nights when f = 0.3046 (P(Bin(40, f) >= 10) = 0.8)."""
    old = np.array([1.0] * 40 + [0.0] * 60)
    fall = power.detectable(paired(old, old), 0.0, 0.001)
    assert fall
    f = fall / 0.4
    at_least = 1 - sum(math.comb(40, k) * f**k * (1 - f) ** (40 - k) for k in range(10))
    assert at_least == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize(
    ("right", "per_image", "level", "possible"),
    [
        (10, 1, 2**-10, True),  # just
        (9, 1, 2**-10, False),  # (1/2)^9 is the least p
        (20, 2, 2**-10, True),  # twenty right answers about ten images
        (18, 2, 2**-10, False),
        (0, 1, 0.4, False),  # nothing can be lost
    ],
)
def test_too_few_right_answers_can_lose_nothing_that_is_sure(
    right: int, per_image: int, level: float, possible: bool
) -> None:
    old = np.array([1.0] * right + [0.0] * 20)
    made = paired(old, old, per_image)
    assert (power.detectable(made, 0.0, level) is not None) is possible
    assert (gate.least(made) <= level) is possible


def test_more_questions_fewer_comparisons_and_steadier_replies_make_smaller_falls_detectable() -> None:
    old = np.array([1.0, 1.0, 0.0] * 100)
    steady = power.detectable(paired(old, old), 0.0, 1e-4)
    few = power.detectable(paired(old[:150], old[:150]), 0.0, 1e-4)
    many_comparisons = power.detectable(paired(old, old), 0.0, 1e-6)
    new = old.copy()
    new[:60] = 1 - new[:60]
    unsteady = power.detectable(paired(old, new), 0.0, 1e-4)
    assert steady and few and many_comparisons and unsteady
    assert steady < few and steady < many_comparisons and steady < unsteady


def test_the_least_p_is_what_the_test_says_of_a_fall_to_0() -> None:
    for right, per_image in ((9, 1), (20, 2), (60, 3)):
        old = np.array([1.0] * right + [0.0] * 12)
        made = paired(old, old * 0.0, per_image)
        p = gate.mcnemar(right, 0) if made.test == gate.MCNEMAR else gate.swaps(made.changes, made.images)
        assert gate.least(made) == pytest.approx(p, abs=2e-5)


def test_all_swaps_are_tried_where_there_are_few() -> None:
    """Three images, sums -2, -1, +1: of 8 sign patterns, (- - -), (- - +) and (- + -) give -2 or less."""
    differences = np.array([-1.0, -1.0, -1.0, 0.0, 1.0, 0.0])
    assert gate.swaps(differences, ["a", "a", "b", "b", "c", "c"]) == 3 / 8


def test_the_margin_bounds_what_is_detectable() -> None:
    old = np.ones(2000)
    fall = power.detectable(paired(old, old), 0.1, 1e-4)
    assert fall and fall > 0.1
    assert power.detectable(paired(old * 0.0, old), 0.1, 1e-4) is None
