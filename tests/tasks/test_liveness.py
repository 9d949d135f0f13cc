"""Runs that were killed are closed, runs that live are left alone, and a run without a worker can be cancelled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.events import Event
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.states import AwaitingRetry, Cancelling, Completed

from sifthinker.core.errors import UserError
from sifthinker.store import runs, s3
from sifthinker.store.artifacts import Store
from sifthinker.system.files import write_json
from sifthinker.system.processes import here
from tasks.runtime import liveness

pytestmark = pytest.mark.usefixtures("prefect_server")
# A run in its one task, in a process of its own.
LONG = """
import sys, time
from pathlib import Path
from prefect import flow, task
from sifthinker.store.artifacts import Store
from prefect.states import Cancelled
from tasks.runtime.liveness import RunCancelled, alive

@task
def work(): time.sleep(600)

@flow
def long(store: Path):
    try:
        with alive(Store(store)):
            work()
    except RunCancelled as error:
        return Cancelled(message=str(error))

long(Path(sys.argv[1]), return_state=True)
"""


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def states(run: UUID) -> tuple[str, list[str]]:
    """Of a run and its tasks, from the server."""
    with get_client(sync_client=True) as client:
        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
        tasks = [str(task.state_name) for task in client.read_task_runs(flow_run_filter=of_run)]
        return str(client.read_flow_run(run).state_name), tasks


@pytest.fixture
def long(tmp_path: Path) -> Iterator[tuple[Store, subprocess.Popen[bytes], UUID]]:
    """A healthy run that is at its task."""
    process = subprocess.Popen([sys.executable, "-c", LONG, str(tmp_path)], start_new_session=True)
    try:
        until(lambda: any((tmp_path / "alive").glob("*.json")))
        [said] = (tmp_path / "alive").glob("*.json")
        until(lambda: states(UUID(said.stem)) == ("Running", ["Running"]))
        yield Store(tmp_path), process, UUID(said.stem)
    finally:
        process.kill()
        process.wait()


def test_a_healthy_run_is_left_alone_and_a_killed_one_is_closed(
    long: tuple[Store, subprocess.Popen[bytes], UUID],
) -> None:
    store, process, run = long
    assert liveness.sweep(store) == []
    assert states(run) == ("Running", ["Running"])
    write_json(store.root / "runs" / f"{run}.json", {"id": str(run), "state": "running", "stages": {}})
    process.kill()
    process.wait()
    [line] = liveness.sweep(store)
    assert f"its process {process.pid}" in line and "Crashed now" in line
    assert states(run) == ("Crashed", ["Crashed"])
    assert json.loads((store.root / "runs" / f"{run}.json").read_text())["state"] == "crashed"
    assert liveness.sweep(store) == []


def test_a_run_that_no_worker_started_is_cancelled_by_itself(
    long: tuple[Store, subprocess.Popen[bytes], UUID],
) -> None:
    _, process, run = long
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Cancelling())
    process.wait(60)
    until(lambda: states(run)[0] == "Cancelled")


def test_a_run_that_is_to_start_again_says_that_it_ends(
    long: tuple[Store, subprocess.Popen[bytes], UUID],
) -> None:
    """As on SIGTERM in a Job of Kubernetes: the state comes first, and heartbeats go on until the run has ended."""
    _, _, run = long
    with get_client(sync_client=True) as client:

        def told() -> list[Event]:
            wanted = EventFilter(event=EventNameFilter(name=[liveness.TOLD_TO_END]))  # until now
            return [*client.read_events(wanted, limit=50).events]

        time.sleep(1.5 * liveness.BEAT)
        assert not told(), "a healthy run says no such thing"
        client.set_flow_run_state(run, AwaitingRetry(), force=True)
        until(lambda: bool(told()))
        [said, *_] = told()
    assert said.resource.id == f"prefect.flow-run.{run}"
    assert [related.role for related in said.related][:1] == ["deployment"]


def test_tasks_of_whose_end_a_server_that_was_away_has_not_heard_are_ended_with_their_run(
    long: tuple[Store, subprocess.Popen[bytes], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, run = long
    monkeypatch.setattr(liveness, "TOLD", 0.0)
    monkeypatch.setattr(liveness.server_away, "missed", lambda: False)
    liveness._tell(run, Completed)
    assert states(run) == ("Running", ["Running"]), "a healthy server hears by itself"
    monkeypatch.setattr(liveness.server_away, "missed", lambda: True)
    liveness._tell(run, Completed)
    assert states(run) == ("Running", ["Completed"])


def test_a_run_of_another_host_lives_as_long_as_it_beats(tmp_path: Path) -> None:
    process = {**here(os.getpid()), "host": "another"}
    said = tmp_path / "alive" / "00000000-0000-0000-0000-000000000001.json"
    write_json(said, {"id": said.stem, "name": "far", "process": process})
    os.utime(said, (time.time(), time.time() - liveness.LEASE / 2))
    liveness.sweep(Store(tmp_path))
    assert said.exists()
    os.utime(said, (time.time(), time.time() - liveness.LEASE * 2))
    liveness.sweep(Store(tmp_path))  # a run that this server does not know
    assert not said.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{broken", "Expecting property name"),
        ("[1]", "it is no mapping"),
        ('{"id": "x", "name": "n"}', "it has no process"),
    ],
)
def test_a_damaged_sign_of_life_stops_no_run_and_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "alive").mkdir()
    (tmp_path / "alive" / "broken.json").write_text(text)
    dead = {"id": str(UUID(int=1)), "name": "dead", "process": {**here(os.getpid()), "started": 1.0}}
    write_json(tmp_path / "alive" / "dead.json", dead)
    [line] = liveness.sweep(Store(tmp_path))
    assert line.startswith(f"{tmp_path}/alive/broken.json cannot be read: {said}")
    assert [file.name for file in (tmp_path / "alive").iterdir()] == ["broken.json"], "the dead run is closed"


@pytest.mark.parametrize("text", ["{broken", "[1]", '{"id": "x"}'])
def test_a_dead_run_is_closed_though_its_record_is_damaged(tmp_path: Path, text: str) -> None:
    said = {"id": str(UUID(int=1)), "name": "dead", "process": {**here(os.getpid()), "started": 1.0}}
    write_json(tmp_path / "alive" / "dead.json", said)
    record = tmp_path / "runs" / f"{UUID(int=1)}.json"
    record.parent.mkdir()
    record.write_text(text)
    assert not liveness.sweep(Store(tmp_path)), "a run that this server does not know"
    assert not list((tmp_path / "alive").iterdir()) and record.read_text() == text


def killed(root: Path, bucket: str) -> Store:
    """A machine's store with a run that was killed there; other machines know it as running."""
    store, run = Store(root, bucket), str(UUID(int=1))
    store.record(runs.file(store, run), {"id": run, "started": 1.0, "state": runs.RUNNING, "stages": {}})
    process = {**here(os.getpid()), "started": 1.0}
    write_json(root / "alive" / f"{run}.json", {"id": run, "name": "dead", "process": process})
    return store


def test_other_machines_hear_that_a_run_was_killed(tmp_path: Path, bucket: str) -> None:
    store = killed(tmp_path / "a", bucket)
    other = Store(tmp_path / "b", bucket)
    other.pull()
    assert [runs.state(other, run) for run in runs.runs(other)] == [runs.RUNNING]
    time.sleep(1.05)  # the S3 server counts whole seconds
    liveness.sweep(store)
    other.pull()
    assert [runs.state(other, run) for run in runs.runs(other)] == [runs.CRASHED]


def test_a_remote_that_is_away_stops_no_sweep_and_hears_of_it_later(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> str:
        raise UserError("the server is away")

    store = killed(tmp_path / "a", bucket)
    with monkeypatch.context() as patch:
        patch.setattr(s3.Remote, "upload", away)
        liveness.sweep(store)
    assert not list((tmp_path / "a" / "alive").iterdir()), "the run is closed here"
    other = Store(tmp_path / "b", bucket)
    store.pull()
    other.pull()
    assert [runs.state(other, run) for run in runs.runs(other)] == [runs.CRASHED]


def test_training_processes_of_a_killed_run_are_ended_and_those_of_a_living_one_are_not(
    tmp_path: Path,
) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    orphan, child = (subprocess.Popen(sleep, start_new_session=True) for _ in range(2))
    try:
        dead = {**here(os.getpid()), "started": 1.0}
        for key, process, owner in (("aa", orphan, dead), ("bb", child, here(os.getpid()))):
            write_json(tmp_path / "sft" / f"{key}.work" / "pid.json", {**here(process.pid), "owner": owner})
        assert len(liveness.sweep(Store(tmp_path))) == 1
        assert orphan.wait(20) == -signal.SIGTERM
        assert child.poll() is None
    finally:
        for process in (orphan, child):
            process.kill()
            process.wait()
