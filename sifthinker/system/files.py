"""Files that are written whole or not at all, and their names."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sifthinker.core.errors import UserError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path for the block to write; what it wrote is synced to the disk and takes the name `path`.

    A block that raises leaves nothing, and what was at `path` stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file that appears `whole`."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping that `write_json` wrote; empty where there is none.

    The file is opened without a look beforehand, since a network file system may answer `stat` from memory.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def sync(path: Path) -> None:
    """Waits until the disk has a file's content, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path) -> str:
    """The text of a file that a user wrote.

    Raises:
        UserError: it is not UTF-8.
    """
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}: line {line}: not UTF-8 text; save the file with the encoding UTF-8"
        ) from error


def readable(name: str) -> str:
    r"""A file's name, or a text that holds one, with `\xe9` for each byte that is not UTF-8: no table and no terminal takes it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def sync_tree(folder: Path) -> None:
    """Waits until the disk has everything below a folder, and the folder's own name."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent) / name)
        sync(Path(parent))
    sync(folder.parent)
