"""Depth pictures of a whole folder (`sif depth`), for programs that show them to a model beside the picture.

A picture `a/b.jpg` has its depth picture in `a/b.jpg.png` of the other folder. Each is written whole or not at all. A
second run makes what is missing and what is older than its picture. `depth.json` says with which model they were made,
and other weights are refused there. What cannot be used is in `rejects.parquet`.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sifthinker.config import Depth
from sifthinker.core import depth_maps, images, tables
from sifthinker.core.errors import UserError
from sifthinker.core.images import BadImage
from sifthinker.core.records import DepthMap, Reject
from sifthinker.data import depth_estimation
from sifthinker.system.files import readable, write_json

STAGE = "depth"
_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".ppm", ".avif"}


@dataclass(slots=True)
class Counts:
    """How far it is: total = made + there + rejected at the end."""

    total: int
    there: int = 0  # already, from an earlier run
    made: int = 0
    rejected: int = 0

    @property
    def done(self) -> int:
        """Pictures that nothing more is done with."""
        return self.there + self.made + self.rejected


def write(
    folder: Path,
    out: Path,
    weights: Path,
    config: Depth,
    max_pixels: int,
    say: Callable[[Counts], None] = lambda counts: None,
) -> tuple[Counts, list[Reject]]:
    """Writes the depth picture (Spectral_r, PNG) of every picture in a folder and the folders below it.

    Args:
        folder: of the pictures.
        out: for the depth pictures; made where it is not there.
        weights: folder of the depth model.
        config: the size of the model's input, and how many pictures are worked on at a time.
        max_pixels: of a picture.
        say: is told how far it is, after each picture.

    Raises:
        UserError: no such folder or no pictures in it, or `out` is of another model.
    """
    found = _pictures(folder, out)
    _same_model(out, weights, config)
    counts, rejects = Counts(len(found)), []
    todo = [name for name in found if not _is_made(folder / name, out / f"{name}.png")]
    counts.there = len(found) - len(todo)
    for name, made in _made(folder, todo, weights, config, max_pixels):
        if isinstance(made, Reject):
            rejects.append(made)
            counts.rejected += 1
        else:
            _write(out / f"{name}.png", depth_maps.picture(depth_maps.decode_bytes(made.png)))
            counts.made += 1
        say(counts)
    tables.write(out / "rejects.parquet", tables.REJECTS, rejects)
    return counts, rejects


def _pictures(folder: Path, out: Path) -> list[str]:
    """The pictures below a folder by their relative paths, sorted; those below `out` are ours."""
    if not folder.is_dir():
        raise UserError(f"depth: {folder} is no folder; name the folder of the pictures")
    ours = out.resolve()
    found = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix.lower() in _ENDINGS and path.is_file() and not path.resolve().is_relative_to(ours)
    )
    if not found:
        raise UserError(f"depth: {folder} holds no pictures ({', '.join(sorted(_ENDINGS))})")
    return found


def _same_model(out: Path, weights: Path, config: Depth) -> None:
    """Records with what the pictures of a folder are made; refuses a folder that was begun with something else."""
    digest = hashlib.sha256()
    for part in sorted(weights.glob("*.safetensors")):
        with part.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    made_with = {"weights": digest.hexdigest(), "size": config.size}
    record = out / "depth.json"
    if record.exists():
        try:
            there = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"depth: {record} cannot be read: {error}; give another --out, or remove the folder"
            ) from error
        if there != made_with:
            raise UserError(
                f"depth: {out} holds pictures of another model or size ({record}); give another --out, or remove it"
            )
        return
    write_json(record, made_with)


def _is_made(picture: Path, depth: Path) -> bool:
    return depth.is_file() and depth.stat().st_mtime >= picture.stat().st_mtime


def _made(
    folder: Path, names: Sequence[str], weights: Path, config: Depth, max_pixels: int
) -> Iterator[tuple[str, DepthMap | Reject]]:
    """The depth map of every picture; a reject names its file."""
    unread: list[tuple[str, Reject]] = []
    asked: deque[str] = deque()

    def read() -> Iterator[tuple[str, bytes]]:
        for name in names:
            try:
                data = images.read(folder, name, max_pixels).data
            except BadImage as error:
                unread.append((name, _rejected(name, error.reason, error.detail)))
                continue
            asked.append(name)
            yield hashlib.sha256(data).hexdigest(), data

    for made in depth_estimation.estimate(read(), weights, config) if names else ():
        yield from unread
        unread.clear()
        name = asked.popleft()
        if isinstance(made, Reject):
            yield name, _rejected(name, made.reason, made.detail)
        else:
            yield name, made
    yield from unread


def _rejected(name: str, reason: str, detail: str) -> Reject:
    return Reject(STAGE, reason, readable(detail), file=readable(name))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(data)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
