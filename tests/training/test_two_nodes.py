"""Trainings on two nodes: launchers of this machine in folders of their own, that see one store under two paths."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from sifthinker.config import Grpo, Sft
from sifthinker.core.errors import UserError
from sifthinker.training import checkpoints
from tasks.runtime import following, nodes, programs
from tests.nodes import job

ROOT = Path(__file__).parents[2]
LONG = 900  # seconds: an idle machine takes a tenth of them
SMALL = {
    "ranks": 2,
    "deepspeed": "zero3",
    "precision": "fp32",
    "gradient_checkpointing": False,
    "learning_rate": 1e-3,
    "lora": {"r": 4, "alpha": 8, "dropout": 0.0},
    "save_steps": 1,
}
SFT = {**SMALL, "batch": 1, "accumulation": 1, "epochs": 2}
GRPO = {**SMALL, "batch": 2, "accumulation": 2, "generations": 4, "epochs": 2, "max_completion": 16}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs.Page, "show", lambda page: None)  # there is no Prefect server


def settings(stage: str, values: dict[str, Any], base: Path, sif: Path, **more: Any) -> dict[str, Any]:
    model = {"weights": "tiny", "max_pixels": 3136}
    return {"model": str(base), "dataset": [str(sif)], "settings": {"model": model, stage: values}, **more}


def lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


class Training:
    """The first node, in a thread of this process, and the second, which is `sif join` in a folder of its own."""

    def __init__(self, start: Callable[[], None], store: Path, folder: Path) -> None:
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, args=(start,))
        self.thread.start()
        folder.mkdir(exist_ok=True)
        self.log = folder / "join.log"
        with self.log.open("ab") as log:
            self.second = subprocess.Popen(
                [sys.executable, "-m", "flows", "join", str(store), "--once"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _run(self, start: Callable[[], None]) -> None:
        try:
            start()
        except (following.ProgramFailed, UserError) as error:
            self.error = error

    def ended(self) -> int:
        """Waits for both nodes; the second's exit code."""
        code = self.second.wait(LONG)
        self.thread.join(LONG)
        assert not self.thread.is_alive()
        return code


def launcher(of: int) -> psutil.Process:
    return next(p for p in psutil.Process(of).children(recursive=True) if "--nnodes=2" in p.cmdline())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_two_nodes_train_what_one_does_and_a_killed_one_ends_both_and_the_next_start_goes_on(
    stage: str, base: Path, sif: Path, judge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeRO-3 over two ranks: of one launcher, and of two that share nothing but the store, seen under two paths. The
    second launcher is killed (SIGKILL) after two steps."""
    url = f"http://127.0.0.1:{judge.server_port}/v1"
    monkeypatch.setenv(nodes.ADDRESS, "127.0.0.1")
    store, other = tmp_path / "store", tmp_path / "seen-elsewhere"
    store.mkdir()
    other.symlink_to(store)
    module, more = "sft", {}
    if stage == "grpo":
        module, more = "canned_grpo", {"judge_base_url": url}
        monkeypatch.setattr(programs, "PACKAGE", "tests.training")

    def start(name: str, count: int) -> Callable[[], None]:
        values = {**(SFT if stage == "sft" else GRPO), "nodes": count}
        if stage == "grpo":
            values["judge"] = {"model": "fake", "retries": 0}
            more["ledger"] = str(tmp_path / f"{name}.sqlite")
        options = (Sft if stage == "sft" else Grpo)(**values)
        return lambda: programs.train(
            job(store, name), module, settings(stage, values, base, sif, **more), options
        )

    start("one", 1)()
    training = Training(start("two", 2), other, tmp_path / "second")
    work = store / "sft/two.work"
    deadline = time.monotonic() + LONG
    while lines(work / "progress.jsonl") < 2:
        assert time.monotonic() < deadline and training.error is None, training.log.read_text()
        time.sleep(0.05)
    launcher(training.second.pid).send_signal(signal.SIGKILL)
    assert training.ended() == 1, training.log.read_text()
    assert isinstance(training.error, following.ProgramFailed)
    left = [p for p in psutil.process_iter(["cmdline"]) if str(work) in " ".join(p.info["cmdline"] or [])]
    assert not left, "no rank of either node is left"
    assert not (tmp_path / "store/sft/two.out/summary.json").exists()
    found = checkpoints.last_complete(work)
    assert found

    training = Training(start("two", 2), other, tmp_path / "second")
    assert training.ended() == 0, training.log.read_text()
    assert training.error is None
    notes = json.loads((store / "sft/two.out/summary.json").read_text())["notes"]
    assert notes["resumed_from"] == found.name
    assert notes["world"] == 2
    one, two = (
        load_file(store / f"sft/{name}.out/adapter/adapter_model.safetensors") for name in ("one", "two")
    )
    assert max(float((one[name] - two[name]).abs().max()) for name in one) <= 1e-5
    assert any(tensor.any() for name, tensor in one.items() if "lora_B" in name)
    assert not [*work.glob("node-*.json"), *work.glob("config-*.yaml"), *work.glob(nodes.FILE)]
