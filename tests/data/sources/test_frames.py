"""Boxes as files have them: recognised where it is declared or where all rows say so, else rejected by name."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sifthinker.config import Ingest, Source
from sifthinker.core.errors import UserError
from sifthinker.core.records import Box, Reject, Sample
from sifthinker.data.sources import SOURCES, frames
from tests.ingested import ingest

WIDTH, HEIGHT = 400, 300
Written = Callable[[Sequence[float]], list[float]]


def in_fractions(box: Sequence[float]) -> list[float]:
    return [box[0] / WIDTH, box[1] / HEIGHT, box[2] / WIDTH, box[3] / HEIGHT]


def in_thousandths(box: Sequence[float]) -> list[float]:
    return [1000 * value for value in in_fractions(box)]


def with_size(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def reversed_corners(box: Sequence[float]) -> list[float]:
    return [box[2], box[3], box[0], box[1]]


def far_outside(box: Sequence[float]) -> list[float]:
    return [box[0] + 5 * WIDTH, box[1], box[2] + 5 * WIDTH, box[3]]


def as_it_is(box: Sequence[float]) -> list[float]:
    return list(box)


FRAMES = {
    "pixels": as_it_is,
    "fractions": in_fractions,
    "thousandths": in_thousandths,
    "xywh": with_size,
}
WRITTEN = (as_it_is, in_fractions, in_thousandths, with_size, reversed_corners, far_outside)


@st.composite
def pixel_boxes(draw: st.DrawFn) -> list[float]:
    """A box of at least 8 pixels a side in the image."""
    x1, y1 = draw(st.integers(0, WIDTH - 8)), draw(st.integers(0, HEIGHT - 8))
    return [x1, y1, draw(st.integers(x1 + 8, WIDTH)), draw(st.integers(y1 + 8, HEIGHT))]


def load(
    boxes: Sequence[Sequence[float]],
    frame: str = "padded",
    sized: int | None = None,
    opened: bool = False,
    selected: bool = False,
) -> list[Sample | Reject]:
    """A file with a row for each box: the first `sized` with its image's size (None: all), and all images of that size."""
    size = {"width": WIDTH, "height": HEIGHT}
    rows = [
        {"question": f"Is it {n}?", "answer": "Yes", "image": "a.png", "bboxs": [list(box)]}
        | (size if sized is None or n < sized else {})
        for n, box in enumerate(boxes)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        path.write_text(json.dumps(rows))
        Image.new("RGB", (WIDTH, HEIGHT)).save(Path(folder) / "a.png")
        images = Path(folder) if opened else None
        source = Source(name="t", format="tallyqa", path=path, frame=frame, images=images)
        return list(ingest([source], Ingest()) if selected else SOURCES["tallyqa"](path, images, source))


def near(found: Sample | Reject, box: Sequence[float]) -> bool:
    return isinstance(found, Sample) and found.boxes[0] == pytest.approx(in_fractions(box), abs=1e-6)


@pytest.mark.parametrize("frame", FRAMES)
@settings(max_examples=25)  # a file each
@given(boxes=st.lists(pixel_boxes(), min_size=1, max_size=30))
def test_boxes_in_a_declared_frame_are_read_as_that(frame: str, boxes: list[list[float]]) -> None:
    found = load([FRAMES[frame](box) for box in boxes], frame)
    assert all(near(one, box) for one, box in zip(found, boxes, strict=True))


@settings(max_examples=25)  # a file each
@given(boxes=st.lists(pixel_boxes(), min_size=1, max_size=30))
def test_undeclared_boxes_in_fractions_are_recognised_or_rejected_but_never_kept_as_parts_of_a_pixel(
    boxes: list[list[float]],
) -> None:
    found = load([in_fractions(box) for box in boxes])
    if len(boxes) >= frames.FEWEST:
        assert all(near(one, box) for one, box in zip(found, boxes, strict=True))
    else:
        assert {one.reason for one in found if isinstance(one, Reject)} == {"box-fractions"}
        assert len([one for one in found if isinstance(one, Reject)]) == len(boxes)


@settings(max_examples=25)  # a file each
@given(boxes=st.lists(pixel_boxes(), min_size=20, max_size=40))
def test_no_file_of_many_rows_is_kept_with_wrong_boxes(boxes: list[list[float]]) -> None:
    """Undeclared, whatever the numbers are: each kept box is the right one, or the frame cannot be told from pixels."""
    for written in WRITTEN:
        numbers = [written(box) for box in boxes]
        try:
            found = load(numbers)
        except UserError as error:
            assert written in (in_thousandths, with_size) and "set the source's frame" in str(error)
            continue
        wrong = [
            one
            for one, box in zip(found, boxes, strict=True)
            if isinstance(one, Sample) and not near(one, box)
        ]
        fit = [x2 > x1 and y2 > y1 and x2 <= WIDTH + 1 and y2 <= HEIGHT + 1 for x1, y1, x2, y2 in numbers]
        few_off = len(fit) - sum(fit) <= frames.OFF * len(fit)
        assert not wrong or few_off  # all are good pixel boxes: nothing in the file says otherwise


@pytest.mark.parametrize(
    ("numbers", "reason", "said"),
    [
        ([0.15, 0.2, 0.35, 0.6], "box-fractions", "frame: fractions"),  # tests' case 27
        ([0.0, 0.0, 1.0, 1.0], "box-fractions", "frame: fractions"),  # the whole image, and one pixel at most
        ([0.5, 0.5, 1.02, 1.01], "box-fractions", "frame: fractions"),  # beyond the image by a slip
        ([120, 80, 120.6, 90], "box-degenerate", "less than a pixel"),
        (
            [200, 150, 40, 30],
            "box-degenerate",
            "frame: xywh",
        ),  # a size, or swapped corners: not certain in one row
        ([20, 15, 4, 3], "box-degenerate", "frame: xywh"),
        ([500, 400, 900, 800], "box-outside", "frame: thousandths"),
        ([4000, 300, 4100, 400], "box-outside", "leaves the 400x300 image"),
        ([-90, -90, 20, 20], "box-outside", "leaves the 400x300 image"),
        ([float("nan"), 1, 2, 3], "wrong-type", "finite numbers"),
    ],
)
def test_a_box_that_is_none_has_its_reason_and_what_it_may_be(
    numbers: list[float], reason: str, said: str
) -> None:
    (found,) = load([numbers])
    assert isinstance(found, Reject)
    assert (found.reason, found.field) == (reason, "bboxs")
    assert said in found.detail


@pytest.mark.parametrize("field", ["width", "height", "bboxs"])
def test_a_number_of_400_digits_rejects_its_own_row(field: str, tmp_path: Path) -> None:
    """JSON allows it, and it is no float. The look at the whole file was a traceback."""
    rows = [
        {"question": f"Is it {n}?", "answer": "Yes", "image": "a.jpg", "bboxs": [list(BOXES[0])], "width": WIDTH, "height": HEIGHT}
        for n in range(30)
    ]  # fmt: skip
    rows[3] |= {field: [[1, 2, 10**400, 4]] if field == "bboxs" else 10**400}
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    found = list(SOURCES["tallyqa"](path, None, Source(name="t", format="tallyqa", path=path)))
    (wrong,) = [one for one in found if isinstance(one, Reject)]
    assert (wrong.reason, wrong.field) == ("wrong-type", field) and len(found) == 30


BOXES: list[Box] = [(10.0 + 8 * n, 20.0, 60.0 + 8 * n, 200.0) for n in range(24)]


def test_a_file_of_corners_and_sizes_is_recognised_by_the_rows_that_are_no_corners() -> None:
    found = load([with_size(box) for box in BOXES])
    assert all(near(one, box) for one, box in zip(found, BOXES, strict=True))


@pytest.mark.parametrize(("frame", "kept"), [("pixels", 0), ("thousandths", 24)])
def test_a_file_in_thousandths_is_refused_until_its_frame_is_declared(frame: str, kept: int) -> None:
    numbers = [in_thousandths(box) for box in BOXES]
    with pytest.raises(UserError, match=r"of 24 rows leave their images.*thousandths"):
        load(numbers)
    found = load(numbers, frame)
    assert sum(near(one, box) for one, box in zip(found, BOXES, strict=True)) == kept


BEYOND = [300.0, 20.0, WIDTH + 30.0, 200.0]  # what one row has in any of these files


@pytest.mark.parametrize(
    ("written", "sized", "odd", "asked"),
    [
        (with_size, None, [*BEYOND], "to xywh"),  # one row is none
        (in_thousandths, None, [10, 20, 1001, 200], "to thousandths"),
        (with_size, 0, None, "to xywh"),  # rows without a size: corners are in the wrong order
        (with_size, 23, None, "to xywh"),  # one row without a size
        (in_thousandths, 0, None, "to thousandths"),  # as the images tell, once they are open
        (in_thousandths, 21, None, "to thousandths"),
    ],
)
@pytest.mark.parametrize("selected", [False, True])
def test_a_file_of_which_nearly_all_rows_are_something_else_is_refused(
    written: Written, sized: int | None, odd: list[float] | None, asked: str, selected: bool
) -> None:
    """One odd row, or no sizes, and the rows that fit by chance were kept with wrong boxes."""
    numbers = [written(box) for box in BOXES]
    if odd:
        numbers[7] = odd
    with pytest.raises(UserError, match=f"of 24 rows .*set the source's frame {asked}"):
        load(numbers, sized=sized, opened=True, selected=selected)
    declared = load(numbers, "pixels", sized, opened=True, selected=selected)
    assert len(declared) == 24  # whoever declares it is believed


@pytest.mark.parametrize("written", [in_thousandths, with_size])
def test_few_rows_with_a_size_among_others_tell_of_the_file(written: Written) -> None:
    """They alone would be kept where no image is opened, and among all rows they are less than slips of the pen."""
    corners = [as_it_is(box) for box in BOXES]
    with pytest.raises(UserError, match=r"of 22 rows .*set the source's frame"):
        load([written(box) for box in BOXES[:22]] + corners * 40, sized=22)


@pytest.mark.parametrize("sized", [None, 0, 12])
@pytest.mark.parametrize("selected", [False, True])
def test_a_file_of_corners_with_a_slip_is_not_refused(sized: int | None, selected: bool) -> None:
    numbers = [list(box) for box in BOXES]
    numbers[7] = [*BEYOND]
    found = load(numbers, sized=sized, opened=True, selected=selected)
    assert [one.reason for one in found if isinstance(one, Reject)] == ["box-outside"]
    assert sum(any(near(one, box) for box in BOXES) for one in found) == 23


def test_slips_of_the_pen_do_not_make_a_file_another() -> None:
    numbers: list[Any] = [list(box) for box in [*BOXES, *BOXES[:20]]]
    numbers[3] = reversed_corners(numbers[3])
    found = load(numbers)
    assert [one.reason for one in found if isinstance(one, Reject)] == ["box-degenerate"]
    assert sum(near(one, box) for one, box in zip(found, [*BOXES, *BOXES[:20]], strict=True)) == 43


def test_the_real_files_are_read_as_pixels(shared: Path) -> None:
    for name in ("vsr_cot_train.jsonl", "cub_cot_train.jsonl"):
        assert frames.recognised(shared / "viscot" / name, frames.UNDECLARED) == frames.UNDECLARED
