"""Folders that appear under their name when they are complete.

A folder is filled beside its place, as `.<name>.<32 hexadecimal digits>.partial`, and renamed. Whoever fills it holds a
lock on it, which ends with the process: what a killed process left is known by that, and the next one removes it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sifthinker.core.errors import UserError

logger = logging.getLogger(__name__)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` at the end. After an exception nothing is left of it.

    Raises:
        UserError: `out` exists and is not an empty folder, or is the folder that the process is in: a shell there
            would stay in the folder that was replaced.
    """
    place = out.resolve()
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise _taken(out)
    if place == Path.cwd():
        raise UserError(f"{out}: is the folder that you are in, and would be replaced; name a new folder")
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(place)
    partial, lock = _made(place)
    try:
        yield partial
        try:
            partial.rename(place)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):  # somebody was faster
                raise _taken(out) from error
            raise
    except BaseException:
        shutil.rmtree(partial)
        raise
    finally:
        os.close(lock)


def _taken(out: Path) -> UserError:
    return UserError(f"{out}: exists already; name a new folder, or remove this one first")


def _made(place: Path) -> tuple[Path, int]:
    """A new partial folder of ours, and the descriptor that holds its lock."""
    while True:
        partial = place.with_name(f".{place.name}.{uuid.uuid4().hex}.partial")
        partial.mkdir()
        try:
            lock = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:  # another process took it for a left one before it was locked
            continue
        with suppress(
            OSError
        ):  # a file system without locks on folders: there, no left one is removed either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if partial.exists():
            return partial, lock
        os.close(lock)


def _remove_left(place: Path) -> None:
    """Removes the partial folders of processes that were killed."""
    name = re.compile(rf"\.{re.escape(place.name)}\.([0-9a-f]{{32}}|[0-9]+)\.partial")
    for path in place.parent.iterdir():
        found = name.fullmatch(path.name)
        if not found or path.is_symlink() or (len(found[1]) < 32 and _runs(int(found[1]))):
            continue
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # gone by now, or another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
            logger.info("removed %s, which a killed process had left", path)
        except OSError:  # it is being filled, or cannot be removed; neither is in our way
            pass
        finally:
            os.close(lock)


def _runs(pid: int) -> bool:
    """Whether there is such a process: earlier versions named their folder by it, and held no lock."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
