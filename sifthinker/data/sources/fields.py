"""A row of an annotation file, checked as far as that goes without its image, and the sample made of it.

A source writes `parser(path, images, config, frame)`, which gives what makes a `Row` of a value of its file. `ingest` samples
the rows and opens the images of those it takes only; `Format.__call__` (all a notebook needs) opens the image of every row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sifthinker import config
from sifthinker.core import boxes, images, special_tokens
from sifthinker.core.errors import BadRow
from sifthinker.core.records import Box, Reject, Sample
from sifthinker.data.sources import frames, photographs

STAGE = "ingest"
# Annotators drew some boxes beyond the image (CUB by up to 26 of 333 pixels, GQA by 1 to 5). A box is clipped
# if the image holds this share of its area, or if it leaves the image by one pixel (ends counted inclusively).
MIN_INSIDE = 0.9
EDGE = 1.0  # pixels
# Far beyond any annotation. A longer text or more boxes fit neither the annotator's reply nor a training's context.
MOST_CHARACTERS = 10_000
MOST_BOXES = 100
MAX_PIXELS: int = config.Ingest().max_pixels


class Row(NamedTuple):  # of which most are never more than counted: made in a quarter of a dataclass's time
    """One question as its file has it."""

    id: str
    source: str
    dataset: str
    split: str
    question: str
    answer: str
    images: tuple[str, ...]  # where the image may lie in the image folder; the first that exists is it
    width: int  # pixels, as the file says; 0 = it does not
    height: int
    boxes: tuple[Box, ...]  # x1, y1, x2, y2 on the scale of `frame`
    canvas: Box | None  # VisCoT conversations: the box on the padded square, 0..1
    frame: str  # config.Source.frame, as it was recognised, or frames.CANVAS
    file: str
    number: int  # Reject.row
    chain: str = ""  # as the source has it; empty: it is to be bought
    depth_image: tuple[str, ...] = ()  # of the published set: where its depth picture may lie


Parse = Callable[
    [int, Mapping[str, Any]], Row
]  # of a row's number and its value; raises BadRow, BadImage, UserError


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file that was found, opened and decoded."""

    path: str  # relative to the image folder
    width: int
    height: int
    sha256: str
    orientation: int = 1  # images.Photo.orientation


def reject(row: Row, error: BadRow | images.BadImage) -> Reject:
    """The row as a reject, for what was found wrong with it."""
    field = error.field if isinstance(error, BadRow) else "image"
    return Reject(STAGE, error.reason, error.detail, row.id, row.source, row.file, row.number, field)


def checked(rows: Iterable[tuple[int, Any]], parse: Parse, source: str, file: str) -> Iterator[Row | Reject]:
    """The rows parsed; those that are broken as rejects. Which ids repeat is known once images are opened."""
    return (parsed(number, value, parse, source, file) for number, value in rows)


def nameless(error: BadRow | images.BadImage, source: str, file: str, number: int) -> Reject:
    """The reject of a row of which no id is known."""
    field = error.field if isinstance(error, BadRow) else "image"
    return Reject(STAGE, error.reason, error.detail, "", source, file, number, field)


def parsed(number: int, value: Any, parse: Parse, source: str, file: str) -> Row | Reject:
    """The row that a value of the file is; what is wrong with it where it is none.

    Raises:
        UserError: what `parse` finds wrong with the source as a whole.
    """
    try:
        if isinstance(value, BadRow):
            return nameless(value, source, file, number)
        if not isinstance(value, dict):
            raise BadRow("wrong-type", f"a row is a JSON object, found {short(value)}; drop the row")
        return parse(number, value)
    except (BadRow, images.BadImage) as error:
        return nameless(error, source, file, number)
    except RecursionError:  # a value nested so deeply that it parses but cannot be shown
        detail = "a value is nested too deeply; drop the row"
        return Reject(STAGE, "wrong-type", detail, "", source, file, number)


def repeated(id: str, first: int, source: str, file: str, number: int) -> Reject:
    """The reject of a row with the id of an earlier good one, the row `first`."""
    detail = (
        f"row {first} has id {id} too; make unique what ids are made of (dataset and question_id; of the published set "
        "dataset, image, problem and response), or drop one"
    )
    return Reject(STAGE, "duplicate-id", detail, "", source, file, number, "question_id")


def look(root: Path, row: Row, max_pixels: int) -> Picture | images.BadImage:
    """Finds, reads and decodes the image of a row; what is wrong with it is returned, for others to see too."""
    for relative in row.images:
        try:
            found = images.read(root, relative, max_pixels)
            photographs.check(found, relative)
        except images.BadImage as error:
            if error.reason != "image-missing":
                return photographs.explained(error, root, relative)
        else:
            return Picture(relative, found.width, found.height, found.sha256, found.orientation)
    looked = " nor ".join(row.images)
    return images.BadImage(
        "image-missing", f"no file {looked} in the image folder; check the source's `images`"
    )


def told(row: Row, picture: Picture) -> frames.Told | None:
    """What a row and its opened image tell of the frame of their source; None: nothing."""
    if row.chain:
        band = frames.Band()
        band.add(row.boxes, row.dataset, picture.width, picture.height)
        return band if band.rows else None
    if row.frame != frames.UNDECLARED or row.canvas is not None or row.width:
        return None  # it is declared, or was to be seen in the file
    seen = frames.Evidence()
    upright = (picture.width, picture.height)
    seen.add(row.boxes, *(upright if picture.orientation < 5 else upright[::-1]))  # as `placed` reads them
    return seen


def finish(row: Row, picture: Picture | images.BadImage | None) -> Sample | Reject:
    """The sample of a row and its image (None: not opened), or why there is none."""
    try:
        if isinstance(picture, images.BadImage):
            raise picture
        return place(row, picture)
    except (BadRow, images.BadImage) as error:
        return reject(row, error)


def place(row: Row, picture: Picture | None) -> Sample:
    """The sample of a row: boxes checked against the image's size and brought to 0..1 of the image.

    Raises:
        BadRow: "size-mismatch", "size-missing", "box-mismatch", "box-outside", "box-fractions" or "box-degenerate".
    """
    width, height = (picture.width, picture.height) if picture else (row.width, row.height)
    orientation = picture.orientation if picture else 1
    return Sample(
        id=row.id,
        source=row.source,
        dataset=row.dataset,
        split=row.split,
        question=row.question,
        answer=row.answer,
        image=picture.path if picture else row.images[0],
        image_sha256=picture.sha256 if picture else "",
        width=width,
        height=height,
        boxes=placed(row, width, height, orientation),
    )


def placed(row: Row, width: int, height: int, orientation: int = 1) -> tuple[Box, ...]:
    """The boxes of a row in 0..1 of its image, which has `width` x `height` pixels upright (0: not known).

    Where the image file has an EXIF `orientation`, the row's size tells whether its boxes are of the upright picture
    or of the stored pixels, as which they are turned with the picture; `boxes.turn` has the rule.

    Raises:
        BadRow: see `place`.
    """
    if not width:
        raise BadRow(
            "size-missing", "no image size in the row; add width and height, or give `images`", "width"
        )
    upright = (width, height)
    stored = upright if orientation < 5 else (height, width)
    said = (row.width, row.height)
    if row.width and said not in (upright, stored):
        raise BadRow(
            "size-mismatch",
            f"the row says {row.width}x{row.height}, the image has {width}x{height} pixels; boxes would be off: "
            "use the image that was annotated",
            "width",
        )
    turn = boxes.turn(said, upright, orientation)
    wide, high = stored if turn != 1 else upright  # of the picture that the boxes are of
    pixels = tuple(frames.in_pixels(box, row.frame, wide, high) for box in row.boxes)
    if row.canvas is not None and row.frame == "release":
        x1, y1, x2, y2 = row.canvas
        pixels = ((x1 * wide, y1 * high, x2 * wide, y2 * high),)
    elif row.canvas is not None:
        _check_canvas(row.canvas, row.boxes, wide, high)
    field = _field(row)
    inside = [
        _clip(box, numbers, row.frame, wide, high, field)
        for box, numbers in zip(pixels, row.boxes if row.canvas is None else pixels, strict=True)
    ]
    if turn != 1:
        inside = [boxes.turned(box, wide, high, turn) for box in inside]
    return tuple([boxes.from_pixels(box, width, height) for box in inside])


def _check_canvas(canvas: Box, pixels: tuple[Box, ...], width: int, height: int) -> None:
    """Compares a VisCoT conversation's box with the hull of its pixel boxes.

    The converter writes the true edge t twice: int(t), which is in (t - 1, t] (in [t, t + 1) for t < 0), and
    (t + pad) / s to three decimals, s the longer side, which un-padded is within s * 0.0005 of t. Their difference
    therefore is in [-0.0005 s, 1 + 0.0005 s] pixels, and may be 1 lower where int(t) <= 0.
    """
    half = 0.0005 * max(width, height) + 1e-6
    x1, y1, x2, y2 = boxes.from_padded(canvas, width, height)
    read = (x1 * width, y1 * height, x2 * width, y2 * height)
    written = boxes.hull(pixels)
    if not all(-half - (b <= 0) <= a - b <= 1 + half for a, b in zip(read, written, strict=True)):
        raise BadRow(
            "box-mismatch",
            f"conversation box {list(canvas)} is {[round(v, 1) for v in read]} in pixels of a {width}x{height} "
            f"image, the box after ### is {list(written)}; they differ by more than rounding: mend one",
            "conversations",
        )


def _field(row: Row) -> str:
    """The field that the boxes of a row are in."""
    if row.chain:
        return "normalized_solution_round"
    return "bboxs" if row.canvas is None else "image"


def _clip(box: Box, numbers: Box, frame: str, width: int, height: int, field: str) -> Box:
    """The part of a pixel box inside the image, if it is nearly all of it; `numbers` are the row's own, in `frame`."""
    frames.check_visible(box, numbers, frame, field)
    x1, y1, x2, y2 = box
    if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
        return box
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    across, down = inside[2] - inside[0], inside[3] - inside[1]
    if (
        across <= 0
        or down <= 0
        or (
            across * down < MIN_INSIDE * (x2 - x1) * (y2 - y1)
            and max(-x1, -y1, x2 - width, y2 - height) > EDGE
        )
    ):
        raise BadRow(
            "box-outside",
            f"box {list(numbers)} leaves the {width}x{height} image by more than a slip; mend it or drop the row"
            f"{frames.hint(numbers, frame)}",
            field,
        )
    return inside


def member(value: Mapping[str, Any], field: str) -> Any:
    """The value of a field that must be there."""
    if field not in value:
        raise BadRow("missing-field", f"no field {field!r}, found {sorted(value)[:12]}; add it", field)
    return value[field]


def text(found: Any, field: str) -> str:
    """A text with something in it that models may be shown, without white space around it."""
    if not isinstance(found, str):
        raise BadRow("wrong-type", f"{field} must be text, found {short(found)}", field)
    encodable(found, field)
    if not (stripped := found.strip()):
        raise BadRow("empty", f"{field} is empty; fill it or drop the row", field)
    if len(stripped) > MOST_CHARACTERS:
        detail = (
            f"{field} has {len(stripped):,} characters, at most {MOST_CHARACTERS:,} are taken; shorten it"
        )
        raise BadRow("text-too-long", detail, field)
    if token := special_tokens.find(stripped):
        detail = f"{field} holds {token}, which models read as a command and not as text; take it out"
        raise BadRow("special-token", detail, field)
    return stripped


def encodable(found: str, field: str) -> None:
    """Refuses a text with half a character in it.

    Raises:
        BadRow: "not-utf8".
    """
    if found.isascii():
        return
    try:
        found.encode()
    except UnicodeEncodeError as error:
        detail = f"{field} is not UTF-8 at character {error.start}: {short(found)}; save the file as UTF-8"
        raise BadRow("not-utf8", detail, field) from error


def label(found: Any, field: str) -> str:
    """A text or a whole number, as a text."""
    return str(found) if isinstance(found, int) and not isinstance(found, bool) else text(found, field)


def question(found: Any) -> str:
    """A question, without the tags of a chain: the policy could not tell them from its own."""
    written = text(found, "question")
    for tag in special_tokens.TAG.findall(written):
        if tag in special_tokens.CHAIN_TAGS:
            raise BadRow("chain-tag", f"question holds {tag}, a tag of the chain; take it out", "question")
    return written


def answer(found: Any, field: str = "answer") -> str:
    """An answer that a chain can give, a text or a count: one with a tag is refused by the chain's grammar."""
    written = label(found, field)
    if tag := special_tokens.TAG.search(written):
        detail = f"the answer holds the tag {tag[0][:40]}, with which no chain is accepted; take it out"
        raise BadRow("chain-tag", detail, field)
    return written


def identity(number: int, value: Mapping[str, Any], source: str, dataset: str) -> str:
    """The sample's id, from the row's question_id or, where it has none, its place in the file."""
    found = value.get("question_id", f"row{number}")
    return f"{source}/{dataset}/{label(found, 'question_id')}"


def size(value: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height in pixels, 0 and 0 where the row has neither."""
    if "width" not in value and "height" not in value:
        return 0, 0
    return _side(member(value, "width"), "width"), _side(member(value, "height"), "height")


def some_boxes(found: Any, field: str = "bboxs", frame: str = "pixels") -> tuple[Box, ...]:
    """One or more boxes whose numbers are in `frame`, as corners on its scale."""
    if found is None or found == []:
        raise BadRow("no-box", f"{field} holds no box; add one or drop the row", field)
    if not isinstance(found, list):
        raise BadRow("wrong-type", f"{field} must be a list of boxes, found {short(found)}", field)
    if len(found) > MOST_BOXES:
        detail = f"{field} holds {len(found):,} boxes, at most {MOST_BOXES} are taken; drop some, or the row"
        raise BadRow("too-many-boxes", detail, field)
    return tuple(box(item, field, frame) for item in found)


def box(found: Any, field: str, frame: str = "pixels") -> Box:
    """Four numbers with x2 > x1 and y2 > y1, or in the frame xywh a corner and a size above 0."""
    if not isinstance(found, list) or len(found) != 4 or not all(map(_is_number, found)):
        raise BadRow(
            "wrong-type", f"{field}: a box is [x1, y1, x2, y2], finite numbers, found {short(found)}", field
        )
    x1, y1, x2, y2 = frames.corners(found, frame)
    if x2 > x1 and y2 > y1:
        return x1, y1, x2, y2
    form = "[x, y, width, height]" if frame == "xywh" else "[x1, y1, x2, y2]"
    other = "" if frame == "xywh" else "; if it is [x, y, width, height], set the source's frame: xywh"
    raise BadRow("box-degenerate", f"{field}: box {found} has no area as {form}; mend it{other}", field)


def _side(found: Any, field: str) -> int:
    if not _is_number(found) or found != int(found) or found < 1:
        raise BadRow(
            "wrong-type", f"{field} must be a whole number of pixels above 0, found {short(found)}", field
        )
    return int(found)


def _is_number(found: Any) -> bool:
    # The bounds also leave out infinities and not-a-number.
    return type(found) in (int, float) and -1e9 < found < 1e9  # JSON has no other types; bool is not int here


def short(found: Any) -> str:
    """What was found, for a message: ASCII, and cut."""
    return f"{type(found).__name__} {ascii(found)[:80]}"
