"""A training that is told to stop: what it saves, what it costs, and that every rank's mistake is heard.

The ranks are real, under torchrun with ZeRO-3, and so are the signals.
"""

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
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from sifthinker.system import processes, program_files
from sifthinker.training import checkpoints, stopping
from tasks.runtime import following
from tests.nodes import job
from tests.training.fake_judge import Judge

ROOT = Path(__file__).parents[2]
LONG = 900  # seconds: an idle machine takes a twentieth of them
GRACE = 300  # seconds for a step and a checkpoint
ZERO3 = {"ranks": 2, "deepspeed": "zero3", "lora": {"r": 4, "alpha": 8, "dropout": 0.1}, "save_steps": 50}
PROGRAMS = {
    "sft": ("sifthinker.training.sft", {**ZERO3, "batch": 1, "accumulation": 1, "epochs": 2}),
    "grpo": (
        "tests.training.canned_grpo",
        {**ZERO3, "batch": 2, "accumulation": 2, "generations": 4, "epochs": 2, "max_completion": 16},
    ),
}


@contextmanager
def ranks(module: str, config: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Two ranks of a program, as a stage starts them; whatever a test leaves of them is killed."""
    work = config.parent / config.stem / "work"
    work.mkdir(parents=True, exist_ok=True)
    program_files.clear(work)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", module, str(config)]
    own = {**program_files.environment(work, GRACE), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(GRACE)}
    with (config.parent / f"{config.stem}.log").open("ab") as log:
        started = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "OMP_NUM_THREADS": "1", **own, **processes.mark(), **environment},
            cwd=ROOT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield started
    finally:
        processes.end(started.pid, 0)
        started.wait()


def children(launcher: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(launcher.pid).children()


def steps(work: Path) -> int:
    file = work / "progress.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def until(true: Callable[[], Any], started: subprocess.Popen[bytes], what: str) -> None:
    deadline = time.monotonic() + LONG
    while not true():
        assert started.poll() is None, f"{what}: it ended with {started.returncode}"
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def finished(module: str, config: Path) -> Path:
    with ranks(module, config) as started:
        assert started.wait(LONG) == 0, (config.parent / f"{config.stem}.log").read_text()[-4000:]
    return config.parent / config.stem / "out"


def logged(out: Path) -> list[dict[str, Any]]:
    """The history without what a clock decides."""
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "per_second" not in k and "time" not in k} for line in lines]


@pytest.fixture
def write(config_file: Callable[..., Path], judge: Judge, tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes the configuration of a program: which, and under what name."""

    def configuration(program: str, name: str) -> Path:
        if program == "sft":
            return config_file("sft", name, PROGRAMS["sft"][1])
        settings = {**PROGRAMS["grpo"][1], "judge": {"model": "fake", "retries": 0}}
        url = f"http://127.0.0.1:{judge.server_port}/v1"
        return config_file(
            "grpo", name, settings, judge_base_url=url, ledger=str(tmp_path / f"{name}.sqlite")
        )

    return configuration


class Ended(Exception):
    """In place of the end of the process."""


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> stopping.Watch:
    """The watch of a rank that has made a step, in a test's process."""

    def ended() -> None:
        raise Ended

    for name, value in program_files.environment(tmp_path, 100).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(stopping, "_end", ended)
    made = stopping.Watch()
    made.can_save.set()
    return made


def test_before_the_first_step_a_signal_ends_a_training_at_once(watch: stopping.Watch) -> None:
    watch.can_save.clear()
    with pytest.raises(Ended):
        watch._signalled(signal.SIGTERM)


def test_a_worker_of_the_data_loader_that_ends_is_no_signal_to_stop(watch: stopping.Watch) -> None:
    """torch has a handler for SIGCHLD in Python where its data loader has workers, and they end with each epoch."""
    for made_a_step in (True, False):
        (watch.can_save.set if made_a_step else watch.can_save.clear)()
        watch._signalled(signal.SIGCHLD)
    assert not watch.requested.is_set() and watch._deadline == float("inf")


def test_programs_that_a_training_starts_may_begin_a_session_and_workers_get_a_group() -> None:
    """In a process of its own: what is registered for forks stays."""
    code = """
import multiprocessing, os, subprocess, sys
from sifthinker.training import stopping

def work():
    sys.exit(0 if os.getpgrp() == os.getpid() else 3)

stopping.watch().start()
ask = [sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())"]
print(subprocess.run(ask, start_new_session=True, preexec_fn=lambda: None, capture_output=True, text=True).stdout)
worker = multiprocessing.get_context("fork").Process(target=work)
worker.start()
worker.join(60)
print("worker", worker.exitcode)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.stdout.split() == ["True", "worker", "0"], done.stdout + done.stderr


def test_a_signal_asks_for_a_checkpoint_and_starts_the_grace_once(watch: stopping.Watch) -> None:
    watch._signalled(signal.SIGTERM)
    deadline = watch._deadline
    assert watch.requested.is_set() and 95 < deadline - time.monotonic() <= 100
    watch._signalled(signal.SIGTERM)  # Prefect's worker signals twice
    assert watch._deadline == deadline


def test_a_second_interrupt_by_a_person_ends_at_once_and_the_same_one_passed_on_does_not(
    watch: stopping.Watch,
) -> None:
    watch._signalled(signal.SIGINT)
    watch._signalled(signal.SIGINT)
    watch._began -= stopping.TWICE
    with pytest.raises(Ended):
        watch._signalled(signal.SIGINT)


def test_a_starter_that_is_gone_is_a_signal_and_a_launcher_that_is_gone_the_end(
    watch: stopping.Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch._look()
    assert not watch.requested.is_set()
    monkeypatch.setenv(processes.VARIABLE, "1:1.0")  # process 1 did not start then
    watch._look()
    assert watch.requested.is_set()
    watch._launcher = os.getppid() + 1
    with pytest.raises(Ended):
        watch._look()


@pytest.mark.parametrize("how", ["error file", "missing rank"])
def test_a_rank_does_not_wait_its_whole_grace_for_one_that_has_failed(
    watch: stopping.Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    watch._signalled(signal.SIGTERM)  # torchrun's, to the ranks that are left
    if how == "error file":
        (tmp_path / program_files.ERROR).write_text("{}")
    else:
        watch._launcher = os.getppid()
        monkeypatch.setattr(stopping, "_missing", lambda launcher: True)
    watch._look()
    assert watch._deadline - time.monotonic() <= processes.GRACE


def test_a_step_and_a_checkpoint_that_do_not_fit_into_the_grace_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stopping, "_current", None)
    monkeypatch.setenv(program_files.GRACE, "0")
    callback = checkpoints.Checkpoints()
    state = SimpleNamespace(global_step=1, max_steps=9, is_world_process_zero=True)
    args, control = SimpleNamespace(device="cpu", output_dir=str(tmp_path)), SimpleNamespace(should_save=True)
    (tmp_path / "checkpoint-1").mkdir()
    for _ in range(2):
        callback.on_step_end(args, state, control)
        callback.on_save(args, state, control)
    assert caplog.text.count("Raise `grace` of this stage") == 1
    assert checkpoints.is_complete(tmp_path / "checkpoint-1")


@pytest.mark.e2e
def test_a_mistake_on_rank_1_of_2_is_heard_in_full_and_ends_both_ranks(tmp_path: Path) -> None:
    """Through torchrun, whose own exit code is 1 and whose summary hides what the rank said."""
    config = tmp_path / "mine.yaml"
    with ranks("tests.training.wrong_rank", config) as started:
        assert started.wait(480) == 1  # three processes that import torch, on a busy machine
    found = program_files.failure(tmp_path / "mine/work")
    assert found and (found.kind, found.rank) == ("user", 1)
    assert found.message == f"{config}: rank 1 has no patience; give it some"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("told", ["torchrun", "rank 1"])
def test_a_stopped_training_has_a_checkpoint_of_the_step_under_way_and_goes_on_as_if_nothing_had_been(
    write: Callable[[str, str], Path], tmp_path: Path, program: str, told: str
) -> None:
    """Two ranks, ZeRO-3, dropout on: the adapter, the losses, the order of the data, the random states and the book of
    scores are those of an undisturbed training. Checkpoints are 50 steps apart, so the signal alone makes one."""
    module, _ = PROGRAMS[program]
    straight = finished(module, write(program, "straight"))
    config, work = write(program, "stopped"), tmp_path / "stopped/work"
    with ranks(module, config) as started:
        until(lambda: steps(work) >= 2, started, "two steps are made")
        (started if told == "torchrun" else children(started)[1]).send_signal(signal.SIGTERM)
        made = steps(work)
        started.wait(GRACE)
    said = program_files.status(work)
    assert said["state"] == "stopped"
    assert made <= said["step"] <= made + 1, "the step under way is the last one"
    found = checkpoints.last_complete(work)
    assert found and found.name == said["checkpoint"] == f"checkpoint-{said['step']}"
    assert not (tmp_path / "stopped/out/summary.json").exists()
    resumed = finished(module, config)
    notes = json.loads((resumed / "summary.json").read_text())["notes"]
    assert notes["resumed_from"] == found.name
    left, right = (load_file(out / "adapter/adapter_model.safetensors") for out in (straight, resumed))
    assert left.keys() == right.keys()
    assert max(float((left[name] - right[name]).abs().max()) for name in left) <= 1e-6
    assert any(tensor.any() for name, tensor in left.items() if "lora_B" in name)
    one, two = logged(straight), logged(resumed)
    assert [entry["step"] for entry in one] == [entry["step"] for entry in two]
    assert [entry["loss"] for entry in one] == pytest.approx([entry["loss"] for entry in two], abs=1e-6)
    if program == "grpo":
        assert (straight / "book.json").read_bytes() == (resumed / "book.json").read_bytes()
        tables = [pq.read_table(out / "completions.parquet").to_pylist() for out in (straight, resumed)]
        assert tables[0] == tables[1]


@pytest.mark.slow
def test_a_run_that_is_ended_leaves_a_checkpoint_of_its_training_without_torchrun_too(
    config_file: Callable[..., Path], tmp_path: Path
) -> None:
    """As a stage starts and ends it: what interrupts `follow` (a signal, Cancel, the time limit) is an exception."""
    made = job(tmp_path / "store")
    settings = {"batch": 1, "accumulation": 1, "epochs": 500, "save_steps": 5000, "lora": ZERO3["lora"]}
    config = config_file("sft", "alone", settings, work=str(made.work), out=str(made.out))

    def look() -> None:
        if steps(made.work) >= 2:
            raise KeyboardInterrupt

    command = [sys.executable, "-m", "sifthinker.training.sft", str(config)]
    with pytest.raises(KeyboardInterrupt):
        following.follow(made, command, made.work / "progress.jsonl", None, grace=120, look=look)
    said = program_files.status(made.work)
    found = checkpoints.last_complete(made.work)
    assert said["state"] == "stopped" and said["step"] < 500
    assert found and found.name == f"checkpoint-{said['step']}"
    assert not (made.work / "pid.json").exists()
