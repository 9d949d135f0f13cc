"""`sif join`: which trainings of a store it takes part in, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer

from flows.commands.join import join
from sifthinker.core.errors import UserError
from tasks.runtime import following, nodes

ROOT = Path(__file__).resolve().parents[2]
# `sif join` at a training whose ranks need a moment for their checkpoint.
AT_WORK = """
import sys, time
from pathlib import Path
from flows.commands import join
from tasks.runtime import nodes

def joined(work, root, *_):
    try:
        (root / "up").touch()
        time.sleep(60)
    finally:
        time.sleep(0.5)
        (root / "checkpoint").touch()

nodes.join = joined
join.join(Path(sys.argv[1]))
"""
FIRST = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]  # the first process of its own numbers


def waiting(store: Path, *stages: str) -> None:
    for stage in stages:
        (store / stage / "key.work").mkdir(parents=True)
        (store / stage / "key.work" / nodes.FILE).write_text("{}")


def test_a_store_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is no folder"):
        join(tmp_path / "nowhere")


def test_the_file_of_a_killed_run_is_passed_over_and_the_next_training_is_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting(tmp_path, "grpo", "sft")
    asked = []

    def joined(work: Path, root: Path, wait: float, log: Any, label: str) -> None:
        asked.append((label, root))
        if label == "grpo":
            raise nodes.NoFirstNode("no sign of life")

    monkeypatch.setattr(nodes, "join", joined)
    join(tmp_path, once=True)
    assert asked == [("grpo", tmp_path), ("sft", tmp_path)]


@pytest.mark.parametrize("error", [following.ProgramFailed("node b is lost"), UserError("no such colour")])
def test_a_training_that_fails_is_told_and_only_ends_the_command_that_was_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    waiting(tmp_path, "grpo", "sft")

    def joined(work: Path, root: Path, wait: float, log: Any, label: str) -> None:
        if label == "sft":
            raise KeyboardInterrupt  # somebody ends the command
        raise error

    monkeypatch.setattr(nodes, "join", joined)
    with pytest.raises(typer.Exit):
        join(tmp_path, once=True)
    with pytest.raises(KeyboardInterrupt):
        join(tmp_path, once=False)
    assert str(error) in capsys.readouterr().out


@pytest.mark.e2e
@pytest.mark.parametrize(
    "container",
    [
        pytest.param([], id="by itself"),
        pytest.param(
            FIRST,
            id="in a container",
            marks=pytest.mark.skipif(
                os.geteuid() != 0 or not shutil.which("unshare"), reason="process numbers need root here"
            ),
        ),
    ],
)
def test_a_node_that_is_drained_has_its_ranks_make_a_checkpoint(tmp_path: Path, container: list[str]) -> None:
    """As in the Job of kubernetes/overlays/two-nodes: SIGTERM to the first process of the container."""
    waiting(tmp_path, "sft")
    command = [*container, sys.executable, "-m", "infra.run", sys.executable, "-c", AT_WORK, str(tmp_path)]
    started = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        deadline = time.monotonic() + 240
        while not (tmp_path / "up").exists():
            assert started.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        [first] = psutil.Process(started.pid).children() if container else [psutil.Process(started.pid)]
        first.send_signal(signal.SIGTERM)
        assert started.wait(120) == 128 + signal.SIGTERM
    finally:
        started.kill()
    assert (tmp_path / "checkpoint").exists()


def test_sigterm_is_as_it_was_after_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting(tmp_path, "sft")
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(nodes, "join", lambda *_: None)
    join(tmp_path, once=True)
    assert signal.getsignal(signal.SIGTERM) is before
