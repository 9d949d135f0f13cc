"""`sif logs`: of a stage that was made, that failed, that is under way, and of none."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.commands import logs, main
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from tasks.runtime import stage_log

SFT = {"stage": "sft", "key": "a" * 20, "digest": "d"}


def record(store: Store, name: str, started: float, state: str = "finished", **more: Any) -> None:
    run = {"id": name, "name": "mine", "started": started, "state": state, "stages": {}, **more}
    store.record(store.root / "runs" / f"{name}.json", run)


def shown(store: Store, *arguments: str) -> str:
    done = CliRunner().invoke(main.app, ["logs", *arguments, "--store", str(store.root)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0
    return done.stdout


def test_the_files_are_those_that_stages_write() -> None:
    assert logs.OWN == stage_log.NAME


def test_the_log_of_a_stage_and_of_its_program_is_shown(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record(store, "one", 1.0, stages={"sft": SFT})
    work = store.work("sft", "a" * 20)
    (work / "run.log").write_text("sft: 1 of 6\n")
    (work / "log.txt").write_text("first\n{'loss': 6.7}\n")
    assert shown(store, "sft") == "==> run.log <==\nsft: 1 of 6\n==> log.txt <==\nfirst\n{'loss': 6.7}\n"
    assert "first" not in shown(store, "sft", "-n", "1")


def test_the_stage_that_a_run_failed_in_has_its_log(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record(store, "one", 1.0, stages={"sft": SFT})
    record(store, "two", 2.0, "failed", at={**SFT, "key": "b" * 20, "label": "sft"})
    for key, text in (("a", "good\n"), ("b", "bad\n")):
        (store.work("sft", key * 20) / "run.log").write_text(text)
    assert "bad" in shown(store, "sft")
    assert "good" in shown(store, "sft", "--run", "one")


def test_a_stage_under_way_is_followed_to_its_end(tmp_path: Path) -> None:
    """A thread writes as a worker with the same store does."""
    store = Store(tmp_path)
    record(store, "one", 1.0, "running", at={**SFT, "label": "sft"})
    log = store.work("sft", "a" * 20) / "run.log"

    def work() -> None:
        for number in range(3):
            time.sleep(0.3)
            with log.open("a") as file:
                file.write(f"line {number}\n")
        record(store, "one", 1.0, stages={"sft": SFT})

    worker = threading.Thread(target=work)
    worker.start()
    said = shown(store, "sft", "-f")
    worker.join()
    assert said == "==> run.log <==\nline 0\nline 1\nline 2\n"


def test_a_stage_without_a_log_says_why_there_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record(store, "one", 1.0, stages={"sft": SFT})
    with pytest.raises(UserError, match=r"sft of run one has no log in .*removed by `sif prune`"):
        shown(store, "sft")
    with pytest.raises(
        UserError, match=r"no run in the store has come to a stage sftt; did you mean 'sft'\?"
    ):
        shown(store, "sftt")
    with pytest.raises(UserError, match=r"run one has not come to a stage grpo; .*reached: sft"):
        shown(store, "grpo", "--run", "one")
    assert json.loads((store.root / "runs" / "one.json").read_text())["stages"]
