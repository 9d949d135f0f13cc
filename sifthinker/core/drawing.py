"""Boxes drawn on pictures: chains for people, and the annotator's pictures.

Boxes are in 0..1 of the image itself. The pictures hold no clock and no path: equal input, equal pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from sifthinker.core import images
from sifthinker.core.records import Box

GREEN = (0, 255, 0)  # of the annotator's boxes (paper; release, produce.py)
TRUTH = (255, 255, 255)  # ground truth: white, dashed
EDGE = (20, 20, 20)  # dark, around every line, so that it shows on any ground
# One colour a step, in order (Okabe and Ito, told apart by colour-blind people too); also used by the report.
STEPS = ("#56b4e9", "#f0e442", "#e69f00", "#d55e00", "#cc79a7", "#009e73", "#0072b2")
SIDE = 480  # pixels: longer side of a photograph in a drawing; small ones are enlarged to it
GAP = 8  # pixels between the pictures of a drawing


def annotated(image: bytes, boxes: Sequence[Box], max_pixels: int, quality: int) -> bytes:
    """JPEG of the image with its boxes in green, 2 px, as the annotator is shown it (paper, Algorithm 1).

    It is sized down to at most `max_pixels` first, so that the lines stay 2 px wide; never enlarged.
    """
    photo = images.rgb(image)
    scale = math.sqrt(max_pixels / (photo.width * photo.height))
    if scale < 1:
        size = (max(1, int(photo.width * scale)), max(1, int(photo.height * scale)))
        photo.thumbnail(size, Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(photo)
    for box in boxes:
        pen.rectangle(_pixels(box, photo), outline=GREEN, width=2)
    return encode(photo, quality)


def overview(
    image: Image.Image, depth_picture: Image.Image, steps: Sequence[Sequence[Box]], truth: Sequence[Box]
) -> tuple[Image.Image, Image.Image]:
    """The photograph with the boxes of every step, numbered in order, and the depth picture.

    Ground truth is dashed white, on both.
    """
    photo, relief = _fit(image), _fit(depth_picture)
    for number, boxes in enumerate(steps):
        for box in boxes:
            _outline(photo, box, colour(number))
    for picture in (photo, relief):
        for box in truth:
            _dashed(picture, box)
    tags: list[tuple[int, int, int, int]] = []
    for number, boxes in enumerate(steps):  # after all lines, so that no line crosses a number
        for box in boxes:
            _tag(photo, box, number, tags)
    return photo, relief


def chain_picture(
    image: Image.Image,
    depth_picture: Image.Image,
    steps: Sequence[Sequence[Box]],
    truth: Sequence[Box],
    title: str = "",
) -> Image.Image:
    """`overview` as one picture, side by side. `title` goes above, where one is given."""
    return titled(_row(overview(image, depth_picture, steps, truth)), title)


def panels(
    image: Image.Image, steps: Sequence[Sequence[Box]], truth: Sequence[Box], side: int = SIDE
) -> list[Image.Image]:
    """One picture a step: the photograph with that step's boxes, dimmed outside them; truth in the last one."""
    out = []
    for number, boxes in enumerate(steps):
        photo = _fit(image, side)
        mask = Image.new("L", photo.size, 110)
        for box in boxes:
            ImageDraw.Draw(mask).rectangle(_pixels(box, photo), fill=255)
        photo = Image.composite(photo, Image.new("RGB", photo.size), mask)
        for box in boxes:
            _outline(photo, box, colour(number))
        if number == len(steps) - 1:
            for box in truth:
                _dashed(photo, box)
        tags: list[tuple[int, int, int, int]] = []
        for box in boxes:
            _tag(photo, box, number, tags)
        out.append(photo)
    return out


def figure(
    image: Image.Image,
    depth_picture: Image.Image,
    steps: Sequence[Sequence[Box]],
    truth: Sequence[Box],
    title: str = "",
) -> Image.Image:
    """A whole chain as a strip: one panel a step, the depth picture last."""
    return titled(_row([*panels(image, steps, truth), _fit(depth_picture)]), title)


def colour(step: int) -> str:
    """The colour of a step, counted from 0; they repeat after the last."""
    return STEPS[step % len(STEPS)]


def encode(picture: Image.Image, quality: int = 85) -> bytes:
    """JPEG bytes of a drawing."""
    out = io.BytesIO()
    picture.convert("RGB").save(out, "JPEG", quality=quality)
    return out.getvalue()


def _fit(image: Image.Image, side: int = SIDE) -> Image.Image:
    """An RGB copy whose longer side is `side` pixels."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _pixels(box: Box, image: Image.Image) -> tuple[int, int, int, int]:
    """First and last pixel, both inside the box and the image, in x and in y."""
    width, height = image.size
    left, top = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    return left, top, max(left, math.ceil(box[2] * width) - 1), max(top, math.ceil(box[3] * height) - 1)


def _outline(image: Image.Image, box: Box, ink: str) -> None:
    """A line of 3 px in a dark edge, which shows on any ground."""
    left, top, right, bottom = _pixels(box, image)
    pen = ImageDraw.Draw(image)
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=EDGE, width=5)
    pen.rectangle((left, top, right, bottom), outline=ink, width=3)


def _dashed(image: Image.Image, box: Box, dash: int = 9) -> None:
    """White dashes in a dark edge; what is between them (a step's line) stays visible."""
    left, top, right, bottom = _pixels(box, image)
    pen = ImageDraw.Draw(image)
    level = [
        (x, y, min(x + dash, right), y + 1) for x in range(left, right, 2 * dash) for y in (top, bottom - 1)
    ]
    upright = [
        (x, y, x + 1, min(y + dash, bottom)) for y in range(top, bottom, 2 * dash) for x in (left, right - 1)
    ]
    for x1, y1, x2, y2 in level + upright:
        pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), fill=EDGE)
        pen.rectangle((x1, y1, x2, y2), fill=TRUTH)


def _tag(image: Image.Image, box: Box, number: int, taken: list[tuple[int, int, int, int]]) -> None:
    """The number of a step at a corner of its box, beside the tags that are there already."""
    size = 20
    left, top, right, bottom = _pixels(box, image)
    corners = [(x, y) for y in (top, bottom - size) for x in (left, right - size)]
    along = [(left + n * (size + 2), top) for n in range(1, image.width // size)]
    for x, y in [*corners, *along]:
        x, y = max(0, min(x, image.width - size)), max(0, min(y, image.height - size))
        place = (x, y, x + size, y + size)
        if not any(_overlap(place, other) for other in taken):
            break
    taken.append(place)
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle(place, radius=4, fill=colour(number), outline=EDGE)
    middle = (place[0] + size / 2, place[1] + size / 2)
    pen.text(middle, str(number + 1), fill=EDGE, font=ImageFont.load_default(14), anchor="mm")


# As `boxes.intersects`, which is not used here: every change of the measures in `boxes` would then make `annotate` new, whose
# pictures are drawn here.
def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _row(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures side by side on white."""
    width = sum(p.width for p in pictures) + GAP * (len(pictures) - 1)
    out = Image.new("RGB", (width, max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        out.paste(picture, (left, 0))
        left += picture.width + GAP
    return out


def titled(picture: Image.Image, title: str) -> Image.Image:
    """The picture under a line of text, shortened to its width; as it is without one."""
    if not title:
        return picture
    font = ImageFont.load_default(16)
    while font.getlength(title) > picture.width - 2 * GAP and len(title) > 1:
        title = title[:-2].rstrip() + "…"
    out = Image.new("RGB", (picture.width, picture.height + 28), "white")
    out.paste(picture, (0, 28))
    ImageDraw.Draw(out).text((GAP, 14), title, fill=EDGE, font=font, anchor="lm")
    return out
