"""Files that are written whole or not at all, and their names."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

from sifthinker.core.errors import UserError


def write_json(path: Path, value: Any) -> None:
    """Writes JSON under a temporary name, syncs it to the disk, and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
    try:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        sync(temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
