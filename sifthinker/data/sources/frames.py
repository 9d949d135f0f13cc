"""What the four numbers of a box are: declared by `frame`, or told by all rows of a file together.

One row tells nothing for certain: [12, 8, 30, 20] may be two corners or a corner and a size. A whole file does. Where a
configuration leaves `frame` at its default, `recognised` looks at every row of a file first:

* all boxes in 0..1: `fractions`;
* all boxes are in their images as x, y, width, height, and a share of them cannot be corners: `xywh`;
* a share of the boxes cannot be corners, and nearly all fit as x, y, width, height, but not all, or not all rows have a
  size: probably `xywh`. The file is refused until `frame` says what it is, for the others would be kept with wrong boxes;
* a share of the boxes leaves its image, and nearly all numbers are in 0..1000: thousandths, or boxes of larger pictures.
  The file is refused for the same reason;
* anything else: pixels, x1, y1, x2, y2. Rows whose boxes are none of that become rejects, each for itself.

Rows without width and height do not tell which boxes leave their images. Where images are opened, their sizes are used
instead, and the file is refused at the end (`Evidence`).

Fewer rows than `FEWEST` tell nothing; their rows are rejected for themselves.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

from sifthinker.core import boxes
from sifthinker.core.errors import BadRow, UserError
from sifthinker.core.records import Box
from sifthinker.data.sources.files import rows

log = logging.getLogger(__name__)

UNDECLARED = "padded"  # the default of `config.Source.frame`
CANVAS = "canvas"  # of published rows alone: 0..1 of the square that VisCoT pads an image to
FEWEST = 20  # rows that together are certain
MARGIN = 0.1  # of the padded square: images with less on a side are nearly square
TALLYQA = "tallyqa"  # the data set whose boxes are of the image in the authors' file too
OFF = 0.05  # share of rows that cannot be corners in pixels, from which they are not slips of the pen
SLIP = 1.0  # pixels by which a box may leave its image
_LARGEST = 1e12  # of a number that says anything about a box or an image
THIN = 1.0  # pixels; what is narrower or lower shows nothing
_LOOKED_AT = (
    100  # rows at the beginning of a file, of which none has `bboxs`: conversations, which need no look
)
_SCALE = {"fractions": 1.0, "thousandths": 1000.0}


def corners(numbers: Sequence[float], frame: str) -> tuple[float, float, float, float]:
    """The four numbers of a box as x1, y1, x2, y2, on whatever scale they are."""
    x1, y1, x2, y2 = map(float, numbers)
    return (x1, y1, x1 + x2, y1 + y2) if frame == "xywh" else (x1, y1, x2, y2)


def in_pixels(box: Box, frame: str, width: int, height: int) -> Box:
    """A box of `corners` in pixels of its image, `width` x `height`; neither clipped nor rounded."""
    if frame == CANVAS:
        return boxes.to_pixels(boxes.from_padded(box, width, height), width, height)
    if scale := _SCALE.get(frame):
        x1, y1, x2, y2 = (number / scale for number in box)
        return boxes.to_pixels((x1, y1, x2, y2), width, height)
    return box


def on_image(box: Box, frame: str, width: int, height: int, turn: int = 1) -> Box:
    """A box of `corners` in 0..1 of its upright image, `width` x `height` pixels; neither clipped nor rounded.

    `turn` is the EXIF orientation of the stored pixels that its numbers are of.
    """
    wide, high = (width, height) if turn < 5 else (height, width)
    stored = in_pixels(box, frame, wide, high)
    upright = stored if turn == 1 else boxes.turned(stored, wide, high, turn)
    return boxes.from_pixels(upright, width, height)


def check_visible(box: Box, numbers: Box, frame: str, field: str) -> None:
    """Refuses a pixel box that is no pixel wide or high; `numbers` are as the row has them, in `frame`.

    Raises:
        BadRow: "box-fractions" where the numbers look like 0..1 and are read as pixels, else "box-degenerate".
    """
    thin = box[2] - box[0] < THIN or box[3] - box[1] < THIN
    largest = max(numbers)
    if frame not in (*_SCALE, CANVAS) and (largest <= 1 or (thin and largest <= 2)):
        detail = (
            f"box {list(numbers)} is read as pixels and covers one at most; if it is in 0..1, set the source's frame: "
            "fractions"
        )
        raise BadRow("box-fractions", detail, field)
    if not thin:
        return
    detail = f"box {list(numbers)} is less than a pixel wide or high; mend it or drop the row"
    raise BadRow("box-degenerate", detail, field)


def hint(numbers: Box, frame: str) -> str:
    """For the message about a box that leaves its image: what its numbers may be instead."""
    if frame == CANVAS:
        return "; if the file's boxes are in 0..1 of the image itself (`sif export`), set the source's frame: fractions"
    if frame in (UNDECLARED, "pixels", "release") and min(numbers) >= 0 and max(numbers) <= 1000:
        return "; if it is in 0..1000, set the source's frame: thousandths"
    return ""


class Told(ABC):
    """What rows tell of their source's frame: counts of them, of which a subclass has the fields."""

    def join(self, other: Told) -> None:
        """Adds the counts of other rows of the same source."""
        for one in fields(self):  # type: ignore[arg-type]
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))

    @abstractmethod
    def check(self, source: str, declared: str) -> None:
        """Refuses a source whose rows contradict the frame that is declared.

        Raises:
            UserError: they do.
        """


@dataclass
class Band(Told):
    """Whether the boxes of published rows lie where the padded square shows the image, as VisCoT's do, all of them.

    Rows whose image is nearly square tell nothing. Boxes of the image itself may all lie there, too, where photographers
    put things in the middle: that alone is not certain.
    """

    rows: int = 0  # of VisCoT's data sets, with a margin of the square that is worth the name
    off: int = 0  # of them, with a box that is not where the square shows the image

    def add(self, row: Sequence[Box], dataset: str, width: int, height: int) -> None:
        """Takes note of a row: its boxes as they are in the file, 0..1, and the size of its image in pixels."""
        left, top, right, bottom = boxes.to_padded((0.0, 0.0, 1.0, 1.0), width, height)
        if dataset.lower() == TALLYQA or max(left, top) < MARGIN:
            return
        slip = 2 / max(width, height)  # pixels: whole ones, and three decimals
        self.rows += 1
        self.off += any(
            x1 < left - slip or y1 < top - slip or x2 > right + slip or y2 > bottom + slip
            for x1, y1, x2, y2 in row
        )

    def check(self, source: str, declared: str) -> None:
        """Refuses a source whose rows contradict the frame that is declared, and warns where they are like another's.

        Raises:
            UserError: boxes of the image itself are declared as boxes on the padded square.
        """
        if declared == UNDECLARED and self.off > max(1, OFF * self.rows):
            raise UserError(
                f"sources.{source}: {self.off} of {self.rows} rows have boxes where the padded square shows no image, so they "
                "are of the image itself: set the source's frame to fractions (`sif export` writes such files)"
            )
        if declared == "fractions" and self.rows >= FEWEST and not self.off:
            log.warning(
                "sources.%s: all boxes of %d rows lie where VisCoT's padded square shows the image; if the file is the "
                "authors' own, they are on that square (PAPER.md R2.1): set frame: padded",
                *(source, self.rows),
            )


@dataclass
class Evidence(Told):
    """What the rows of a file have in common, by the sizes that they have or that their opened images have."""

    rows: int = 0
    sized: int = 0  # rows with the size of their image
    fractions: int = 0  # rows whose boxes are all in 0..1
    pixels: int = 0  # rows whose boxes can be corners in pixels
    sizes: int = 0  # rows whose boxes are all inside their image as x, y, width, height
    thousandths: int = 0  # rows whose boxes can be corners in 0..1000

    def add(self, found: Sequence[Sequence[float]], width: float, height: float) -> None:
        """Takes note of a row; `width` 0: the image's size is not known, and may be any."""
        self.rows += 1
        self.sized += bool(width)
        self.fractions += all(0 <= number <= 1 for box in found for number in box)
        ordered = all(x2 > x1 and y2 > y1 for x1, y1, x2, y2 in found)
        wide, high = (width + SLIP, height + SLIP) if width else (float("inf"),) * 2
        inside = all(min(box) >= -SLIP and box[2] <= wide and box[3] <= high for box in found)
        self.pixels += ordered and inside
        self.sizes += all(
            min(x, y) >= -SLIP and min(w, h) > 0 and x + w <= wide and y + h <= high for x, y, w, h in found
        )
        self.thousandths += ordered and all(0 <= number <= 1000 for box in found for number in box)

    @property
    def off(self) -> int:
        """Rows that cannot be corners in pixels; 0 where they are too few to be more than slips."""
        bad = self.rows - self.pixels
        return bad if bad > OFF * self.rows else 0

    def check(self, source: str, declared: str) -> None:
        """Refuses a source whose images, once opened, show that its boxes are no corners in pixels.

        Raises:
            UserError: its frame is not declared, and its boxes are probably something else.
        """
        if declared == UNDECLARED:
            self.refuse(f"sources.{source}")

    def refuse(self, file: str) -> None:
        """Refuses rows of which a share cannot be corners in pixels, and nearly all can be something else.

        Raises:
            UserError: `file` names it, and asks for its frame.
        """
        if self.rows < FEWEST or not self.off:
            return
        nearly = (1 - OFF) * self.rows  # the others may be slips of the pen
        declare = "or to pixels if they are"
        if self.sizes >= nearly:
            raise UserError(
                f"{file}: the boxes of {self.off} of {self.rows} rows are no corners in their images, and those of {self.sizes} "
                "fit as x, y, width, height as far as the rows tell: set the source's frame to xywh if they are that, "
                f"{declare} corners (rows that do not fit are then rejected)"
            )
        if self.thousandths >= nearly:
            numbers = "all numbers" if self.thousandths == self.rows else f"those of {self.thousandths} rows"
            raise UserError(
                f"{file}: the boxes of {self.off} of {self.rows} rows leave their images, and {numbers} are in 0..1000: set "
                f"the source's frame to thousandths if they are in 0..1000 of the image, {declare} pixels of other pictures "
                "than these (rows that do not fit are then rejected)"
            )


def recognised(path: Path, declared: str) -> str:
    """The frame of a file whose rows have `bboxs`.

    Args:
        path: of the file.
        declared: `config.Source.frame`; what is not its default is taken for granted.

    Raises:
        UserError: the rows together contradict pixels, and it is not certain what they are.
    """
    if declared != UNDECLARED:
        return declared
    seen, sized = Evidence(), Evidence()
    looked = islice(_boxed(path), _LOOKED_AT)
    if not any(found for found, _ in looked):
        return declared
    for found, (width, height) in _boxed(path):
        if found:
            seen.add(found, width, height)
            if width:
                sized.add(found, width, height)
    if seen.rows < FEWEST:
        return declared
    if seen.fractions == seen.rows:
        log.warning(
            "%s: the boxes of all %d rows are in 0..1, and read as that; declare frame: fractions",
            *(path.name, seen.rows),
        )
        return "fractions"
    if seen.off and seen.sizes == seen.sized == seen.rows:
        log.warning(
            "%s: the boxes of all %d rows fit as x, y, width, height, and %d are no corners; read as that; declare "
            "frame: xywh",
            *(path.name, seen.rows, seen.off),
        )
        return "xywh"
    seen.refuse(str(path))
    sized.refuse(str(path))  # of few rows with a size among others, these alone tell what leaves its image
    return declared


def _boxed(path: Path) -> Iterator[tuple[list[list[float]], tuple[float, float]]]:
    """The boxes of each row and its image's size (0, 0: not in the row); no boxes where they cannot be read.

    A file that is cut off is the matter of the reading after this.
    """
    try:
        for _, value in rows(path):
            found = value.get("bboxs") if isinstance(value, dict) else None
            good = isinstance(found, list) and bool(found) and all(map(_is_box, found))
            size = (value.get("width"), value.get("height")) if good else (0, 0)
            known = all(map(_is_number, size))
            yield (found if good else []), (size if known else (0, 0))  # type: ignore[misc]
    except UserError:
        return


def _is_box(found: Any) -> bool:
    return isinstance(found, list) and len(found) == 4 and all(map(_is_number, found))


def _is_number(found: Any) -> bool:
    """Whether it is one that can be calculated with: JSON has integers of any length."""
    return type(found) in (int, float) and abs(found) < _LARGEST
