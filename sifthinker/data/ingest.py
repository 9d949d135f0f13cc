"""Ingest: the users' files become samples, chosen by seed, with their images opened.

Reads `sources`, writes `SAMPLES`, and `GIVEN` where sources bring chains. Every row of every file ends as one sample or one reject:

1. Rows are read and checked as far as that goes without images (`sources`); text-document data sets go.
2. The rest is ordered by SHA-256 of seed and id, whatever the order of the files (and of the rows, where they
   have a question_id).
3. In that order a row is taken while its data set is under `cap` and all are under `total`: per data set and in
   all a uniform sample without replacement. The image of a row is opened when it is its turn; one that is missing,
   broken or of another size is a reject, and the next row in line takes the place. Rows with one id follow each
   other, as they do in the file: the first good one takes the id, and those after it are rejects.

Rows are parsed, images opened and tables made by `Workers` (`ingest_work`). What depends on the order of the rows is done
here, in one process: which ids repeat, whose turn it is, what the caps leave. So the result does not depend on the workers.

Departures from the release (PAPER.md R2.2), which takes the first `cap` rows of a data set in file order
and then the first `total` of those.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sifthinker import config
from sifthinker.core.errors import BadRow, UserError
from sifthinker.core.given import GIVEN
from sifthinker.core.records import Reject
from sifthinker.core.tables import SAMPLES
from sifthinker.data.disk_dict import Spill
from sifthinker.data.ingest_parts import write_parts
from sifthinker.data.ingest_rows import Rows
from sifthinker.data.ingest_work import (
    Batch,
    Chunk,
    Kept,
    Looked,
    Parsed,
    Waiting,
    open_images,
    parse,
    unpack,
)
from sifthinker.data.sources import SOURCES, files, frames
from sifthinker.data.sources.fields import STAGE, finish, nameless, repeated
from sifthinker.system.cores import Workers

log = logging.getLogger(__name__)

CHUNK = 500  # rows parsed together, where they are not decoded by the stretch
BATCH = 256  # images looked at together
BY_CHOICE = ("excluded", "not-sampled")  # reasons that are no fault of the row: exclude, cap and total say so
_REPORT_EVERY = 5_000  # rows
_HELD = 1_000  # rejects that wait for the images of rows before them
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


def write(
    sources: Sequence[config.Source],
    config: config.Ingest,
    samples: Sequence[Path],
    chains: Sequence[Path],
    workers: Workers,
    tally: Tally,
) -> Iterator[Reject | int]:
    """Writes the samples of all sources, each part sorted by id.

    Memory does not grow with the files.

    Args:
        sources: the files.
        config: which of their rows are taken.
        samples: a file of `SAMPLES` for each part.
        chains: a file of `GIVEN` for each part; none: no source brings chains.
        workers: do what can be done in several processes.
        tally: is counted up on the way.

    Yields:
        Rejects as they are found, then how many rows more were written.

    Raises:
        UserError: a file cannot be read, is not JSON or is cut off, or its boxes are not in the frame that is declared.
    """
    assert len(samples) == config.shards
    batch = max(200, min(1_000, 40_000 // config.shards))  # rows of a row group
    with Rows() as rows:
        yield from _select(sources, config, tally, rows, workers)
        yield from write_parts(rows.samples(), SAMPLES, samples, batch, workers)
        if chains:
            for _ in write_parts(rows.chains(), GIVEN, chains, batch, workers):
                pass  # their samples are counted


def _select(
    sources: Sequence[config.Source], config: config.Ingest, tally: Tally, rows: Rows, workers: Workers
) -> Iterator[Reject]:
    """Takes samples into `rows`, and gives the rejects."""
    for source in sources:
        form = SOURCES[source.format]
        frame = form.frame(source.path, source.frame)
        chunk = Chunk(source, frame, config, form.parser(source.path, source.images, source, frame))
        for found in _parsed(chunk, workers):
            yield from found.rejects
            tally.sound[source.name] += len(found.waiting)
            rows.wait(found.waiting)
    with Spill() as known:
        choice = _Choice(sources, config, tally, rows, workers, known)
        yield from choice.take(rows.in_line())
    log.info("%d samples: %s", choice.total, dict(sorted(choice.count.items())))
    for source in sources:
        if told := choice.told.get(source.name):
            told.check(source.name, source.frame)


def _parsed(like: Chunk, workers: Workers) -> Iterator[Parsed]:
    """The rows of a file, parsed; a file that is cut off raises `UserError` after the rows before that."""
    path, rows = like.source.path, SOURCES[like.source.format].rows
    if rows is not files.rows:  # the source's own
        yield from workers.map(parse, _chunks(like, rows(path)))
        return
    # Decoding takes longer than all else that one process has to do, so each process decodes its own stretches.
    sent: deque[files.Stretch] = deque()
    for found in workers.map(parse, _undecoded(like, sent)):
        stretch = sent.popleft()
        if found.undecoded:
            break  # what was asked for behind it may begin in the middle of a row
        yield found
    yield from workers.map(parse, _chunks(like, files.rest(stretch)))


def _undecoded(like: Chunk, sent: deque[files.Stretch]) -> Iterator[Chunk]:
    """The stretches of a file, of which the last cannot be decoded; they are noted in `sent`."""
    for stretch in files.stretches(like.source.path):
        sent.append(stretch)
        yield replace(like, rows=[], broken=[], stretch=stretch)


def _chunks(like: Chunk, rows: Iterator[tuple[int, Any]]) -> Iterator[Chunk]:
    """Rows in chunks; what `rows` raises comes after the rows before it."""
    source, failed = like.source, None
    chunk = replace(like, rows=[], broken=[])
    while failed is None:
        try:
            number, value = next(rows)
        except StopIteration:
            break
        except UserError as error:
            failed = error
            break
        if isinstance(value, BadRow):  # which no other process can be sent
            chunk.broken.append(nameless(value, source.name, source.path.name, number))
        else:
            chunk.rows.append((number, value))
        if len(chunk.rows) + len(chunk.broken) == CHUNK:
            yield chunk
            chunk = replace(like, rows=[], broken=[])
    yield chunk
    if failed:
        raise failed


@dataclass
class _Asked:
    """A batch whose images are being looked at, and the rejects that come before those of its rows."""

    before: list[Reject]
    rows: list[Waiting]
    looked: Future[Looked] | None  # of the rows that have an image


class _Choice:
    """Takes rows in turn under the caps: as if each batch of images were known before the next row is looked at."""

    def __init__(
        self,
        sources: Sequence[config.Source],
        config: config.Ingest,
        tally: Tally,
        rows: Rows,
        workers: Workers,
        known: Spill,
    ) -> None:
        self.config = config
        self.tally = tally
        self.rows = rows
        self.workers = workers
        self.known = known  # of an image: `Looked.found`
        self.folders = {source.name: source.images for source in sources if source.images}
        self.files = {source.name: source.path.name for source in sources}
        self.told: dict[str, frames.Told] = {}
        # Rows with one id have one turn, so they stand in line one after another.
        self.taken = (b"", 0)  # id and number of the row that was kept last
        self.passed_over = (b"", 0)  # id and number of the row that the caps left out last
        self.count: Counter[str] = Counter()  # of the kept, by data set
        self.total = 0  # of the kept
        self.hoped: Counter[str] = Counter()  # the same, if every image that is not known yet is good
        self.hoped_total = 0
        self.batch: list[Waiting] = []
        self.asked: deque[_Asked] = deque()
        self.passed: list[Reject] = []  # while the batch was filled and others were asked for

    def take(self, in_line: Iterable[Waiting]) -> Iterator[Reject]:
        """The rejects; the samples go into `rows`."""
        for number, row in enumerate(in_line, 1):
            if number % _REPORT_EVERY == 0:
                log.info("%d rows decided, %d samples of at most %d", number, self.total, self.config.total)
            if len(self.batch) == BATCH:
                yield from self._ask()
            if self._stuck(row):
                yield from self._settle(0)
                # A row that only the batch stands in the way of waits until the batch's images are known.
                if self.batch and self._stuck(row):
                    yield from self._ask()
                    yield from self._settle(0)
            if by := self._full(row):
                yield from self._pass(self._left_out(row, by))
            else:
                self.batch.append(row)
                self.hoped[row.dataset] += 1
                self.hoped_total += 1
        yield from self._ask()
        yield from self._settle(0)

    def _full(self, row: Waiting) -> str:
        """What leaves a row out for certain; empty: nothing yet."""
        if self.count[row.dataset] >= self.config.cap:
            return f"ingest.cap = {self.config.cap} rows of {row.dataset}"
        return f"ingest.total = {self.config.total} rows" if self.total >= self.config.total else ""

    def _stuck(self, row: Waiting) -> bool:
        """Whether rows whose images are not known yet decide about a row."""
        hoped = self.hoped[row.dataset] >= self.config.cap or self.hoped_total >= self.config.total
        return hoped and not self._full(row)

    def _left_out(self, row: Waiting, by: str) -> Reject:
        """The reject of a row for which there is no place: the first with its id tells what is wrong with the next."""
        for id, number in (self.taken, self.passed_over):
            if id == row.id:
                return self._repeated(row, number)
        self.passed_over = (row.id, row.number)
        return Reject(
            STAGE,
            *("not-sampled", f"{by} are taken; raise it to take more", row.id.decode(), row.source),
            *(self.files[row.source], row.number, "id"),
        )

    def _repeated(self, row: Waiting, first: int) -> Reject:
        return repeated(row.id.decode(), first, row.source, self.files[row.source], row.number)

    def _pass(self, reject: Reject) -> Iterator[Reject]:
        if not self.asked:
            yield reject
            return
        self.passed.append(reject)
        if len(self.passed) >= _HELD:
            yield from self._settle(0)

    def _ask(self) -> Iterator[Reject]:
        """Has the images of the batch looked at, and begins another."""
        seen = [row for row in self.batch if row.image is not None]
        looked = None
        if seen:
            keys = [row.image for row in seen if row.image is not None]
            known = {key: found for key in set(keys) if (found := self.known.get(_text(key))) is not None}
            looked = self.workers.submit(
                open_images,
                Batch(
                    [row.row for row in seen],
                    *(keys, known, self.folders, self.config.max_pixels, self.config.shards),
                ),
            )
        self.asked.append(_Asked(self.passed, self.batch, looked))
        self.passed, self.batch = [], []
        yield from self._settle(self.workers.ahead - 1)

    def _settle(self, left: int) -> Iterator[Reject]:
        """Takes back batches that were asked for, until so many are left."""
        while len(self.asked) > left:
            asked = self.asked.popleft()
            yield from asked.before
            looked = self.workers.result(asked.looked) if asked.looked else Looked({}, [], [])
            for key, found in looked.found.items():
                self.known[_text(key)] = found
            outcomes, told = iter(looked.outcomes), iter(looked.told)
            kept = []
            for row in asked.rows:
                made = _ready(row) if row.image is None else next(outcomes)
                tells = None if row.image is None else next(told)
                if row.id == self.taken[0]:
                    made = self._repeated(row, self.taken[1])
                elif tells is not None:
                    self.told.setdefault(row.source, type(tells)()).join(tells)
                self.tally.tried[row.source] += 1
                if isinstance(made, Reject):
                    self.hoped[row.dataset] -= 1
                    self.hoped_total -= 1
                    yield made
                    continue
                kept.append(made)
                self.taken = (row.id, row.number)
                self.count[row.dataset] += 1
                self.total += 1
                self.tally.kept[row.source] += 1
            self.rows.keep(kept)
        if not self.asked:
            yield from self.passed
            self.passed = []


def _ready(row: Waiting) -> Kept | Reject:
    """What a row is whose image is not opened."""
    if row.part is not None:
        return Kept(row.part, row.id, row.row, row.chain)
    made = finish(unpack(row.row), None)
    assert isinstance(made, Reject), f"{made.id} was found to be none"
    return made


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
