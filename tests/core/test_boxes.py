"""Geometry against the release's own outputs, hand-computed cases and properties."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifthinker.core import boxes
from sifthinker.core.records import WHOLE, Box


def vectors(shared: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (shared / "vectors" / name).read_text().splitlines()]


@st.composite
def some_box(draw: st.DrawFn, decimals: int | None = None) -> Box:
    if decimals is not None:
        grid = 10**decimals
        x1, y1 = draw(st.integers(0, grid - 1)), draw(st.integers(0, grid - 1))
        x2, y2 = draw(st.integers(x1 + 1, grid)), draw(st.integers(y1 + 1, grid))
        return x1 / grid, y1 / grid, x2 / grid, y2 / grid
    x = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda v: abs(v[0] - v[1]) > 1e-5)))
    y = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda v: abs(v[0] - v[1]) > 1e-5)))
    return x[0], y[0], x[1], y[1]


some_boxes = st.lists(some_box(), min_size=1, max_size=6)
side = st.integers(1, 6000)
variant = st.sampled_from(["release", "progressive"])


def lies_in(inner: Box, outer: Box) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def test_expansion_agrees_with_every_release_vector(shared: Path) -> None:
    for case in vectors(shared, "expansion.jsonl"):
        steps = boxes.expand(case["boxes"], case["width"], case["height"], "release")
        assert [[list(box) for box in step] for step in steps] == case["focus_norm_without_distractor"]
        in_pixels = [
            [int(v) for v in boxes.to_pixels(box, case["width"], case["height"])] for box in steps[1]
        ]
        for ours, theirs in zip(in_pixels, case["steps_px"][1], strict=True):
            # Theirs before the rounding to 3 decimals of 0..1, which moves an edge by up to 0.0005 of the side.
            assert ours == pytest.approx(theirs, abs=1 + 0.0005 * max(case["width"], case["height"]))


def test_overlap_agrees_with_every_release_vector(shared: Path) -> None:
    for case in vectors(shared, "hiou.jsonl"):
        pred, gt = case["pred"], case["gt"]
        assert boxes.union_iou(pred, gt) == pytest.approx(case["global_iou"], abs=1e-9)
        assert boxes.pair_iou(pred, gt) == pytest.approx(case["pair_iou"], abs=1e-9)
        assert boxes.hiou(pred, gt) == pytest.approx(case["hiou"], abs=1e-9)


A, B = (0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)
HALF = (0.0, 0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("pred", "gt", "union", "pair"),
    [
        ([], [], 1, 1),  # nothing to find, nothing found
        ([A], [], 0, 0),
        ([], [A], 0, 0),
        ([A], [A], 1, 1),
        ([A], [B], 0, 0),  # touching corners share nothing
        ([A, B], [B, A], 1, 1),  # order does not matter
        ([HALF], [A], 0.5, 0.5),
        ([A], [A, B], 0.5, 1),  # paper's 1/|M|: the missed box counts in the union alone
        ([A, A], [A], 1, 1),  # the same box twice covers the same area
        ([A, B, WHOLE], [A], 0.25, 1),  # spam lowers the union
        ([A, B], [HALF], 1 / 3, 0.5),  # 0.25 shared of 0.75
        ([(0.5, 0.5, 0.2, 0.8)], [A], 0, 0),  # degenerate: covers nothing
        ([(0.5, 0.5, 0.2, 0.8), A], [A, B], 0.5, 0.5),  # degenerate: fills a place in the matching
    ],
)
def test_overlap_by_hand(pred: list[Box], gt: list[Box], union: float, pair: float) -> None:
    assert boxes.union_iou(pred, gt) == pytest.approx(union)
    assert boxes.pair_iou(pred, gt) == pytest.approx(pair)
    assert boxes.hiou(pred, gt) == pytest.approx((union + pair) / 2)


grid_boxes = st.lists(some_box(decimals=1), min_size=1, max_size=6)


@settings(deadline=None)  # a busy machine is no failure
@given(grid_boxes, grid_boxes)
def test_union_iou_counts_the_cells_of_a_grid(pred: list[Box], gt: list[Box]) -> None:
    def cells(found: list[Box]) -> np.ndarray:
        grid = np.zeros((10, 10), dtype=bool)
        for x1, y1, x2, y2 in (tuple(round(v * 10) for v in box) for box in found):
            grid[x1:x2, y1:y2] = True
        return grid

    p, g = cells(pred), cells(gt)
    assert boxes.union_iou(pred, gt) == pytest.approx((p & g).sum() / (p | g).sum(), abs=1e-9)


@settings(deadline=None)
@given(some_boxes, some_boxes)
def test_overlap_is_symmetric_within_0_and_1_and_1_with_itself(pred: list[Box], gt: list[Box]) -> None:
    for overlap in (boxes.union_iou, boxes.pair_iou, boxes.hiou):
        assert 0 <= overlap(pred, gt) <= 1 + 1e-12
        assert overlap(pred, gt) == pytest.approx(overlap(gt, pred), abs=1e-9)
        assert overlap(gt, gt) == pytest.approx(1)


@settings(deadline=None)
@given(some_box(), side, side)
def test_conversions_come_back(box: Box, width: int, height: int) -> None:
    assert boxes.from_pixels(boxes.to_pixels(box, width, height), width, height) == pytest.approx(box)
    padded = boxes.to_padded(box, width, height)
    assert boxes.from_padded(padded, width, height) == pytest.approx(box, abs=1e-9)


def test_the_padded_example_of_viscot_is_its_own_pixel_box() -> None:
    # flickr30k/1021439420.jpg, 500 x 333: the row quoted in VisCoT's documentation.
    box = boxes.from_padded((0.606, 0.358, 0.972, 0.744), 500, 333)
    assert boxes.to_pixels(box, 500, 333) == pytest.approx((303, 96, 486, 289), abs=0.5)
    # A portrait image is padded left and right.
    assert boxes.to_padded(WHOLE, 100, 201) == pytest.approx((50 / 201, 0, 150 / 201, 1))


def test_merging_goes_on_until_nothing_overlaps() -> None:
    # The first two meet only through the third's hull.
    chain_of_three = [(0.0, 0.0, 0.2, 0.2), (0.3, 0.0, 0.5, 0.2), (0.1, 0.1, 0.4, 0.15)]
    assert boxes.merge(chain_of_three) == [(0.0, 0.0, 0.5, 0.2)]
    touching = [(0.0, 0.0, 0.2, 0.2), (0.2, 0.0, 0.4, 0.2)]
    assert boxes.merge(touching) == touching


@settings(deadline=None)
@given(some_boxes, side, side, variant)
def test_expansion_only_grows_up_to_the_whole_image(
    found: list[Box], width: int, height: int, variant: str
) -> None:
    steps = boxes.expand(found, width, height, variant)
    assert steps == boxes.expand(found, width, height, variant)
    assert steps[-1] == [WHOLE]
    assert len(steps[0]) == len(found)
    assert len(steps) <= 5
    for step in steps:
        for x1, y1, x2, y2 in step:
            assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
            assert all(round(v, 3) == v for v in (x1, y1, x2, y2))
    for earlier, later in pairwise(steps):
        assert all(any(lies_in(box, around) for around in later) for box in earlier)
    for step in steps[1:]:
        assert boxes.merge(step) == step


def test_progressive_expansion_shows_something_new_in_every_step() -> None:
    small = boxes.expand([(0.4, 0.4, 0.5, 0.5)], 640, 480, "progressive")
    assert small == [
        [(0.4, 0.4, 0.5, 0.5)],
        [(0.3, 0.3, 0.625, 0.625)],
        [(0.2, 0.2, 0.75, 0.75)],
        [(0.1, 0.1, 0.875, 0.875)],
        [WHOLE],
    ]
    two = boxes.expand([(0.1, 0.1, 0.2, 0.2), (0.7, 0.7, 0.9, 0.9)], 640, 480, "progressive")
    assert [len(step) for step in two] == [2, 2, 1]  # met, they cover 0.81: too near the whole image to show
    assert boxes.expand([(0.01, 0.0, 1.0, 1.0)], 640, 480, "progressive") == [
        [(0.01, 0.0, 1.0, 1.0)],
        [WHOLE],
    ]
    assert boxes.expand([WHOLE], 640, 480, "progressive") == [[WHOLE]]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "at least one box"),
        ([(0.2, 0.2, 0.2, 0.4)], "x1 < x2"),
        ([(0.2, 0.2, 0.4, 1.2)], "<= 1"),
        ([(float("nan"), 0.2, 0.4, 0.6)], "<= x1"),
    ],
)
def test_expansion_refuses_what_is_no_box(found: list[Box], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        boxes.expand(found, 100, 100)


def test_an_unknown_expansion_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="known: release, progressive"):
        boxes.expand([A], 100, 100, "authors")


@settings(deadline=None)
@given(some_boxes, side, side, variant, st.text(max_size=8), st.integers(0, 9))
def test_a_distractor_is_valid_and_shares_nothing_with_the_target(
    found: list[Box], width: int, height: int, variant: str, sample_id: str, seed: int
) -> None:
    steps, at = boxes.focus(sample_id, found, width, height, variant, 1.0, seed)
    assert (steps, at) == boxes.focus(sample_id, found, width, height, variant, 1.0, seed)
    assert steps[0] == [WHOLE]
    plain, none = boxes.focus(sample_id, found, width, height, variant, 0.0, seed)
    assert none == -1
    assert all(a != b for a, b in pairwise(plain))
    if at == -1:
        assert steps == plain
        return
    assert (at, steps[2:]) == (1, plain[1:])
    ((x1, y1, x2, y2),) = steps[1]
    assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
    # Progressive chains look at wider regions in between, which may hold the distractor.
    target = steps[2] if variant == "release" else found
    assert not any(boxes.intersects(steps[1][0], box) for box in target)
    assert all(round(v, 3) == v for v in steps[1][0])


def test_half_of_the_small_targets_get_a_distractor_at_any_corner() -> None:
    target = (0.4, 0.4, 0.5, 0.5)
    drawn = [boxes.focus(f"scenes/{i}", [target], 1000, 1000) for i in range(2000)]
    given_one = [steps for steps, at in drawn if at == 1]
    assert 0.46 < len(given_one) / len(drawn) < 0.54
    beside = Counter((steps[1][0][0] < 0.45, steps[1][0][1] < 0.45) for steps in given_one)
    assert len(beside) == 4 and min(beside.values()) > 180  # of about 250 a corner
    widths = [steps[1][0][2] - steps[1][0][0] for steps in given_one]
    assert min(widths) > 0.117 and max(widths) < 0.219  # (0.1 + 2 * 0.02 expanded) * 1.2 * 0.7..1.3


def test_a_wide_target_gets_its_distractor_above_or_below() -> None:
    # Expanded to 0.01, 0.26, 0.99, 0.54 no corner has room; above only the smallest distractors fit.
    target = (0.05, 0.3, 0.95, 0.5)
    above = 0
    for i in range(500):
        steps, at = boxes.focus(str(i), [target], 1000, 1000, distractor_share=1.0)
        assert at == 1
        above += steps[1][0][3] <= 0.26
    assert 0 < above < 100


def test_a_target_that_fills_the_image_gets_no_distractor() -> None:
    assert boxes.focus("a", [(0.05, 0.05, 0.95, 0.95)], 100, 100, distractor_share=1.0)[1] == -1


def test_the_drawn_distractor_is_the_same_in_every_release_of_ours() -> None:
    # Published data must come out again: a change of these numbers is a change of the data set.
    assert boxes.focus("vsr/1", [(0.2, 0.3, 0.4, 0.5)], 640, 480, distractor_share=1.0, seed=7) == (
        [
            [(0.0, 0.0, 1.0, 1.0)],
            [(0.522, 0.164, 0.932, 0.634)],
            [(0.119, 0.192, 0.48, 0.606)],
            [(0.2, 0.3, 0.4, 0.5)],
        ],
        1,
    )


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, (1, 2, 4, 6)),
        (2, (6, 2, 9, 6)),  # left and right: 10 - 4, 10 - 1
        (3, (6, 14, 9, 18)),  # half a turn
        (4, (1, 14, 4, 18)),  # top and bottom: 20 - 6, 20 - 2
        (5, (2, 1, 6, 4)),  # rows and columns are exchanged
        (6, (14, 1, 18, 4)),  # then left and right, of a picture 20 wide
        (7, (14, 6, 18, 9)),
        (8, (2, 6, 6, 9)),  # then top and bottom, of a picture 10 high
    ],
)
def test_a_box_on_the_stored_pixels_is_turned_with_the_picture(orientation: int, upright: Box) -> None:
    assert boxes.turned((1, 2, 4, 6), 10, 20, orientation) == upright


@pytest.mark.parametrize(
    ("said", "orientation", "by"),
    [
        ((20, 10), 6, 1),  # the size of the upright picture: the boxes are upright already
        ((20, 10), 5, 1),
        ((10, 20), 6, 6),  # the stored size
        ((10, 20), 5, 5),
        ((0, 0), 6, 6),  # not known
        ((20, 10), 3, 3),  # half a turn: both sizes are the same, which tells nothing
        ((20, 10), 4, 4),
        ((20, 10), 1, 1),
    ],
)
def test_boxes_are_turned_unless_their_size_is_the_upright_one(
    said: tuple[int, int], orientation: int, by: int
) -> None:
    assert boxes.turn(said, (20, 10), orientation) == by


def test_a_square_picture_tells_nothing_by_its_size() -> None:
    assert boxes.turn((10, 10), (10, 10), 6) == 6
