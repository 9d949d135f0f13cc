"""What tests ask of this machine: a free port, whether a process runs, and to wait for something."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import psutil


def free_port() -> int:
    """A port of loopback that nothing listens on; another process may take it before its use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and is still in the table does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def carries(process: psutil.Process, name: str, value: str) -> bool:
    """Whether a process that runs has the environment variable `name` with that value."""
    try:
        return process.environ().get(name) == value and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def until(true: Callable[[], object], seconds: float = 60) -> None:
    """Waits for something; the test fails where it is not so within `seconds`."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        time.sleep(0.02)
