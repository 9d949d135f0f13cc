"""Work in several processes: its results and errors in order, and no process left when the one that asked is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sifthinker.core.errors import UserError
from sifthinker.system import cores
from sifthinker.system.cores import Workers, tell


def double(number: int) -> int:
    """Twice a number; an odd one takes longer, and one above 90 is a mistake of the user's."""
    time.sleep(0.05 * (number % 2))
    tell(number)
    if number > 90:
        raise UserError(f"{number} is too large; take a smaller one")
    return 2 * number


def process(_: object = None) -> int:
    """The id of the process that does this."""
    return os.getpid()


def die(_: object = None) -> None:
    """As if the system took the process's memory back."""
    os.kill(os.getpid(), signal.SIGKILL)


def last(_: object = None) -> None:
    time.sleep(600)


def test_one_process_does_everything_itself_in_order() -> None:
    heard: list[int] = []
    with Workers(1, heard=heard.append) as workers:
        assert list(workers.map(double, range(5))) == [0, 2, 4, 6, 8]
        assert workers.result(workers.submit(process)) == os.getpid()
        assert workers.ahead == 1
    assert heard == [0, 1, 2, 3, 4]


def test_nothing_is_started_for_what_is_soon_done() -> None:
    with Workers(4, patience=60) as workers:
        assert set(workers.map(process, range(5))) == {os.getpid()}


def test_an_error_of_what_gives_the_items_comes_after_the_results_before_it() -> None:
    def items() -> object:
        yield 1
        raise UserError("the file is cut off; fetch it again")

    got = []
    with pytest.raises(UserError, match="cut off"), Workers(1) as workers:
        for result in workers.map(double, items()):
            got.append(result)
    assert got == [2]


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "what is this"}, None),
        ({}, None),
    ],
)
def test_a_container_has_the_cores_of_its_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], quota: float | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name, said in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(said)
    assert cores.available(tmp_path) == {1.5: 2, 4: 4, None: 8}[quota]


@pytest.mark.e2e
def test_several_processes_give_the_results_of_one_in_order_and_tell_how_far_they_are() -> None:
    heard: list[int] = []
    with Workers(3, patience=0, heard=heard.append) as workers:
        assert list(workers.map(double, range(40))) == [2 * number for number in range(40)]
        ids = set(workers.map(process, range(20)))
    assert os.getpid() not in ids and 1 <= len(ids) <= 3
    assert sum(heard) == sum(range(40))
    assert not any(map(psutil.pid_exists, ids))


@pytest.mark.e2e
def test_the_first_error_in_the_order_of_the_items_is_raised_and_ends_the_processes() -> None:
    with pytest.raises(UserError, match="91 is too large"), Workers(3, patience=0) as workers:
        ids = set(workers.map(process, range(9)))
        list(workers.map(double, [1, 3, 91, 92, 93]))
    assert not any(map(psutil.pid_exists, ids))


@pytest.mark.e2e
def test_a_process_that_is_killed_is_an_error_that_says_what_to_do() -> None:
    with (
        pytest.raises(UserError, match=r"killed from outside.*lower `processes`"),
        Workers(2, patience=0) as workers,
    ):
        list(workers.map(die, range(4)))


@pytest.mark.e2e
def test_a_process_that_was_killed_while_nobody_waited_is_the_same_error() -> None:
    with (
        pytest.raises(UserError, match=r"killed from outside.*lower `processes`"),
        Workers(2, patience=0) as workers,
    ):
        os.kill(workers.result(workers.submit(process)), signal.SIGKILL)
        time.sleep(2.0)  # as ingest, which writes rows down; the pool finds out meanwhile
        workers.submit(process)


# A script without `if __name__ == "__main__"`, with threads, as a notebook and Prefect have: its processes must not run it again.
SCRIPT = """
import sys, threading, time
from sifthinker.system.cores import Workers
from tests.system.test_cores import last, process

threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
with Workers(2, patience=0) as workers:
    print(*set(workers.map(process, range(8))), flush=True)
    list(workers.map(last, range(8)))
"""


@pytest.mark.e2e
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_is_left_when_the_one_that_asked_ends(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).resolve().parents[2])
    started = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a shell's background jobs ignore it
    )
    assert started.stdout and started.stderr
    workers = [psutil.Process(int(id)) for id in started.stdout.readline().split()]
    family = psutil.Process(started.pid).children(recursive=True)
    assert workers and set(workers) <= set(family)
    if how == signal.SIGINT:
        os.killpg(started.pid, how)  # as a terminal does: to all of them
    else:
        os.kill(started.pid, how)
    _, alive = psutil.wait_procs(family, timeout=60)
    said = started.communicate(timeout=60)[1]
    assert not alive
    assert said.count("Traceback") <= (how == signal.SIGINT), said
