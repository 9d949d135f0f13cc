"""Files that are there and cannot be whole: empty, cut off, links to nothing. All of it is seen without reading them through."""

from __future__ import annotations

import json
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_TAIL = 1 << 20  # bytes at the end of a file of JSON that are looked at
_MOST = 2_000  # files of a folder
PIECES = "cot_images_*"


def file(path: Path) -> str:
    """Why a file cannot be whole; "" where nothing speaks against it."""
    if path.is_symlink() and not path.exists():
        return f"{path} is a link to {path.readlink()}, which is gone; fetch it again"
    try:
        if path.stat().st_size == 0:
            return f"{path} is empty; fetch it again"
        check = _CHECKS.get(path.suffix)
        return check(path) if check else ""
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"


def folder(path: Path) -> str:
    """Why one of the files of a folder that hold annotations cannot be whole; "" where nothing speaks against it."""
    found = (file(each) for each in islice(_files(path), _MOST))
    return next(filter(None, found), "")


def archive(path: Path) -> str:
    """Why an archive cannot be unpacked; "" where it can. A compressed tar is read through for that."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path):
                return ""
        with tarfile.open(path) as opened:
            for _ in opened:
                pass
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, zlib.error) as error:
        return f"{path} is cut off or no archive ({error}); fetch it again"
    return ""


def archives(path: Path) -> list[Path]:
    """The archives that lie in a folder itself."""
    return sorted(each for pattern in ("*.zip", "*.tar.gz", "*.tgz", "*.tar") for each in path.glob(pattern))


def pieces(path: Path) -> str:
    """What is wrong with the pieces of Visual-CoT's tar in a folder; "" where they can be joined.

    Their number is known, and all but the last are of one size.
    """
    found = sorted(path.glob(PIECES))
    numbers = [piece.name.rpartition("_")[2] for piece in found]
    if absent := [f"{number:02}" for number in range(13) if f"{number:02}" not in numbers]:
        return f"{path} lacks the pieces {', '.join(absent)} of 13"
    sizes = [piece.stat().st_size for piece in found]
    short = [
        piece.name for piece, size in zip(found[:-1], sizes[:-1], strict=True) if size != max(sizes[:-1])
    ]
    return f"{path}: {', '.join(short)} is shorter than the others: cut off; fetch it again" if short else ""


def _files(path: Path) -> Iterable[Path]:
    return (
        each
        for pattern in ("*.parquet", "*.json", "*.jsonl", "*.tsv")
        for each in sorted(path.rglob(pattern))
    )


def _json(path: Path) -> str:
    """A JSON value that began with a bracket ends with one; JSON lines end with a value."""
    size = path.stat().st_size
    with path.open("rb") as opened:
        first = opened.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        opened.seek(max(0, size - _TAIL))
        tail = opened.read().rstrip()
    last = tail[-1:]
    if first == b"[" and last != b"]":
        return f"{path} begins as a list and does not end as one: cut off; fetch it again"
    if first == b"{" and last != b"}":
        return f"{path} does not end with a whole row: cut off; fetch it again"
    line = tail.rpartition(b"\n")[2]
    if first == b"{" and path.suffix == ".jsonl" and len(line) < _TAIL:
        try:
            json.loads(line)
        except ValueError:
            return f"{path}: its last line is no JSON: cut off; fetch it again"
    return ""


def _parquet(path: Path) -> str:
    try:
        pq.read_metadata(path)
    except pa.ArrowInvalid as error:
        return f"{path} is no whole Parquet file ({str(error)[:80]}); fetch it again"
    return ""


_CHECKS: dict[str, Callable[[Path], str]] = {".json": _json, ".jsonl": _json, ".parquet": _parquet}
