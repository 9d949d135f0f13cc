"""A program of ours ends with the run that started it, even when that is killed: nothing may keep a GPU.

Who starts one gives it `mark()` in its environment; the program calls `hold()`. That works through torchrun too, whose
ranks are grandchildren in sessions of their own, out of reach of a signal to the process group of their launcher.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil

VARIABLE = "SIF_STARTED_BY"
EVERY = 0.5  # seconds between two looks
TOLERANCE = 2.0  # seconds: the system's idea of when it booted moves with its clock


def mark() -> dict[str, str]:
    """The environment of a program that is to end with this process."""
    return {VARIABLE: f"{os.getpid()}:{psutil.Process().create_time():.2f}"}


def lives(pid: int, started: float) -> bool:
    """Whether it is still that very process: ids are reused, and a zombie runs no more."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < TOLERANCE
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def hold() -> None:
    """From now on this process group ends, by SIGKILL, within a second of its starter or of its parent."""
    if VARIABLE not in os.environ:  # started by hand
        return
    pid, started = os.environ[VARIABLE].split(":")
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent and lives(int(pid), float(started)):
            time.sleep(EVERY)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()
