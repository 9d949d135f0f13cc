"""The depth reward: cases by hand on a small map, and what hacking gains."""

import time

import numpy as np
import pytest

from sifthinker.core.chain import Chain, Step, render
from sifthinker.core.depth_maps import SummedArea
from sifthinker.core.records import WHOLE, Box, Region
from sifthinker.rewards import REWARDS

reward = REWARDS["depth"]
# Left half 0.2, right half 0.8, the lower right pixel 0.
PIXELS = np.repeat(np.array([[0.2] * 5 + [0.8] * 5], dtype=np.float32), 10, axis=0)
PIXELS[9, 9] = 0
MAP = SummedArea(PIXELS)
LEFT, RIGHT, ZERO = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 0.5), (0.9, 0.9, 1.0, 1.0)


def says(*regions: tuple[Box, float]) -> str:
    return render(Chain(tuple(Step((Region(box, depth),), "Here.") for box, depth in regions), "brown"))


@pytest.mark.parametrize(
    ("regions", "paper", "release"),
    [
        ([(LEFT, 0.2), (RIGHT, 0.8)], 1, 1),
        ([(LEFT, 0.22), (RIGHT, 0.72)], 1, 1),  # exactly T = 10 % of the truth
        ([(LEFT, 0.221), (RIGHT, 0.8)], 0, 0.5),  # one wrong: all or nothing against a share
        ([(LEFT, 0.29), (RIGHT, 0.89)], 0, 0),  # absolute error below 0.1, relative above
        ([(WHOLE, 0.492), (LEFT, 0.2)], 1, 1),
        ([(WHOLE, 0.9), (LEFT, 0.2)], 0, 0.5),  # the whole image must be right too
        ([(LEFT, 0.2), (ZERO, 0.0)], 1, 0.5),  # truth 0: only 0 is right; never in the release
        ([(LEFT, 0.2), (ZERO, 0.001)], 0, 0.5),
    ],
)
def test_by_hand(regions: list[tuple[Box, float]], paper: float, release: float) -> None:
    assert reward([says(*regions)], [MAP], "paper") == [paper]
    assert reward([says(*regions)], [MAP], "release") == [release]


def test_the_tolerance_is_an_argument() -> None:
    assert reward([says((LEFT, 0.25))], [MAP], tolerance=0.25) == [1]
    assert reward([says((LEFT, 0.25))], [MAP], tolerance=0.2) == [0]


@pytest.mark.parametrize("box", [WHOLE, (0.0, 0.0, 1.0, 0.999), (0.01, 0.01, 0.99, 1.0)])
def test_a_whole_image_box_alone_collects_nothing(box: Box) -> None:
    text = says((box, round(MAP.mean(box), 3)))
    assert reward([text], [MAP], "paper") == [0]
    assert reward([text], [MAP], "release") == [1]


@pytest.mark.parametrize(
    ("box", "earns"),
    [
        ((0.0, 0.0, 1.0, 0.949), 1),
        ((0.0, 0.0, 1.0, 0.95), 0),  # at least `WHOLE_SHARE` of the image
        ((0.0, 0.0, 0.95, 1.0), 0),
        ((0.5, 0.0, 1.0, 1.0), 1),  # half of the image, wherever it lies
        ((0.0, 0.5, 1.0, 1.0), 1),
        ((0.0, 0.0, 1.0, 0.1), 1),
        ((0.9, 0.0, 1.0, 1.0), 1),
    ],
)
def test_a_box_is_the_whole_image_by_its_area(box: Box, earns: float) -> None:
    assert reward([says((box, 0.5))], [SummedArea(np.full((1000, 20), 0.5, np.float32))]) == [earns]


def test_the_true_depth_has_three_decimals_as_the_stated_one() -> None:
    grey = SummedArea(np.full((10, 10), 0.4996, np.float32))
    assert reward([says((LEFT, 0.55))], [grey]) == [1]  # 10 % above 0.500, but more above 0.4996
    assert reward([says((LEFT, 0.551))], [grey]) == [0]


@pytest.mark.parametrize("variant", ["paper", "release"])
def test_completions_and_maps_of_different_number_are_an_error(variant: str) -> None:
    with pytest.raises(ValueError):
        reward([says((LEFT, 0.2))], [MAP, MAP], variant)


@pytest.mark.parametrize("hack", ["", "Sure! " + says((LEFT, 0.2)), says((LEFT, 0.2)) * 2])
def test_what_is_no_chain_is_wrong(hack: str) -> None:
    assert reward([hack], [MAP]) == [0]


def test_release_reads_areas_alone_and_gives_0_for_none_or_broken_ones() -> None:
    good = says((LEFT, 0.2))
    assert reward(["Sure! " + good], [MAP], "release") == [1]
    assert reward(["nothing", "<area>[]</area>", good.replace("0.5,", "5,")], [MAP] * 3, "release") == [
        0,
        0,
        0,
    ]


def test_three_rewards_of_a_ten_area_completion_take_under_2_ms() -> None:
    looks = [((i / 20, 0.1, i / 20 + 0.3, 0.9), 0.5) for i in range(10)]
    text = says(*looks)
    truth = [(0.1, 0.1, 0.3, 0.3), (0.5, 0.5, 0.6, 0.9), (0.7, 0.1, 0.8, 0.4)]
    times = []
    for _ in range(30):
        start = time.perf_counter()
        REWARDS["format"]([text])
        REWARDS["grounding"]([text], [truth])
        reward([text], [MAP])
        times.append(time.perf_counter() - start)
    assert min(times) < 0.002  # issue 4; the least of 30, because other processes share the cores
