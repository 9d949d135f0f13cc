"""What a program says to whoever started it: `status.json` while it runs, `error.json` when it fails.

This is the contract of every program that another process of ours starts: trainings and their ranks, merges, model
servers, pre-training.

1. The starter gives it a process group of its own and `environment(folder)`.
2. It ends with its starter (`processes`).
3. It keeps `status.json`: what it does, how far it is, and where it runs.
4. Where it fails, on whichever rank, it writes `error.json`: what kind of failure, the message, the rank, and what to
   do. A user's mistake ends it with the code 2. torchrun turns that into 1, so the file counts and not the code.

Both files are written under temporary names and renamed. A program that was started by hand has no such folder and
writes none; its messages go to the standard error in either case.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sifthinker.core.errors import UserError
from sifthinker.system.files import read_json, write_json

FOLDER = "SIF_PROGRAM"  # variable: the folder of both files
GRACE = "SIF_GRACE"  # variable: seconds between the signal to end and the end
STATUS, ERROR = "status.json", "error.json"
USER_ERROR = 2  # exit code for a mistake of the user's
STOPPED = (
    75  # exit code of a training that was told to stop and has its checkpoint (EX_TEMPFAIL of sysexits.h)
)
_LINES = 25  # of a traceback, in a message


@dataclass(frozen=True)
class Failure:
    """Why a program ended."""

    kind: Literal["user", "failure"]  # a mistake of the user's, or anything else
    program: str
    message: str
    rank: int
    host: str
    advice: str  # what to do


class Stopped(Exception):
    """The program was told to stop, and has saved what it needs to go on. It ends with the code `STOPPED`."""


def environment(folder: Path, grace: float) -> dict[str, str]:
    """The variables that tell a program where its files go, and how long it may take to end.

    Args:
        folder: of `status.json` and `error.json`.
        grace: seconds between the signal to end and the end.
    """
    return {FOLDER: str(folder), GRACE: f"{grace:.0f}"}


def folder() -> Path | None:
    """Where this program's files go; None where it was started by hand."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else None


def grace() -> float:
    """Seconds between the signal to end and the end; infinite where it was started by hand."""
    return float(os.environ.get(GRACE, "inf"))


def run(program: str, work: Callable[[], None], rank: int = 0) -> None:
    """Does the work of a program, and ends the process where it fails or was told to stop.

    Args:
        program: its name in messages.
        work: what it does.
        rank: of this process, from 0.

    Raises:
        SystemExit: it has failed by a mistake of the user's (2), or was stopped (75).
    """
    try:
        work()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        advice = "Correct it and start again. What is finished is kept."
        _fail(Failure("user", program, str(error), rank, socket.gethostname(), advice))
        sys.exit(USER_ERROR)
    except Stopped as stopped:
        sys.stderr.write(f"{stopped}\n")
        sys.exit(STOPPED)
    except Exception as error:
        lines = "".join(traceback.format_exception(error)).splitlines()[-_LINES:]
        advice = "See the log. A training that is started again goes on from its last complete checkpoint."
        _fail(Failure("failure", program, "\n".join(lines), rank, socket.gethostname(), advice))
        raise


def write_status(program: str, state: str, **more: Any) -> None:
    """Replaces `status.json`.

    Args:
        program: its name.
        state: "starting", "training", "stopping", "stopped", "finished".
        more: what else there is to say, by name: step, total, eta_seconds, checkpoint.
    """
    if where := folder():
        said = {"program": program, "state": state, **more}
        write_json(
            where / STATUS, {**said, "pid": os.getpid(), "host": socket.gethostname(), "at": time.time()}
        )


def beat() -> None:
    """Shows that this program lives, by the time of its `status.json`."""
    if where := folder():
        with suppress(OSError):  # not written yet, or its disk is away for a moment
            os.utime(where / STATUS)


def status(where: Path) -> dict[str, Any]:
    """What a program last said of itself; empty where it has said nothing."""
    return read_json(where / STATUS)


def failure(where: Path) -> Failure | None:
    """Why a program failed, if it has said so."""
    try:
        return Failure(**json.loads((where / ERROR).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def clear(where: Path) -> None:
    """Removes what an earlier start has said."""
    for name in (STATUS, ERROR):
        (where / name).unlink(missing_ok=True)


def _fail(found: Failure) -> None:
    """Writes `error.json` unless another rank was first. A user's mistake replaces the failures that follow from it.

    Where it cannot be written (a full disk), the standard error says so, and the exit code still counts.
    """
    where = folder()
    if where is None:
        return
    own = where / f"{ERROR}.{found.host}.{os.getpid()}"
    try:
        write_json(own, asdict(found))
        earlier = _claim(own, where / ERROR)
        if earlier and found.kind == "user" and earlier.kind != "user":
            own.replace(where / ERROR)
        own.unlink(missing_ok=True)
    except OSError as error:
        sys.stderr.write(f"{where / ERROR} cannot be written: {error}\n")


def _claim(own: Path, shared: Path) -> Failure | None:
    """Makes `own` the shared file unless there is one, which is returned then."""
    try:
        os.link(own, shared)  # unlike a rename, it fails where the file is there
    except FileExistsError:
        return failure(shared.parent)
    return None
