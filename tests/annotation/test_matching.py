"""Whether boxes are those of the ground truth, in whatever order."""

from __future__ import annotations

import random

import pytest

from sifthinker.annotation.matching import same_boxes
from sifthinker.data import expansion

PIXEL = (1 / 451 + 0.001, 1 / 300 + 0.001) * 2


def test_boxes_that_expansion_puts_in_another_order_are_the_same() -> None:
    """Two of TallyQA's whose left edges lie in one pixel: the later one comes first once they are on whole pixels."""
    truth = [
        (136.9 / 451, 83.4 / 300, 207.9 / 451, 148.5 / 300),
        (136.2 / 451, 163 / 300, 208 / 451, 220 / 300),
    ]
    found = expansion.expand(truth, 451, 300)[0]
    assert [truth.index(box) for box in sorted(truth)] != [found.index(box) for box in sorted(found)]
    assert same_boxes(found, truth, PIXEL)


def test_many_boxes_of_a_picture_are_found_again() -> None:
    draw = random.Random(0)
    for _ in range(200):
        corners = [(draw.uniform(0, 0.8), draw.uniform(0, 0.8)) for _ in range(15)]
        truth = [(x, y, x + draw.uniform(0.05, 0.2), y + draw.uniform(0.05, 0.2)) for x, y in corners]
        found = expansion.expand(truth, 451, 300)[0]
        assert same_boxes(draw.sample(found, 15), truth, PIXEL)


A, B = (0.1, 0.1, 0.3, 0.3), (0.5, 0.5, 0.7, 0.9)


@pytest.mark.parametrize(
    ("found", "truth"),
    [([A], [A, B]), ([A, B, A], [A, B]), ([A, A], [A, B]), ([], [A]), ([(0.1, 0.1, 0.3, 0.32)], [A])],
)
def test_other_boxes_are_not(found: list, truth: list) -> None:
    assert not same_boxes(found, truth, (0.01,) * 4)


def test_each_is_matched_with_one_of_its_own_where_several_are_near() -> None:
    one, two = (0.1, 0.1, 0.3, 0.3), (0.108, 0.1, 0.3, 0.3)
    left = (0.092, 0.1, 0.3, 0.3)  # near to `one` alone; `one` is near to both
    assert same_boxes([one, left], [one, two], (0.01,) * 4)
    assert same_boxes([left, one], [two, one], (0.01,) * 4)
    assert not same_boxes([left, left], [one, two], (0.01,) * 4)
