import io

import numpy as np
import pytest
from PIL import Image

from sifthinker.core import drawing
from sifthinker.core.records import WHOLE

BOX = (0.25, 0.25, 0.75, 0.75)


def _jpeg(width: int, height: int, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (width, height)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("size", "max_pixels", "expected"),
    [
        ((200, 100), 20_000, (200, 100)),  # just fits
        ((200, 100), 1_000_000, (200, 100)),  # never enlarged
        ((400, 200), 20_000, (200, 100)),  # half
        ((401, 199), 20_000, (200, 99)),  # rounded down: the budget holds
        ((3000, 2), 100, (387, 1)),  # a strip keeps one row, and its shape before the budget
    ],
)
def test_the_annotators_picture_keeps_to_its_budget(size, max_pixels, expected):
    made = Image.open(io.BytesIO(drawing.annotated(_jpeg(*size), [], max_pixels, 90)))
    assert made.format == "JPEG"
    assert made.size == pytest.approx(expected, abs=1)
    assert made.width * made.height <= max(max_pixels, max(made.size))


def test_boxes_are_green_lines_of_two_pixels_on_the_sized_picture():
    made = Image.open(io.BytesIO(drawing.annotated(_jpeg(800, 800), [BOX], 40_000, 100)))
    row = np.asarray(made)[100, :, 1] > 128  # through the middle of 200 x 200
    assert list(np.flatnonzero(row)) == [50, 51, 148, 149]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "1"])
def test_pictures_of_every_mode_are_drawn_on(mode):
    made = Image.open(io.BytesIO(drawing.annotated(_jpeg(20, 20, mode), [BOX], 10_000, 90)))
    assert made.mode == "RGB"


@pytest.mark.parametrize("box", [WHOLE, (0.999, 0.999, 1.0, 1.0), (0.0, 0.0, 0.001, 1.0)])
def test_boxes_at_the_edge_are_drawn(box):
    small = Image.new("RGB", (3, 3))
    drawing.annotated(_jpeg(3, 3), [box], 100, 90)
    drawing.figure(small, small, [[WHOLE], [box]], [box])


def test_a_chain_is_drawn_with_every_step_in_its_colour_and_the_depth_beside():
    photo, relief = Image.new("RGB", (224, 168), "black"), Image.new("RGB", (224, 168), "red")
    steps = [[WHOLE], [(0.1, 0.1, 0.4, 0.4)], [BOX]]
    made = drawing.chain_picture(photo, relief, steps, [BOX], "What is it?")
    assert made.width == 2 * drawing.SIDE + drawing.GAP, "small pictures are enlarged"
    colours = {colour for _, colour in made.getcolors(1 << 24)}
    for number in range(len(steps)):
        assert tuple(bytes.fromhex(drawing.colour(number)[1:])) in colours
    assert drawing.TRUTH in colours


def test_a_strip_has_a_panel_a_step_and_the_depth():
    photo = Image.new("RGB", (100, 50), "white")
    steps = [[WHOLE], [BOX], [BOX, (0.0, 0.0, 0.1, 0.1)]]
    assert drawing.figure(photo, photo, steps, [BOX]).size == (
        4 * drawing.SIDE + 3 * drawing.GAP,
        drawing.SIDE // 2,
    )
    _, second, _ = drawing.panels(photo, steps, [BOX])
    assert second.getpixel((240, 120)) == (255, 255, 255), "inside the box it is as it was"
    assert second.getpixel((20, 20)) < (128, 128, 128), "outside it is dimmed"


def test_tags_do_not_hide_one_another():
    taken: list[tuple[int, int, int, int]] = []
    photo = Image.new("RGB", (drawing.SIDE, drawing.SIDE))
    for number in range(8):  # more than a box has corners
        drawing._tag(photo, WHOLE, number, taken)
    assert not any(drawing._overlap(a, b) for n, a in enumerate(taken) for b in taken[:n])
