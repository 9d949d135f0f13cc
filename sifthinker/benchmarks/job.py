"""One benchmark to be asked: which of its questions, and their images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sifthinker import config, images
from sifthinker.benchmarks import files
from sifthinker.benchmarks.question import Benchmark, Question
from sifthinker.sample import Reject


@dataclass(frozen=True, slots=True)
class Job:
    """A benchmark's files, and the positions of the chosen questions in what `load` yields."""

    source: config.Benchmark
    benchmark: Benchmark
    chosen: frozenset[int]
    # Image files are decoded once, to see that they are whole: path -> digest, or what is wrong.
    _seen: dict[str, str | images.BadImage] = field(default_factory=dict)
    # The last embedded image and its digest: questions about one picture follow each other and share its bytes.
    _last: list[tuple[bytes, str]] = field(default_factory=list)

    def questions(self) -> Iterator[tuple[Question, str] | Reject]:
        """The chosen questions, read anew, with the digests of their images, or why one cannot be asked."""
        for position, item in enumerate(self.benchmark.load(self.source)):
            if position not in self.chosen:
                continue
            assert isinstance(item, Question), "a benchmark's file changed while it was read"
            digest = self._digest(item.image)
            if isinstance(digest, str):
                yield item, digest
            else:
                yield reject(self.source, item, digest.reason, digest.detail)

    def image(self, question: Question) -> bytes:
        """The image file of a question that `questions` gave."""
        if isinstance(question.image, bytes):
            return question.image
        return images.find(self.source.images, question.image).read_bytes()

    def _digest(self, image: str | bytes) -> str | images.BadImage:
        if isinstance(image, bytes):
            if not (self._last and self._last[0][0] is image):
                self._last[:] = [(image, hashlib.sha256(image).hexdigest())]
            return self._last[0][1]
        if image not in self._seen:
            try:
                self._seen[image] = images.read(self.source.images, image, files.MAX_PIXELS)[3]
            except images.BadImage as error:
                self._seen[image] = error
        return self._seen[image]


def open_job(
    source: config.Benchmark, benchmark: Benchmark, limit: int | None, seed: int
) -> tuple[Job, list[Reject]]:
    """Reads a benchmark once: what to ask of it, and the rows that are no questions.

    Raises:
        question.Missing: a file is not there.
        config.UserError: a file cannot be read as what it should be.
    """
    rejects: list[Reject] = []
    positions: list[int] = []
    found: list[tuple[str, str]] = []
    ids: set[str] = set()
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
    return Job(source, benchmark, frozenset(positions[i] for i in select(found, limit, seed))), rejects


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
