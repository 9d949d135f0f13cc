"""The questions of a benchmark that are asked, and their images."""

from __future__ import annotations

import hashlib
import logging
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sifthinker import config
from sifthinker.core import boxes, images
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import box_frames, files
from sifthinker.evaluation.benchmarks.question import Benchmark, Question

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known of a picture that was decoded."""

    sha256: str  # of the file
    size: tuple[int, int]  # upright
    orientation: int
    as_it_is: bool  # the file is sent as it is


@dataclass(frozen=True, slots=True)
class Selection:
    """A benchmark's files, and the positions of the chosen questions in what `load` yields."""

    source: config.Benchmark
    benchmark: Benchmark
    chosen: frozenset[int]
    bad: int = 0  # rows of the files that no question could be made of
    ids: frozenset[str] = frozenset()  # of all questions, chosen or not
    # Images are decoded once, to see that they are whole: what is known of them, by path or digest, or what is wrong.
    _seen: dict[str, _Seen | images.BadImage] = field(default_factory=dict)
    # The last embedded image and its digest: questions about one picture follow each other and share its bytes.
    _last: list[tuple[bytes, str]] = field(default_factory=list)

    def questions(self) -> Iterator[tuple[Question, str] | Reject]:
        """The chosen questions, read anew, with the digests of their images, or why one cannot be asked."""
        for position, item in enumerate(self.benchmark.load(self.source)):
            if position not in self.chosen:
                continue
            assert isinstance(item, Question), "a benchmark's file changed while it was read"
            seen = self._look(item.image)
            if isinstance(seen, images.BadImage):
                yield reject(self.source, item, seen.reason, seen.detail)
            else:
                yield self._upright(item, seen), seen.sha256

    def image(self, question: Question) -> bytes:
        """The picture of a question that `questions` gave, as `images.Photo.data` has it."""
        seen = self._look(question.image)
        if isinstance(seen, images.BadImage):
            raise seen
        if not seen.as_it_is:
            return files.photo(self.source, question.image).data
        if isinstance(question.image, bytes):
            return question.image
        return images.find(self.source.images, question.image).read_bytes()

    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of the pictures that were looked at so far."""
        return [seen.size for seen in self._seen.values() if isinstance(seen, _Seen)]

    def _look(self, image: str | bytes) -> _Seen | images.BadImage:
        """Decodes an image when it is asked for the first time."""
        if isinstance(image, bytes):
            if not (self._last and self._last[0][0] is image):
                self._last[:] = [(image, hashlib.sha256(image).hexdigest())]
            key = self._last[0][1]
        else:
            key = image
        if key not in self._seen:
            try:
                photo = files.photo(self.source, image)
                size = (photo.width, photo.height)
                digest = key if isinstance(image, bytes) else photo.sha256
                self._seen[key] = _Seen(digest, size, photo.orientation, photo.made is None)
            except images.BadImage as error:
                self._seen[key] = error
        return self._seen[key]

    def _upright(self, question: Question, seen: _Seen) -> Question:
        """The question with its boxes on the upright picture."""
        turn = boxes.turn((question.width, question.height), seen.size, seen.orientation)
        if turn == 1 or self.benchmark.turned is None:
            return question
        return self.benchmark.turned(question, turn)


def open_benchmark(
    source: config.Benchmark, benchmark: Benchmark, limit: int | None, seed: int
) -> tuple[Selection, list[Reject]]:
    """Reads a benchmark once: what to ask of it, and the rows that are no questions.

    Raises:
        question.Missing: a file is not there.
        UserError: a file cannot be read as what it should be.
    """
    rejects: list[Reject] = []
    positions: list[int] = []
    found: list[tuple[str, str]] = []
    ids: set[str] = set()
    outside: list[str] = []
    for position, item in enumerate(benchmark.load(source)):
        if isinstance(item, Reject):
            rejects.append(item)
        elif item.id in ids:
            rejects.append(
                reject(source, item, "duplicate-id", "the files hold this id before; it is asked once")
            )
        else:
            ids.add(item.id)
            positions.append(position)
            found.append((item.group, item.unit or item.id))
            if box_frames.reaches_out(item):
                outside.append(item.id)
    if outside:
        logger.warning(
            "%s: %d references reach out of their pictures (%s%s); they are scored as they are published",
            source.name,
            len(outside),
            ", ".join(outside[:3]),
            ", ..." if outside[3:] else "",
        )
    chosen = frozenset(positions[i] for i in select(found, limit, seed))
    return Selection(source, benchmark, chosen, len(rejects), frozenset(ids)), rejects


def shrunk(jobs: Sequence[Selection], model: config.Model) -> tuple[float | None, float | None]:
    """How far a model sees less than the pictures that were looked at so far have.

    Args:
        jobs: whose pictures.
        model: whose pixel budget counts.

    Returns:
        The share of the pictures that have more pixels than its budget, and the median part of their side at which it sees
        those. None where it is not known, or there are none.
    """
    seen = [found for job in jobs for found in job.sizes()]
    sides = [side for size in seen if (side := box_frames.side_seen(*size, model)) is not None]
    less = [side for side in sides if side < 1]
    share = len(less) / len(sides) if sides else None
    return share, statistics.median(less) if less else None


def select(questions: Sequence[tuple[str, str]], limit: int | None, seed: int) -> frozenset[int]:
    """The positions of at most `limit` of the (group, unit) pairs: a seeded sample with every group in proportion.

    Questions of one unit are taken together, because they are scored together.
    """
    if limit is None:
        return frozenset(range(len(questions)))
    strata: dict[str, dict[str, list[int]]] = {}
    for position, (group, unit) in enumerate(questions):
        strata.setdefault(group, {}).setdefault(unit, []).append(position)
    # Each group's units, shuffled, are spread evenly over 0..1: any beginning of that line is in proportion.
    line: list[tuple[float, str, list[int]]] = []
    for group, units in strata.items():
        keys = {unit: hashlib.sha256(f"{seed}/{group}/{unit}".encode()).hexdigest() for unit in units}
        for rank, unit in enumerate(sorted(units, key=keys.__getitem__)):
            line.append(((rank + 0.5) / len(units), keys[unit], units[unit]))
    chosen: list[int] = []
    for _, _, members in sorted(line, key=lambda item: item[:2]):
        if len(chosen) + len(members) <= limit:
            chosen.extend(members)
    return frozenset(chosen)


def reject(source: config.Benchmark, question: Question, reason: str, detail: str) -> Reject:
    """The `Reject` of a question that cannot be asked."""
    return Reject("evaluate", reason, f"{question.id}: {detail}", id=question.id, source=source.name)
