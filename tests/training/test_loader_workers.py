"""Trainings whose data loader has workers, as it has beside a GPU: they end with each epoch, and a signal may meet them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from sifthinker.system import processes, program_files
from sifthinker.training import checkpoints
from tests.training.test_rehearsal import rehearsed

ROOT = Path(__file__).parents[2]
LONG = 300  # seconds: an idle machine takes a thirtieth of them
SMALL = {"batch": 2, "accumulation": 1, "epochs": 3, "lora": {"r": 4, "alpha": 8, "dropout": 0.0}}
ENDLESS = {**SMALL, "batch": 1, "epochs": 1000, "save_steps": 50_000}


@contextmanager
def started(config: Path, work: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program in a group of its own, as a stage starts it; what a test leaves of it is killed."""
    work.mkdir(parents=True, exist_ok=True)
    own = {"OMP_NUM_THREADS": "1", **program_files.environment(work, LONG), **processes.mark()}
    with config.with_suffix(".log").open("wb") as log:
        program = subprocess.Popen(
            [sys.executable, "-m", "tests.training.loader_workers", str(config)],
            env={**os.environ, **own},
            cwd=ROOT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield program
    finally:
        processes.end(program.pid, 0)
        program.wait()


def finished(config: Path, out: Path) -> dict[str, Any]:
    """The notes of a program that has to end well."""
    with started(config, out.parent / "work") as program:
        code = program.wait(LONG)
    assert code == 0, f"{code}\n{config.with_suffix('.log').read_text()[-3000:]}"
    notes: dict[str, Any] = json.loads((out / "summary.json").read_text())["notes"]
    return notes


def in_mid_training(program: subprocess.Popen[bytes], work: Path) -> list[psutil.Process]:
    """Waits for a few steps. Returns the program's processes, its workers among them."""
    deadline, progress = time.monotonic() + LONG, work / "progress.jsonl"
    while True:
        assert program.poll() is None and time.monotonic() < deadline
        workers = psutil.Process(program.pid).children(recursive=True)
        if len(workers) >= 2 and progress.exists() and len(progress.read_text().splitlines()) > 10:
            return [psutil.Process(program.pid), *workers]
        time.sleep(0.02)


def gone(family: list[psutil.Process], seconds: float = 30) -> bool:
    """Whether all of them end in time. Workers of the next epoch may have replaced those that were seen."""
    return not psutil.wait_procs(family, seconds)[1]


@pytest.mark.e2e
def test_a_rehearsal_of_one_batch_and_an_sft_of_several_epochs_come_to_their_end(
    config_file: Callable[..., Path], tmp_path: Path
) -> None:
    config = config_file("sft", "whole", SMALL)
    assert finished(rehearsed(config, "sft"), tmp_path / "whole/out")["steps"] == 1
    config = config_file("sft", "epochs", SMALL)
    assert finished(config, tmp_path / "epochs/out")["steps"] == 3 * 4


@pytest.mark.e2e
def test_a_signal_to_its_group_leaves_a_checkpoint_and_no_process(
    config_file: Callable[..., Path], tmp_path: Path
) -> None:
    """As `processes.end` and torchrun send it. The rank needs its workers for the step under way."""
    config, work = config_file("sft", "told", ENDLESS), tmp_path / "told/work"
    with started(config, work) as program:
        family = in_mid_training(program, work)
        os.killpg(program.pid, signal.SIGTERM)
        code = program.wait(LONG)
        assert code == program_files.STOPPED, config.with_suffix(".log").read_text()[-3000:]
        found = checkpoints.last_complete(work)
        assert found and found.name == program_files.status(work)["checkpoint"]
        assert gone(family)
        assert not left_of(config)


@pytest.mark.e2e
def test_no_worker_outlives_a_rank_that_is_killed(config_file: Callable[..., Path], tmp_path: Path) -> None:
    config, work = config_file("sft", "killed", ENDLESS), tmp_path / "killed/work"
    with started(config, work) as program:
        family = in_mid_training(program, work)
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
        assert gone(family)
        assert not left_of(config)


def left_of(config: Path, seconds: float = 10) -> list[psutil.Process]:
    """Processes of the program that still run after a while: forked ones have its command line."""
    deadline = time.monotonic() + seconds
    while True:
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            if str(config) in (process.info["cmdline"] or ()) and process.info["status"] != "zombie":
                found.append(process)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)
