"""The command of the workers' containers: it outlasts the worker until the worker's runs have ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from infra import beginning, lost_runs
from sifthinker.config import Grpo, Sft
from tasks.runtime.following import MARGIN
from tests.infra.conftest import ROOT

# A run in a session of its own, as a training's: told to end, it takes a while for its checkpoint.
RUN = """
import pathlib, signal, sys, time
def ends(*_):
    time.sleep(0.5)
    pathlib.Path(sys.argv[1], "checkpoint").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, ends)
pathlib.Path(sys.argv[1], "up").touch()
time.sleep(60)
"""
# A worker that passes the signal on and does not wait, as Prefect's.
WORKER = f"""
import signal, subprocess, sys, time
run = subprocess.Popen([sys.executable, "-c", {RUN!r}, sys.argv[1]], start_new_session=True)
def ends(*_):
    run.terminate()
    sys.exit(3)
signal.signal(signal.SIGTERM, ends)
time.sleep(60)
"""
CONTAINER = "import sys; from infra.worker import supervise; sys.exit(supervise(sys.argv[1:])[0])"


@pytest.mark.parametrize("signals", [1, 2])
def test_the_container_ends_after_the_runs_checkpoint_and_at_once_when_told_twice(
    tmp_path: Path, signals: int
) -> None:
    command = [sys.executable, "-c", CONTAINER, sys.executable, "-c", WORKER, str(tmp_path)]
    container = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 30
    while not (tmp_path / "up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for _ in range(signals):
        container.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    assert container.wait(30) == 3, "the worker's own exit code"
    assert (tmp_path / "checkpoint").exists() == (signals == 1)


def test_a_worker_heeds_sigint_even_where_a_shell_has_it_ignored() -> None:
    """Prefect's worker ends itself by a SIGINT."""
    asks = "import signal, sys; sys.exit(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    shell = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {CONTAINER}"
    command = [sys.executable, "-c", shell, sys.executable, "-c", asks]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)
    assert done.returncode == 0


def test_a_worker_speaks_for_runs_that_should_have_begun_and_for_none_that_hangs() -> None:
    ages = {"just started": 5.0, "slow": 40.0, "slower": 800.0, "hanging": 1000.0}
    now = time.time()
    found = beginning.due([(run, now - age) for run, age in ages.items()], now)
    assert [run for run, _ in found] == ["slow", "slower"]
    assert lost_runs.SILENCE.total_seconds() >= 3 * beginning.LOOK
    assert lost_runs.START.total_seconds() > beginning.AFTER + beginning.LOOK


def test_the_runs_of_a_workers_processes_are_known_with_their_start() -> None:
    begun = time.time()
    asks = "import time; time.sleep(60)"
    run = subprocess.Popen([sys.executable, "-c", asks], env={**os.environ, beginning.RUN: "one"})
    try:
        deadline = time.monotonic() + 30
        while not (found := beginning.runs()):  # the child has its environment once it is another program
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        run.kill()
        run.wait()
    assert list(found) == ["one"] and abs(found["one"] - begun) < 30


def containers_grace() -> dict[str, float]:
    """Seconds between the signal and the end of each worker's container; of Kubernetes in test_kubernetes.py."""
    compose = yaml.safe_load((ROOT / "infra/compose.yaml").read_text())["services"]
    found = {}
    for name, service in compose.items():
        if "infra.worker" in service.get("command", []):
            assert service["stop_grace_period"].endswith("m")
            found[f"compose {name}"] = 60 * float(service["stop_grace_period"].removesuffix("m"))
    return found


def test_a_containers_grace_has_room_for_a_trainings_checkpoint() -> None:
    longest = max(Sft().grace, Grpo().grace) + MARGIN
    found = containers_grace()
    assert len(found) >= 3
    assert all(grace >= longest + 60 for grace in found.values()), "a minute for the run and the worker"


EXECUTE = f"""
import sys; sys.argv[1:] = []
from infra import run
run.COMMAND = (sys.executable, "-c", {WORKER!r}, FOLDER)
run.main()
"""


def test_the_job_of_a_run_outlasts_prefects_command_until_the_checkpoint(tmp_path: Path) -> None:
    """infra/run.py on Kubernetes: Prefect's command ends, the training's process does not yet."""
    program = EXECUTE.replace("FOLDER", repr(str(tmp_path)))
    container = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    container.send_signal(signal.SIGTERM)
    assert container.wait(60) == 3, "the command's own exit code"
    assert (tmp_path / "checkpoint").exists()
