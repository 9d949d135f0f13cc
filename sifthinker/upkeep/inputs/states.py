"""Whether a source, a benchmark or weights are here and can be used: a few rows are read, a few pictures looked up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

from sifthinker import config
from sifthinker.core import images
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.data.sources import SOURCES
from sifthinker.evaluation.benchmarks import BENCHMARKS
from sifthinker.evaluation.benchmarks.question import Missing, Question
from sifthinker.models import hub
from sifthinker.system.files import readable
from sifthinker.upkeep.inputs import broken

Verdict = Literal["there", "missing", "broken", "not configured"]
Item = TypeVar("Item")
ROWS = 500  # of a file that are read
PICTURES = 20  # that are looked up


@dataclass(frozen=True, slots=True)
class State:
    """Whether something is here, and what was found."""

    verdict: Verdict
    found: str


def source(settings: config.Source) -> State:
    """Of a source: its annotation file, and its pictures."""
    for field, path in (("path", settings.path), ("sizes", settings.sizes)):
        if path is None:
            continue
        if not path.exists() and not path.is_symlink():
            return State("missing", f"{field}: {path} does not exist")
        if path.is_dir():
            return State("broken", f"{field}: {path} is a folder, and a file of annotations is wanted")
        if why := broken.file(path):
            return State("broken", f"{field}: {why}")
    if settings.images is not None and (state := _image_folder(settings.images)):
        return state
    try:
        first = list(islice(SOURCES[settings.format].read(settings.path, settings.images, settings), ROWS))
    except UserError as error:
        return State("broken", str(error))
    rows = [row for row in first if not isinstance(row, Reject)]
    bad = [row for row in first if isinstance(row, Reject)]
    if not rows:
        reasons = ", ".join(
            f"{reason} {count}" for reason, count in Counter(r.reason for r in bad).most_common(3)
        )
        example = f" For example row {bad[0].row}: {bad[0].detail}" if bad else ""
        return State("broken", f"path: none of the first {len(first)} rows can be used: {reasons}.{example}")
    if settings.images is None:
        return State("there", f"{settings.path}")
    return _looked_up(settings.images, [row.images for row in _spread(rows)], str(settings.path))


def benchmark(settings: config.Benchmark) -> State:
    """Of a benchmark: its files, its split, and its pictures."""
    for path in (settings.path, settings.images):
        if path.is_symlink() and not path.exists():
            return State("broken", broken.file(path))
    why = broken.folder(settings.path) if settings.path.is_dir() else ""
    if settings.path.is_file():
        why = broken.file(settings.path)
    if why:
        return State("broken", why)
    try:
        found = BENCHMARKS[settings.name].load(settings)
        first = list(islice(found, ROWS))
    except Missing as error:
        said = str(error).partition("; published at")[0].removeprefix(f"{settings.name}: ")
        return State("missing", _unpacked(said, settings.path, settings.images))
    except UserError as error:
        return State("broken", str(error))
    questions = [item for item in first if isinstance(item, Question)]
    if not questions:
        example = next((item.detail for item in first if isinstance(item, Reject)), "it has no rows")
        return State("broken", f"{settings.path} holds no row that is a question: {example}")
    names = [(question.image,) for question in _spread(questions) if isinstance(question.image, str)]
    return _looked_up(settings.images, names, str(settings.path))


def weights(given: str, revision: str | None, made: Sequence[str]) -> State:
    """Of weights on the hub.

    Args:
        given: `owner/name`.
        revision: the one that is configured.
        made: folders of the store that hold these weights.
    """
    if made:
        return State("there", f"in the store: {made[0]}")
    if (cached := hub.cached(given, revision)) is not None:
        return State("there", f"in the hub's cache: {cached}; a run takes them from there")
    return State("missing", "not here; a run fetches them when they are first needed")


def _image_folder(path: Path) -> State | None:
    """What is wrong with a folder of pictures, before one is looked up."""
    if path.is_dir() and any(path.iterdir()):
        return None
    if path.is_file():
        return State("broken", f"images: {path} is a file, and a folder is wanted")
    said = f"images: {path} {'is empty' if path.is_dir() else 'does not exist'}"
    beside = path.parent / "cot_images_tar_split"
    if next(beside.glob(broken.PIECES), None) is None:
        return State("missing", _unpacked(said, path, path.parent))
    if why := broken.pieces(beside):
        return State("broken", f"{said}; {why}")
    return State("missing", f"{said}; the 13 pieces of its archive are in {beside}: join and unpack them")


def _unpacked(said: str, *places: Path) -> str:
    """What is missing, and the archives that lie there and would have it."""
    found = {
        archive: broken.archive(archive)
        for place in places
        if place.is_dir()
        for archive in broken.archives(place)
    }
    if not found:
        return said
    wrong = [why for why in found.values() if why]
    return f"{said}; {'; '.join(wrong) or 'unpack ' + ', '.join(path.name for path in found)}"


def _looked_up(root: Path, names: Sequence[Iterable[str]], path: str) -> State:
    """The state by the pictures: `names` are the places in `root` where each may lie."""
    absent = [tuple(places) for places in names if not _is_there(root, places)]
    if not absent:
        return State("there", f"{path}, {root}" if names else path)
    wanted = " nor ".join(absent[0])
    if len(absent) == len(names):
        there = (
            ", ".join(sorted(readable(entry.name) for entry in islice(root.iterdir(), 5)))
            if root.is_dir()
            else "nothing"
        )
        return State(
            "broken",
            f"images: none of the {len(names)} pictures that were looked up is in {root}, for example {wanted}; it holds "
            f"{there}; set images to the folder that these names start in",
        )
    return State(
        "broken",
        f"images: {len(absent)} of {len(names)} pictures that were looked up are not in {root}, for example {wanted}",
    )


def _is_there(root: Path, places: Iterable[str]) -> bool:
    """Whether ingest would find the picture: at a place where something else is wrong, it looks no further either."""
    for place in places:
        try:
            images.find(root, place)
        except images.BadImage as error:
            if error.reason == "image-missing":
                continue
            return False
        return True
    return False


def _spread(items: Sequence[Item]) -> list[Item]:
    """A few of the items, from all over."""
    step = max(1, len(items) // PICTURES)
    return list(items[::step][:PICTURES])
