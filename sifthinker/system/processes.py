"""Processes by their identity: whether one still runs, how a program ends with its starter, how a group is ended.

A process id alone names nothing: ids are reused. Everywhere here a process is named by its id and its start time.

A program of ours ends with the run that started it, even when that is killed: nothing may keep a GPU. The run gives it
`mark()` in its environment, and the program looks at `starter_lives()`. That works through torchrun too, whose ranks are
grandchildren in sessions of their own, out of reach of a signal to the process group of their launcher.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import psutil

VARIABLE = "SIF_STARTED_BY"
EVERY = 0.5  # seconds between two looks
TOLERANCE = 2.0  # seconds: the system's idea of when it booted moves with its clock
GRACE = 10.0  # seconds between SIGTERM and SIGKILL


def lives(pid: int, started: float) -> bool:
    """Whether a process still runs. A zombie does not, and neither does another process with the same id.

    Args:
        pid: its id on this host.
        started: when it started, in seconds since 1970, as `psutil` has it.
    """
    try:
        process = psutil.Process(pid)
        return bool(abs(process.create_time() - started) < TOLERANCE and _runs(process))
    except psutil.NoSuchProcess:
        return False


def here(pid: int) -> dict[str, Any]:
    """Names a process of this host for ever, as plain JSON."""
    return {"host": socket.gethostname(), "pid": pid, "started": psutil.Process(pid).create_time()}


def runs_here(process: Mapping[str, Any]) -> bool:
    """Whether a process named by `here` still runs, on this host."""
    ours = process.get("host") == socket.gethostname()
    return bool(ours and lives(process["pid"], process["started"]))


def gone_here(process: Mapping[str, Any]) -> bool:
    """Whether a process named by `here` was one of this host, and is gone. Of another host's nobody can tell from here."""
    return process.get("host") == socket.gethostname() and not runs_here(process)


def mark() -> dict[str, str]:
    """The environment of a program that is to end with this process."""
    return {VARIABLE: f"{os.getpid()}:{psutil.Process().create_time():.2f}"}


def starter_lives() -> bool:
    """Whether the process that started this program still runs. A program that was started by hand has none to lose."""
    if VARIABLE not in os.environ:
        return True
    pid, started = os.environ[VARIABLE].split(":")
    return lives(int(pid), float(started))


def end_with(parent: int, also: Callable[[], bool] = lambda: True, group: bool = True) -> None:
    """From now on this process is killed once its parent is gone.

    Args:
        parent: the id of the parent.
        also: what else has to hold for the process to go on.
        group: its whole process group is killed with it.
    """

    def watch() -> None:
        while os.getppid() == parent and also():
            time.sleep(EVERY)
        os.kill(0 if group else os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()


def end(group: int, grace: float = GRACE, leader_first: bool = False) -> None:
    """Ends a process group and the children of its leader: SIGTERM, and SIGKILL to what is left after a while.

    The ranks of torchrun have sessions of their own. It ends them on SIGTERM; where it is too slow, this does.

    Args:
        group: the id of the group, which is that of its leader.
        grace: seconds between the two signals; 0 kills at once.
        leader_first: SIGTERM goes to the leader alone, which ends the others in good order.
    """
    family = _descendants(group)
    for number in (signal.SIGTERM, signal.SIGKILL) if grace else (signal.SIGKILL,):
        with suppress(ProcessLookupError):
            if leader_first and number == signal.SIGTERM:
                os.kill(group, number)
            else:
                os.killpg(group, number)
        for process in family if number == signal.SIGKILL else ():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        deadline = time.monotonic() + (grace or GRACE)
        while time.monotonic() < deadline:
            if not _any_of_group(group) and not any(_runs(process) for process in family):
                return
            time.sleep(0.05)


def _any_of_group(group: int) -> bool:
    """Whether a process of the group still runs."""
    for process in psutil.process_iter(["pid", "status"]):
        try:
            if os.getpgid(process.pid) == group and _runs(process):
                return True
        except ProcessLookupError:
            continue
    return False


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
