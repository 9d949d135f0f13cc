"""What ingest does with many rows at a time, in whichever process: parse them, open their images, make samples.

Each function here depends on its argument alone, and gives the same in every process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from sifthinker import config
from sifthinker.core import records
from sifthinker.core.errors import BadRow
from sifthinker.core.given import Given
from sifthinker.core.images import BadImage
from sifthinker.core.records import Reject, Sample
from sifthinker.data.sources import SOURCES, Parser, files, frames
from sifthinker.data.sources.fields import Parse, Picture, Row, finish, look, parsed, place, placed, reject
from sifthinker.data.sources.fields import told as tell

# Images that one process has decoded in memory at a time, each of up to `max_pixels`. There is a process for each core.
AT_ONCE = 4


class Waiting(NamedTuple):
    """A good row that waits for its turn, as it lies in SQLite."""

    turn: bytes  # its place in line
    id: bytes  # of the sample
    number: int  # Row.number
    source: str
    dataset: str
    image: bytes | None  # names the image that has to be opened; none: nothing is left to be found out
    part: int | None  # of the sample, where there is one already
    row: bytes  # the `Sample` where there is one already, else the `Row`; JSON
    chain: bytes | None  # the `Given` of such a sample


class Kept(NamedTuple):
    """A sample, as it lies in SQLite."""

    part: int
    id: bytes
    row: bytes  # `Sample`, JSON
    chain: bytes | None  # `Given`, JSON


@dataclass
class Chunk:
    """Rows of a file, one after another: a stretch that is still to be decoded, or values."""

    source: config.Source
    frame: str  # of the file: `Format.frame`
    settings: config.Ingest
    parse: Parse | None = None  # for this process alone; another one makes its own
    rows: list[tuple[int, Any]] = field(default_factory=list)  # number and JSON value
    broken: list[Reject] = field(default_factory=list)  # rows between them that have no value
    stretch: files.Stretch | None = None

    def __reduce__(self) -> Any:
        """For another process, which makes its own `parse`."""
        parser = SOURCES[self.source.format].parser  # an entry from outside may be in this process alone
        return _chunk, (parser, self.source, self.frame, self.settings, self.rows, self.broken, self.stretch)


def _chunk(
    parser: Parser,
    source: config.Source,
    frame: str,
    settings: config.Ingest,
    rows: list[tuple[int, Any]],
    broken: list[Reject],
    stretch: files.Stretch | None,
) -> Chunk:
    return Chunk(source, frame, settings, _parse(parser, source, frame), rows, broken, stretch)


@lru_cache(maxsize=1)
def _parse(parser: Parser, source: config.Source, frame: str) -> Parse:
    """In a process of `Workers`, which ends with the ingest that it works for: no file changes meanwhile."""
    return parser(source.path, source.images, source, frame)


@dataclass
class Parsed:
    """What a chunk's rows are, each time in the order of the file."""

    waiting: list[tuple[Any, ...]] = field(default_factory=list)  # each a `Waiting`
    rejects: list[Reject] = field(default_factory=list)
    undecoded: bool = False  # the chunk's stretch is one that only `files.rest` can read; nothing else is set


def parse(chunk: Chunk) -> Parsed:
    """Parses and checks rows as far as that goes without their images; decodes them, where that is still to be done.

    Raises:
        UserError: what the parser finds wrong with the source as a whole.
    """
    assert chunk.parse
    source, settings = chunk.source, chunk.settings
    rows = chunk.rows if chunk.stretch is None else files.decode(chunk.stretch)
    if rows is None:
        return Parsed(undecoded=True)
    out = Parsed(rejects=chunk.broken)
    for number, value in rows:
        row = parsed(number, value, chunk.parse, source.name, source.path.name)
        if isinstance(row, Reject):
            out.rejects.append(row)
            continue
        try:
            out.waiting.append(tuple(_waiting(row, source, settings)))
        except BadRow as error:
            out.rejects.append(reject(row, error))
    out.rejects.sort(key=lambda each: each.row)
    return out


def _waiting(row: Row, source: config.Source, settings: config.Ingest) -> Waiting:
    """A row that may be sampled.

    Raises:
        BadRow: what keeps it from that, as far as it can be told without its image.
    """
    if row.dataset in settings.exclude:
        detail = f"{row.dataset} is in ingest.exclude = {list(settings.exclude)}"
        raise BadRow("excluded", detail, "dataset")
    turn = hashlib.sha256(f"{settings.seed}\0{row.id}".encode()).digest()
    head = (turn, row.id.encode(), row.number, row.source, row.dataset)
    if source.images is not None:
        if row.width:
            placed(row, row.width, row.height)
        return Waiting(*head, _key(source.images, row), None, orjson.dumps(tuple(row)), None)
    if not row.width:  # a reject, once its turn has come
        return Waiting(*head, None, None, orjson.dumps(tuple(row)), None)
    kept = _kept(place(row, None), row, None, settings.shards)
    return Waiting(*head, None, kept.part, kept.row, kept.chain)


@dataclass(frozen=True)
class Batch:
    """Rows whose images are looked at together."""

    rows: Sequence[bytes]  # `Row`, JSON
    images: Sequence[bytes]  # `Waiting.image` of each
    known: Mapping[bytes, list[Any]]  # what is known of images, see `Looked.found`
    folders: Mapping[str, Path]  # of the sources
    max_pixels: int
    shards: int


@dataclass(frozen=True)
class Looked:
    """What the images of a batch are, and what its rows are with them."""

    found: dict[bytes, list[Any]]  # fields of `Picture`, or reason and detail of what is wrong with it
    outcomes: list[Kept | Reject]
    told: list[frames.Told | None]  # what each row tells of its source's frame


def open_images(batch: Batch) -> Looked:
    """Opens the images of rows that are not known yet, each once, and makes samples."""
    rows = [unpack(packed) for packed in batch.rows]
    unknown = {key: row for key, row in zip(batch.images, rows, strict=True) if key not in batch.known}
    found: dict[bytes, list[Any]] = {}
    if unknown:
        with ThreadPoolExecutor(AT_ONCE) as pool:  # reading waits for the disk, and decoding lets others work
            pictures = pool.map(
                lambda row: look(batch.folders[row.source], row, batch.max_pixels), unknown.values()
            )
            found = {key: _plain(picture) for key, picture in zip(unknown, pictures, strict=True)}
    outcomes: list[Kept | Reject] = []
    told: list[frames.Told | None] = []
    for key, row in zip(batch.images, rows, strict=True):
        picture = _picture(found.get(key) or batch.known[key])
        told.append(tell(row, picture) if isinstance(picture, Picture) else None)
        made = finish(row, picture)
        outcomes.append(made if isinstance(made, Reject) else _kept(made, row, picture, batch.shards))
    return Looked(found, outcomes, told)


def _plain(picture: Picture | BadImage) -> list[Any]:
    return [picture.reason, picture.detail] if isinstance(picture, BadImage) else list(astuple(picture))


def _picture(found: list[Any]) -> Picture | BadImage:
    return BadImage(*found) if len(found) == 2 else Picture(*found)


def _kept(sample: Sample, row: Row, picture: Picture | BadImage | None, shards: int) -> Kept:
    """A sample with the chain that its row brings, and what says where the chain's boxes are."""
    turn = picture.orientation if isinstance(picture, Picture) else 1
    chain = (
        orjson.dumps(Given(row.id, row.chain, row.frame, turn, row.depth_image, row.file, row.number))
        if row.chain
        else None
    )
    return Kept(part(sample, shards), sample.id.encode(), orjson.dumps(sample), chain)


def part(sample: Sample, shards: int) -> int:
    """The part, 0 to shards - 1, that a sample is worked in: all samples of one image are in one part."""
    digest = sample.image_sha256 or hashlib.sha256(f"{sample.source}\0{sample.image}".encode()).hexdigest()
    return int(digest[:16], 16) % shards


def unpack(packed: bytes) -> Row:
    """The row of `Waiting.row`."""
    row = Row._make(orjson.loads(packed))
    return row._replace(
        images=tuple(row.images),
        boxes=records.boxes(row.boxes),
        canvas=row.canvas and records.boxes([row.canvas])[0],
        depth_image=tuple(row.depth_image),
    )


def _key(folder: Path, row: Row) -> bytes:
    """What names an image in all rows that show it; a folder's name may be no UTF-8."""
    return "\0".join((str(folder), *row.images)).encode("utf-8", "surrogatepass")
