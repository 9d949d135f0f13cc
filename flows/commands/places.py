"""Files and folders that commands write. One that cannot be there is refused before any work is done for it."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from sifthinker.core.errors import UserError


def file(parameter: typer.CallbackParam, given: Path | None) -> Path | None:
    """Of an option or argument that names a file to write, whose folder is made where it is not there."""
    return given and check(parameter.opts[0], given, folder=False)


def folder(parameter: typer.CallbackParam, given: Path | None) -> Path | None:
    """Of an option or argument that names a folder to write into, which is made where it is not there."""
    return given and check(parameter.opts[0], given, folder=True)


def check(who: str, given: Path, folder: bool) -> Path:
    """The same path.

    Args:
        who: begins the message.
        given: of a file or folder to write.
        folder: which of the two.

    Raises:
        UserError: it is the other one, or it could not be made.
    """
    try:
        if folder and given.exists() and not given.is_dir():
            raise UserError(f"{who}: {given} is a file; name a folder")
        if not folder and given.is_dir():
            raise UserError(f"{who}: {given} is a folder; name a file in it")
        there = next(
            path for path in ((given, *given.parents) if folder else given.parents) if os.path.lexists(path)
        )
    except OSError as error:
        raise UserError(f"{who}: {given}: {error.strerror}") from error
    if not there.is_dir():
        raise UserError(f"{who}: {given} cannot be made, as {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{who}: {given} cannot be written: this user has no right to write in {there}")
    return given
