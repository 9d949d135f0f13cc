"""A run whose process is gone cannot write its end: `sif status`, `sif logs` and the metrics say that it was killed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.commands import logs, main
from sifthinker.dataframes import Results
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from sifthinker.system.files import write_json
from sifthinker.system.processes import here
from sifthinker.upkeep import metrics

AT = {"label": "sft", "stage": "sft", "key": "a" * 20, "since": 50.0}


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Stands for the process of a run: it waits until it is killed."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as started:
        yield started
        started.kill()


def under_way(store: Store, named: dict[str, Any], state: str = runs.RUNNING) -> None:
    """A run that is at the stage sft, made by a process."""
    record = {"id": "one", "name": "mine", "started": 1.0, "state": state, "stages": {}, "at": AT}
    store.record(runs.file(store, "one"), record)
    write_json(store.root / "alive" / "one.json", {"id": "one", "name": "mine", "process": named})
    (store.work("sft", AT["key"]) / "run.log").write_text("sft: 1 of 6\n")


def sif(store: Store, *arguments: str) -> Any:
    return CliRunner().invoke(main.app, [*arguments, "--store", str(store.root)])


def killed(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The name of the process, which is gone then."""
    named = here(process.pid)
    process.kill()
    process.wait()
    return named


def test_a_run_whose_process_is_gone_is_killed_for_all_who_read_it(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    store = Store(tmp_path)
    under_way(store, killed(process))
    said = json.loads(sif(store, "status", "--json").stdout)
    assert said["run"]["state"] == said["runs"][0]["state"] == "killed"
    shown = sif(store, "status").stdout
    assert "mine of" in shown and ": killed" in shown and "running" not in shown
    assert f"its process {process.pid} on {socket.gethostname()} is gone" in shown
    assert Results(tmp_path).runs()["state"].tolist() == ["killed"]
    found = {metric.name: metric for metric in metrics.StoreCollector(store).collect()}
    assert [sample.labels["state"] for sample in found["sif_runs"].samples] == ["killed"]
    assert not found["sif_stage_under_way_timestamp_seconds"].samples


def test_following_the_log_of_a_killed_run_ends_with_1_and_the_reason(
    tmp_path: Path, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed while it is followed: at the first pause between two looks, so that a second look finds it so."""
    store = Store(tmp_path)
    under_way(store, here(process.pid))

    def pause(seconds: float) -> None:
        assert process.poll() is None, "the run was found killed, and is followed on"
        killed(process)

    monkeypatch.setattr(logs.time, "sleep", pause)
    done = sif(store, "logs", "sft", "--follow")
    assert done.exit_code == 1
    assert done.stdout == "==> run.log <==\nsft: 1 of 6\n"
    assert f"logs: sft does not go on: run mine (one): its process {process.pid} on" in done.stderr
    once = sif(store, "logs", "sft")
    assert once.exit_code == 0 and "is gone" in once.stderr


def test_the_log_of_a_run_that_the_next_run_found_killed_says_so_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    under_way(store, {}, runs.CRASHED)
    done = sif(store, "logs", "sft", "-f")
    assert done.exit_code == 1 and "sft did not end: run one was killed" in done.stderr


def test_runs_that_may_live_are_not_called_killed(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    store = Store(tmp_path)
    lives = here(process.pid)
    under_way(store, lives)
    [record] = runs.runs(store)
    assert runs.state(store, record) == runs.RUNNING
    gone = killed(process)
    # Another machine's processes cannot be seen from here; of a file without a process nobody knows.
    for named in ({**gone, "host": "another-machine"}, {}):
        under_way(store, named)
        assert runs.state(store, record) == runs.RUNNING
    (store.root / "alive" / "one.json").unlink()  # it ends just now
    assert runs.state(store, record) == runs.RUNNING


def test_a_run_that_ends_between_two_looks_is_not_called_killed(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    store = Store(tmp_path)
    under_way(store, named := killed(process))
    [before] = runs.runs(store)
    assert runs.state(store, before) == runs.KILLED
    under_way(store, named, "finished")  # a run that cannot reach the Prefect server leaves its file
    assert runs.state(store, before) == runs.RUNNING
