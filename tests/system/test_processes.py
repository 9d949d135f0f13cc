"""Processes by their identity: who lives, and how they are ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from sifthinker.system import processes

SLEEP = "import time; time.sleep(60)"


@contextmanager
def program(code: str = SLEEP) -> Iterator[subprocess.Popen[str]]:
    """A program in a process group of its own."""
    started = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        assert started.stdout
        started.stdout.close()


def soon(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_process_lives_until_it_ends_and_a_zombie_does_not() -> None:
    with program() as started:
        created = psutil.Process(started.pid).create_time()
        assert processes.lives(started.pid, created)
        os.kill(started.pid, signal.SIGKILL)
        assert soon(lambda: psutil.Process(started.pid).status() == psutil.STATUS_ZOMBIE)
        assert not processes.lives(started.pid, created), "it is not reaped, and runs no more"
    assert not processes.lives(started.pid, created)


def test_another_process_with_the_same_id_is_not_the_same() -> None:
    own = processes.here(os.getpid())
    assert processes.runs_here(own)
    assert not processes.runs_here({**own, "started": own["started"] - 60})
    assert not processes.runs_here({**own, "host": "elsewhere"})
    assert not processes.runs_here({})


@pytest.mark.parametrize("grace", [5.0, 0.0])
def test_a_group_that_ignores_sigterm_is_killed_with_children_in_sessions_of_their_own(grace: float) -> None:
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True); "
        "print(child.pid, flush=True); time.sleep(60)"
    )
    with program(stubborn) as started:
        assert started.stdout
        child = psutil.Process(int(started.stdout.readline()))
        began = time.monotonic()
        processes.end(started.pid, grace and 0.5)
        assert time.monotonic() - began < 30
        assert started.wait(5) == -signal.SIGKILL
        assert soon(
            lambda: not processes.lives(child.pid, child.create_time()) if child.is_running() else True
        )


def test_a_process_ends_with_its_parent() -> None:
    """A middle process starts one that is to end with it, and is killed."""
    lowest = f"import os; from sifthinker.system import processes; processes.end_with(os.getppid()); print('up', flush=True); {SLEEP}"
    middle = (
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {lowest!r}], stdout=subprocess.PIPE, start_new_session=True); "
        f"child.stdout.readline(); print(child.pid, flush=True); {SLEEP}"
    )
    with program(middle) as started:
        assert started.stdout
        child = psutil.Process(int(started.stdout.readline()))
        assert child.is_running()
        os.kill(started.pid, signal.SIGKILL)
        assert soon(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
