"""Geometry against the release's own outputs, hand-computed cases and properties."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifthinker.core import boxes
from sifthinker.core.records import WHOLE, Box
from tests.some_boxes import side, some_box, some_boxes, vectors


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
