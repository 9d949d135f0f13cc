"""The flow that prunes: what it asks of the server, what it shows there, and the command beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.artifacts import Artifact
from prefect.states import Completed

from flows.prune import prune
from sifthinker.store.artifacts import Store
from sifthinker.system.files import write_json
from sifthinker.upkeep.prune import DAY
from tasks.operations.prune import over

pytestmark = pytest.mark.usefixtures("prefect_server")
OLD = time.time() - 100 * DAY


@flow(name="ended")
def ended() -> Any:
    return Completed()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An artifact that a killed run made: its record says "running", the server knows that it has ended."""
    store = Store(tmp_path)
    with store.making("a", "a0", {"label": "a", "inputs": {}}) as draft:
        (draft.out / "data").write_text("data")
    run = str(ended(return_state=True).state_details.flow_run_id)
    made = {"a": {"stage": "a", "key": "a0", "digest": "d"}}
    write_json(
        tmp_path / "runs" / f"{run}.json",
        {"id": run, "name": "night", "started": OLD, "state": "running", "stages": made},
    )
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.utime(path, (OLD, OLD))
    return store


def test_runs_that_the_server_does_not_know_are_not_said_to_have_ended(store: Store) -> None:
    [run] = [path.stem for path in (store.root / "runs").iterdir()]
    assert over([run, str(uuid.uuid4())]) == {run}


def test_the_flow_only_looks_until_it_is_told_to_apply(store: Store) -> None:
    state = prune(store.root, days=14, runs=0, return_state=True)
    assert state.message.startswith("would remove 1 artifact, 1 run record: ")
    assert (store.root / "a" / "a0").exists()
    shown = Artifact.get("prune")
    assert shown and "| artifact | `a/a0` |" in str(shown.data)
    state = prune(store.root, apply=True, days=14, runs=0, return_state=True)
    assert state.message.startswith("removed 1 artifact, 1 run record: ")
    assert not (store.root / "a" / "a0").exists()


def test_what_cannot_be_removed_ends_the_run_as_a_mistake_that_names_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of a training that never came to its first artifact is known by its stage's name."""
    key = "0123456789abcdef0123"
    work = store.work("sft", key)
    for path in (work, work.parent):
        os.utime(path, (OLD, OLD))

    def rmtree(path: Path) -> None:
        raise OSError(f"{path.name.partition('.')[0]} is busy")

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    state = prune(store.root, apply=True, days=14, runs=0, return_state=True)
    assert state.is_failed() and state.name == "UserError"
    stuck = f"a/a0: a0 is busy; sft/{key}.work: {key} is busy"
    assert f"2 could not be removed, the rest was: {stuck}" in str(state.message)
    assert "removed 1 run record" in str(Artifact.get("prune").data)


def test_a_store_that_is_not_there_fails_the_run_with_its_message(tmp_path: Path) -> None:
    state = prune(tmp_path / "none", return_state=True)
    assert state.is_failed() and "no such folder" in str(state.message)


def test_an_empty_store_fails_the_run_where_it_knows_no_remote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIF_REMOTE", raising=False)
    state = prune(tmp_path, return_state=True)
    assert state.is_failed() and state.name == "UserError" and "SIF_REMOTE" in str(state.message)


def test_the_command_asks_the_server_and_removes_only_with_yes(store: Store) -> None:
    sif = str(Path(sys.executable).with_name("sif"))
    command = [sif, "prune", "--store", str(store.root), "--runs", "0"]
    looked = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert looked.returncode == 0 and "would remove 1 artifact, 1 run record" in looked.stdout, looked.stderr
    assert (store.root / "a" / "a0").exists()
    refused = subprocess.run([*command, "--apply"], input="n\n", capture_output=True, text=True, timeout=120)
    assert (store.root / "a" / "a0").exists(), refused.stdout
    removed = subprocess.run([*command, "--yes"], capture_output=True, text=True, timeout=120)
    assert "removed 1 artifact, 1 run record" in removed.stdout, removed.stderr
    assert not (store.root / "a" / "a0").exists()
