"""What a training goes on from: a killed one from its own checkpoints, a refresh from nothing."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from sifthinker.config import Config
from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.models import loading
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Draft, Manifest, Ref
from sifthinker.system import processes
from sifthinker.system.files import write_json
from tasks.runtime import make as make_module
from tasks.runtime import ui_artifacts, work_folder
from tasks.runtime.decide import decide
from tasks.runtime.make import make_artifact
from tasks.runtime.stage import Job, Order, Stage, stage
from tasks.runtime.stage_results import Results
from tasks.stages.sft import sft
from tests.training.conftest import row

LOG = logging.getLogger("test")
STEPS = 4


class Killed(BaseException):
    """As by SIGKILL."""


class Training:
    """A stage `sft` that keeps a checkpoint of every step, and whose weights differ each time it starts anew."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.dies_after = STEPS + 1  # steps
        self.started_at: list[int] = []  # the step that each try went on from

    def made(self, refresh: bool = False) -> str:
        """Makes it, and returns its weights."""
        order = self.order(refresh)
        make_artifact(order, self.store, LOG)
        found = self.store.find("sft", order.key)
        assert found
        return (found.folder / "weights").read_text()

    def order(self, refresh: bool = False) -> Order:
        """What is to be made."""
        return decide(self.store, self.stage, "sft", Config.model_validate({"scenes": {}}), {}, refresh).order

    @property
    def work(self) -> Path:
        """Its work folder."""
        (work,) = (self.store.root / "sft").glob("*.work")
        return work

    @property
    def stage(self) -> Stage:
        """The stage, whose key never changes."""

        def sft(job: Job) -> None:
            before = {int(folder.name.rpartition("-")[2]): folder for folder in job.work.glob("checkpoint-*")}
            first = max(before, default=0)
            self.started_at.append(first)
            weights = (before[first] / "weights").read_text() if before else uuid.uuid4().hex
            for step in range(first + 1, STEPS + 1):
                if step > self.dies_after:
                    raise Killed
                with (job.work / "progress.jsonl").open("a") as file:
                    file.write(json.dumps({"step": step}) + "\n")
                (job.work / f"checkpoint-{step}").mkdir()
                (job.work / f"checkpoint-{step}" / "weights").write_text(weights)
            for copied in ("dataset", "held_out/dataset", "best/step-2", "sampler"):
                (job.work / copied).mkdir(parents=True, exist_ok=True)
                (job.work / copied / "file").write_text("large")
            (job.work / "log.txt").open("a").write("trained\n")
            (job.out / "weights").write_text(weights)
            job.draft.rows = {"in": 1, "kept": 1, "rejected": {}}

        return stage(config=lambda c: {}, results=Results(("expand",)))(sft)


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "store")


def steps(work: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (work / "progress.jsonl").read_text().splitlines()]


def test_a_refresh_trains_from_the_first_step(training: Training) -> None:
    old, new = training.made(), training.made(refresh=True)
    assert training.started_at == [0, 0] and old != new
    assert steps(training.work) == [1, 2, 3, 4], "the curves are those of this training alone"
    assert (training.work / "log.txt").read_text() == "trained\n" * 2, "the log is that of all tries"


def test_a_refresh_after_a_training_of_an_earlier_version_starts_anew(training: Training) -> None:
    training.made()
    (training.work / "training.json").unlink()
    (training.work / "checkpoint-4").mkdir()
    (training.work / "checkpoint-4" / "weights").write_text("old")
    assert training.made(refresh=True) != "old" and training.started_at == [0, 0]


@pytest.mark.parametrize("published", [True, False])
def test_a_killed_refresh_goes_on_from_its_own_checkpoints(training: Training, published: bool) -> None:
    if published:
        training.made()
    for after in (2, 3):
        training.dies_after = after
        with pytest.raises(Killed):
            training.made(refresh=True)
    training.dies_after = STEPS + 1
    training.made(refresh=True)
    assert training.started_at[-3:] == [0, 2, 3] and steps(training.work) == [1, 2, 3, 4]
    training.made(refresh=True)
    assert training.started_at[-1] == 0, "and the next one is another"


def test_a_refresh_does_not_go_on_from_what_another_making_left(training: Training) -> None:
    training.dies_after = 2
    with pytest.raises(Killed):
        training.made()
    training.dies_after = STEPS + 1
    training.made(refresh=True)
    assert training.started_at == [0, 0]


def test_a_killed_training_goes_on_without_a_refresh(training: Training) -> None:
    training.dies_after = 2
    with pytest.raises(Killed):
        training.made()
    training.dies_after = STEPS + 1
    training.made()
    assert training.started_at == [0, 2]


def test_a_published_training_keeps_what_pages_and_logs_read_and_nothing_large(training: Training) -> None:
    training.made()
    left = {path.name for path in training.work.iterdir()}
    assert left == {"progress.jsonl", "log.txt", "run.log", "training.json", "held_out"}
    assert not [*(training.work / "held_out").iterdir()]
    shutil.rmtree(training.store.root / "sft" / training.work.stem)
    training.made()
    assert training.started_at == [0, 0] and steps(training.work) == [1, 2, 3, 4]


def test_a_program_that_a_killed_run_left_is_ended_before_its_folder_is_emptied(training: Training) -> None:
    training.made()
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        left = {**processes.here(program.pid), "owner": processes.here(os.getpid()), "grace": 0}
        write_json(training.work / "pid.json", left)
        training.made(refresh=True)
        assert program.wait(10) < 0
    finally:
        program.kill()
        program.wait()


@pytest.mark.e2e
def test_sft_itself_is_trained_again_by_a_refresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui_artifacts, "page", lambda *_: None)  # no server
    store = Store(tmp_path / "store")

    def put(name: str, fill: Any) -> Ref:
        with store.making(name, "aa", {"label": name}) as draft:
            fill(draft)
        found = store.find(name, "aa")
        assert found
        return found.ref

    def data(draft: Draft) -> None:
        (draft.out / "data").mkdir()
        rows = (row(index) for index in range(8))
        tables.write(draft.out / "data" / "sif-00000.parquet", tables.SIF, rows)
        draft.rows = {"in": 8, "kept": 8, "rejected": {}}

    inputs = {
        "base": put("policy_weights", lambda draft: loading.build_tiny("qwen2_5_vl", 0, draft.out)),
        "sif": put("publish", data),
    }
    alone = {"ranks": 1, "deepspeed": "none", "precision": "fp32", "gradient_checkpointing": False}
    settings = {**alone, "batch": 2, "accumulation": 1, "epochs": 1, "save_steps": 2, "rehearse": "never"}
    config = Config.model_validate(
        {"scenes": {}, "model": {"weights": "tiny", "max_pixels": 3136}, "sft": settings}
    )

    def trained(refresh: bool) -> Manifest:
        order = decide(store, sft, "sft", config, inputs, refresh).order
        make_artifact(order, store, LOG)
        found = store.find("sft", order.key)
        assert found and not list(store.work("sft", order.key).glob("checkpoint-*"))
        assert steps(store.work("sft", order.key)) == [1, 2, 3, 4]
        return found.manifest

    first, again = trained(False), trained(True)
    assert again["made"] > first["made"] and again["notes"]["resumed_from"] is None


@pytest.mark.parametrize("error", [UserError("the bucket is away"), Killed()])
def test_a_refresh_that_ended_while_it_was_uploaded_is_not_made_twice(
    training: Training, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Its artifact is in the store by then."""
    training.made()
    with monkeypatch.context() as patch, pytest.raises(type(error)):

        def fails(*_: object) -> None:
            raise error

        patch.setattr(training.store.uploads, "push", fails)
        training.made(refresh=True)
    order = training.order(refresh=True)
    assert work_folder.finished(order, training.store)
    found = make_module._made_meanwhile(training.store, order)
    assert found and found.key == order.key and training.started_at == [0, 0]
    work_folder.end(order, training.store, LOG)
    assert not list(training.work.glob("checkpoint-*"))
    assert not work_folder.finished(order, training.store), "the next refresh is another"


def test_a_checkpoint_that_cannot_be_removed_is_told_and_fails_nothing(
    training: Training, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        removes = shutil.rmtree

        def refused(folder: Path, **options: Any) -> None:
            if folder.name.startswith("checkpoint-"):
                raise PermissionError(13, "Permission denied", str(folder))
            removes(folder, **options)

        patch.setattr(work_folder.shutil, "rmtree", refused)
        training.made()
    assert "checkpoint-4 stays, and takes disk space" in caplog.text and "Permission denied" in caplog.text
    assert json.loads((training.work / work_folder.MARKER).read_text())["published"]
