"""Errors of a disk that is full or cannot be written. They end a run with an explanation instead of a traceback.

Nothing half-written is ever taken for whole (`sifthinker.store`, `sifthinker.llm.ledger`). Once there is room, the next run
resumes from what is there.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sifthinker.core.errors import UserError

_ROOM = "make room (`sif prune` says what the store can do without), or set `store` to another disk"
_RIGHT = "give this user the right to write there, or set `store` to a folder that can be written"
# What the system calls it, in words, and what to do.
_ERRORS = {
    errno.ENOSPC: ("the disk is full", _ROOM),
    errno.EDQUOT: ("the disk quota is used up", _ROOM),
    errno.EFBIG: ("a file is larger than this user may make (ulimit -f, or the file system's limit)", _ROOM),
    errno.EROFS: ("the file system is read-only", _RIGHT),
    errno.EACCES: ("permission denied", _RIGHT),
    errno.EPERM: ("not permitted", _RIGHT),
}
_SQLITE = {
    sqlite3.SQLITE_FULL: ("the disk is full", _ROOM),
    sqlite3.SQLITE_READONLY: ("the file or its file system is read-only", _RIGHT),
    sqlite3.SQLITE_CANTOPEN: ("the file cannot be opened", _RIGHT),
    sqlite3.SQLITE_IOERR: ("the disk cannot be read or written; it may be full", _ROOM),
}


def trouble(error: BaseException) -> str | None:
    """What is wrong with the disk, and what to do. None where an error is of another kind."""
    place = ""
    found = None
    if isinstance(error, OSError):
        found = _ERRORS.get(error.errno or 0)
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    elif isinstance(error, sqlite3.Error):
        # The lower byte: an extended code says more than is needed. Errors of the module's own have none.
        found = _SQLITE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    if found is None and f"(os error {errno.ENOSPC})" in str(
        error
    ):  # safetensors, tokenizers: errors of Rust
        found = _ERRORS[errno.ENOSPC]
    return f"{place}{found[0]}; {found[1]}" if found else None


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns an error of the disk in its block into a `UserError`. `what` names who met it. Other errors pass.

    Raises:
        UserError: the disk is full, or cannot be written.
    """
    try:
        yield
    except Exception as error:
        if (said := trouble(error)) is None:
            raise
        raise UserError(f"{what}: {said}. What is whole in the store is kept; start again then") from error
