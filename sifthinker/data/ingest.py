"""Ingest: the users' files become samples, chosen by seed, with their images opened.

Reads `sources`, writes `SAMPLES`, and `GIVEN` where sources bring chains. Every row of every file ends as one sample or one reject:

1. Rows are read and checked as far as that goes without images (`sources`); text-document data sets go.
2. The rest is ordered by SHA-256 of seed and id, whatever the order of the files (and of the rows, where they
   have a question_id).
3. In that order a row is taken while its data set is under `cap` and all are under `total`: per data set and in
   all a uniform sample without replacement. The image of a row is opened when it is its turn; one that is missing,
   broken or of another size is a reject, and the next row in line takes the place.

Departures from the release (PAPER.md R2.2), which takes the first `cap` rows of a data set in file order
and then the first `total` of those.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import astuple, dataclass, field
from pathlib import Path

import orjson

from sifthinker import config
from sifthinker.core import records
from sifthinker.core.errors import BadRow
from sifthinker.core.given import Given, given
from sifthinker.core.images import BadImage
from sifthinker.core.records import Reject, Sample
from sifthinker.data.disk_dict import Spill
from sifthinker.data.sources import SOURCES, frames
from sifthinker.data.sources.fields import Picture, Row, finish, look, placed, reject

log = logging.getLogger(__name__)

BATCH = 256  # images looked at together
BY_CHOICE = ("excluded", "not-sampled")  # reasons that are no fault of the row: exclude, cap and total say so
_REPORT_EVERY = 5_000  # rows
_TRIED = 10  # rows of a source that took their turn, from which all of them being broken tells of the source


@dataclass
class Tally:
    """How far the rows of each source came."""

    sound: Counter[str] = field(default_factory=Counter)  # readable, and waiting for their turn
    tried: Counter[str] = field(default_factory=Counter)  # took their turn: their images were opened
    kept: Counter[str] = field(default_factory=Counter)

    def empty(self, sources: Iterable[config.Source]) -> list[str]:
        """The sources that have no sample because of their rows, and not because the caps were reached before."""
        return [
            source.name
            for source in sources
            if not self.kept[source.name] and self.tried[source.name] >= min(_TRIED, self.sound[source.name])
        ]


def ingest(
    sources: Sequence[config.Source],
    config: config.Ingest,
    tally: Tally | None = None,
    keep_chain: Callable[[Sample, Given], None] | None = None,
) -> Iterator[Sample | Reject]:
    """Samples and rejects of all sources: rejects as they are found, then the samples sorted by id.

    Memory does not grow with the files: ids, rows that wait for their turn, what is known of images and the samples
    lie in temporary SQLite files, which the system removes with the process.

    Args:
        sources: the files.
        config: which of their rows are taken.
        tally: is counted up on the way.
        keep_chain: is told the chain that a sample's source brings, before the sample comes out.

    Raises:
        UserError: a file cannot be read, is not JSON or is cut off, or its boxes are not in the frame that is declared.
    """
    tally = tally or Tally()
    with closing(sqlite3.connect("")) as waiting:
        waiting.execute("CREATE TABLE waiting (turn BLOB, row BLOB)")
        for source in sources:
            for row in SOURCES[source.format].read(source.path, source.images, source):
                if isinstance(row, Reject):
                    yield row
                elif (wrong := _unfit(row, config)) is not None:
                    yield reject(row, wrong)
                else:
                    tally.sound[row.source] += 1
                    waiting.execute(
                        "INSERT INTO waiting VALUES (?, ?)", (_turn(row.id, config.seed), _pack(row))
                    )
        in_line = (_unpack(packed) for (packed,) in waiting.execute("SELECT row FROM waiting ORDER BY turn"))
        yield from _choose(in_line, sources, config, tally, keep_chain)


def part(sample: Sample, shards: int) -> int:
    """The part, 0 to shards - 1, that a sample is worked in: all samples of one image are in one part."""
    digest = sample.image_sha256 or hashlib.sha256(f"{sample.source}\0{sample.image}".encode()).hexdigest()
    return int(digest[:16], 16) % shards


def _unfit(row: Row, config: config.Ingest) -> BadRow | None:
    """What keeps a row from the sampling that can be told without its image."""
    if row.dataset in config.exclude:
        detail = f"{row.dataset} is in ingest.exclude = {list(config.exclude)}"
        return BadRow("excluded", detail, "dataset")
    try:
        if row.width:
            placed(row, row.width, row.height)
    except BadRow as error:
        return error
    return None


def _choose(
    in_line: Iterable[Row],
    sources: Sequence[config.Source],
    config: config.Ingest,
    tally: Tally,
    keep_chain: Callable[[Sample, Given], None] | None,
) -> Iterator[Sample | Reject]:
    """Takes rows in turn under the caps; rejects at once, samples at the end by id."""
    count: Counter[str] = Counter()  # of the kept, by data set
    batch: list[Row] = []
    bands: dict[str, frames.Band] = {}
    folders = {source.name: source.images for source in sources}
    planned: Counter[str] = Counter()  # of the kept and the batch: what the caps allow if every image is good

    def full(row: Row, taken: Counter[str]) -> str:
        if taken[row.dataset] >= config.cap:
            return f"ingest.cap = {config.cap} rows of {row.dataset}"
        return f"ingest.total = {config.total} rows" if taken.total() >= config.total else ""

    with ThreadPoolExecutor() as pool, Spill() as kept, Spill() as known, Spill() as chains:
        pictures = _Pictures(folders, config.max_pixels, pool, known)

        def settle() -> Iterator[Reject]:
            for row, picture in zip(batch, pictures.of(batch), strict=True):
                result = finish(row, picture)
                tally.tried[row.source] += 1
                if row.chain and isinstance(picture, Picture):
                    band = bands.setdefault(row.source, frames.Band())
                    band.add(row.boxes, row.dataset, picture.width, picture.height)
                if isinstance(result, Reject):
                    yield result
                    continue
                kept[result.id] = result
                if row.chain:
                    chains[result.id] = _brought(row, picture)
                count[row.dataset] += 1
                tally.kept[row.source] += 1
            batch.clear()
            planned.clear()
            planned.update(count)

        for number, row in enumerate(in_line, 1):
            if number % _REPORT_EVERY == 0:
                log.info("%d rows decided, %d samples of at most %d", number, count.total(), config.total)
            # A row that only the batch stands in the way of waits until the batch's images are known.
            if len(batch) == BATCH or (batch and full(row, planned) and not full(row, count)):
                yield from settle()
            if by := full(row, count):
                yield reject(row, BadRow("not-sampled", f"{by} are taken; raise it to take more", "id"))
            else:
                batch.append(row)
                planned[row.dataset] += 1
        yield from settle()
        log.info("%d samples: %s", count.total(), dict(sorted(count.items())))
        for source in sources:
            bands.get(source.name, frames.Band()).check(source.name, source.frame)
        for made in map(records.sample, kept.values()):
            if keep_chain and made.id in chains:
                keep_chain(made, given(chains[made.id]))
            yield made


def _brought(row: Row, picture: Picture | BadImage | None) -> Given:
    """The chain that a row brings, with what says where its boxes are."""
    turn = picture.orientation if isinstance(picture, Picture) else 1
    return Given(row.id, row.chain, row.frame, turn, row.depth_image, row.file, row.number)


class _Pictures:
    """What is known of images; one that several rows show is read once."""

    def __init__(
        self, folders: Mapping[str, Path | None], max_pixels: int, pool: ThreadPoolExecutor, known: Spill
    ) -> None:
        self.folders = folders
        self.max_pixels = max_pixels
        self.pool = pool
        self.known = known  # `_key` to the picture, or to reason and detail of what is wrong with it

    def of(self, rows: Sequence[Row]) -> list[Picture | BadImage | None]:
        """One a row; None where its source has no image folder."""
        unknown: dict[str, tuple[Path, Row]] = {}
        for row in rows:
            folder = self.folders[row.source]
            if folder is not None and (key := _key(folder, row)) not in self.known:
                unknown.setdefault(key, (folder, row))
        found = self.pool.map(lambda item: look(item[0], item[1], self.max_pixels), unknown.values())
        for key, picture in zip(unknown, found, strict=True):
            self.known[key] = (
                [picture.reason, picture.detail] if isinstance(picture, BadImage) else astuple(picture)
            )
        return [
            None if (folder := self.folders[row.source]) is None else self._known(folder, row) for row in rows
        ]

    def _known(self, folder: Path, row: Row) -> Picture | BadImage:
        found = self.known[_key(folder, row)]
        return BadImage(*found) if len(found) == 2 else Picture(*found)


def _key(folder: Path, row: Row) -> str:
    return "\0".join((str(folder), *row.images))


def _turn(id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{id}".encode()).digest()


def _pack(row: Row) -> bytes:
    return orjson.dumps(tuple(row))


def _unpack(packed: bytes) -> Row:
    row = Row._make(orjson.loads(packed))
    return row._replace(
        images=tuple(row.images),
        boxes=records.boxes(row.boxes),
        canvas=row.canvas and records.boxes([row.canvas])[0],
        depth_image=tuple(row.depth_image),
    )
