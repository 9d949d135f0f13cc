"""No run stays "Running" when its worker is gone: workers of their own host names, stopped and killed, on a real server.

One server, one worker a row, all lost within the same seconds: what is measured is how long the server believes in them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from infra import lost_runs
from tasks.runtime.liveness import SILENT, UNBEGUN
from tests.faults.conftest import ROOT, PrefectServer, started, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
DEPLOYMENTS = yaml.safe_load((ROOT / "infra/prefect.yaml").read_text(encoding="utf-8"))["deployments"]
FLOWS = {deployment["entrypoint"].rpartition(":")[2] for deployment in DEPLOYMENTS}
MINUTES = 2  # within which a lost run is closed
PROBE = '''
import os, time
from pathlib import Path

from prefect import flow, task
from sifthinker.store.artifacts import Store
from tasks.runtime.liveness import alive


@task
def step(folder: str) -> None:
    (Path(folder) / "pid").write_text(str(os.getpid()))
    while not (Path(folder) / "go").exists():
        time.sleep(0.1)


@flow(name="probe")
def probe(folder: str) -> None:
    """Runs until a file is there, as a stage does: alive, in a task."""
    Path(folder).mkdir(exist_ok=True)
    with alive(Store(Path(folder))):
        step(folder)
'''


@dataclass
class Row:
    """A run of a pool of its own, and the worker that carries it out, under another host name."""

    name: str
    deployment: str
    worker: subprocess.Popen[bytes]
    folder: Path
    run: str = ""

    def family(self) -> list[psutil.Process]:
        """The worker and all that it started, as the processes of a container."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("SIF_LOST_RUNS") == self.name:
                    found.append(process)
        return found


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with started(tmp_path_factory.mktemp("lost-runs")) as running:
        yield running


def code() -> str:
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def cover(prefect: PrefectServer, deployments: list[str]) -> None:
    """The project's automations, for deployments of this test."""
    program = (
        "import sys; from prefect.client.orchestration import get_client; from infra import lost_runs, automations\n"
        "with get_client(sync_client=True) as client:\n"
        "    ids = [f'prefect.deployment.{i}' for i in sys.argv[1:]]\n"
        "    for one in lost_runs.automations(ids, ids, []):\n"
        "        print(automations.save(client, one))"
    )
    environment = {**prefect.environment, "PYTHONPATH": code()}
    subprocess.run([sys.executable, "-c", program, *deployments], cwd=ROOT, env=environment, check=True)


def row(prefect: PrefectServer, folder: Path, name: str, pull: list[dict[str, Any]] | None = None) -> Row:
    """A deployment in a pool of its own, and its worker, on a host of its own."""
    folder = folder / name
    folder.mkdir()
    (folder / "probe.py").write_text(PROBE, encoding="utf-8")
    flow = prefect.ask("flows/", {"name": "probe"})["id"]
    prefect.ask("work_pools/", {"name": name, "type": "process", "concurrency_limit": 1})
    steps = [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}]
    body = {
        "name": name,
        "flow_id": flow,
        "entrypoint": "probe.py:probe",
        "pull_steps": [*(pull or []), *steps],
        "work_pool_name": name,
        "job_variables": {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", "PYTHONPATH": code()}},
        "parameters": {"folder": str(folder / "store")},
        "enforce_parameter_schema": False,
        "concurrency_limit": 1,
        "concurrency_options": {"collision_strategy": "ENQUEUE"},
    }
    deployment = str(prefect.ask("deployments/", body)["id"])
    command = [sys.executable, "-m", "infra.worker", "--pool", name, "--type", "process"]
    host = ["unshare", "--uts", "sh", "-c", f'hostname {name} && exec "$@"', "sh"]
    environment = {**prefect.environment, "PYTHONPATH": code(), "SIF_LOST_RUNS": name}
    with (folder / "worker.log").open("ab") as log:
        worker = subprocess.Popen(
            [*host, *command], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    return Row(name, deployment, worker, folder)


def again(prefect: PrefectServer, deployment: str) -> str:
    """A run of a deployment; its id."""
    body = {"state": {"type": "SCHEDULED"}, "parameters": {}}
    return str(prefect.ask(f"deployments/{deployment}/create_flow_run", body)["id"])


def state(prefect: PrefectServer, run: str) -> dict[str, Any]:
    return dict(prefect.ask(f"flow_runs/{run}")["state"])


def offered(prefect: PrefectServer, pool: str) -> list[str]:
    """The runs that a worker of a pool would be given now."""
    until = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    found = prefect.ask(f"work_pools/{pool}/get_scheduled_flow_runs", {"scheduled_before": until})
    return [one["flow_run"]["id"] for one in found]


def lose(one: Row, how: str) -> None:
    """As a container is stopped (SIGTERM to its first process), or is killed, for memory or with its machine."""
    if how == "SIGTERM":
        # `unshare` and `sh` have become the worker by exec.
        one.worker.send_signal(signal.SIGTERM)
    else:
        for process in one.family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)  # nobody reports another's death
        for process in one.family():
            with suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="host names need root here")
def test_a_lost_run_is_closed_within_two_minutes_and_its_slot_is_free(
    prefect: PrefectServer, tmp_path: Path
) -> None:
    """The table of infra/README.md, "Runs whose worker is gone"."""
    slow = [{"prefect.deployments.steps.run_shell_script": {"script": "sleep 600"}}]
    rows = {
        "stopped": (row(prefect, tmp_path, "stopped"), "SIGTERM", "Its worker on stopped was stopped."),
        "killed": (row(prefect, tmp_path, "killed"), "SIGKILL", SILENT),
        "unbegun": (row(prefect, tmp_path, "unbegun", slow), "SIGKILL", UNBEGUN),
        "healthy": (row(prefect, tmp_path, "healthy"), "", ""),
    }
    cover(prefect, [one.deployment for one, _, _ in rows.values()])
    time.sleep(8)  # the server looks for new automations
    *begin, unbegun = (rows[name][0] for name in ("stopped", "killed", "healthy", "unbegun"))
    for one in begin:
        one.run = again(prefect, one.deployment)
    for one in begin:
        until((one.folder / "store" / "pid").exists, f"{one.name} runs", 600)
    unbegun.run = again(prefect, unbegun.deployment)
    until(lambda: state(prefect, unbegun.run)["type"] == "PENDING", "the last is prepared", 600)
    time.sleep(3)  # the first heartbeat
    waiting = {one.name: again(prefect, one.deployment) for one, how, _ in rows.values() if how}
    began, seconds = time.monotonic(), dict[str, float]()
    for one, how, _ in rows.values():
        if how:
            lose(one, how)
    while len(seconds) < len(waiting):
        assert time.monotonic() - began < 60 * MINUTES, f"closed so far: {seconds}"
        for one, how, _ in rows.values():
            if how and one.name not in seconds and state(prefect, one.run)["type"] == "CRASHED":
                seconds[one.name] = time.monotonic() - began
        time.sleep(0.5)
    print("seconds until closed:", {name: round(taken, 1) for name, taken in seconds.items()})
    for one, how, message in rows.values():
        if how:
            assert state(prefect, one.run)["message"] == message
            until(
                lambda one=one: offered(prefect, one.name) == [waiting[one.name]], "the next is offered", 30
            )
    tasks = prefect.ask("task_runs/filter", {"task_runs": {"state": {"type": {"any_": ["RUNNING"]}}}})
    healthy = rows["healthy"][0]
    assert {task["flow_run_id"] for task in tasks} & {rows["stopped"][0].run} == set()
    assert state(prefect, healthy.run)["type"] == "RUNNING"
    assert rows["stopped"][0].worker.wait(60) == 0
    (healthy.folder / "store" / "go").touch()
    until(lambda: state(prefect, healthy.run)["type"] == "COMPLETED", "the healthy run completes")
    healthy.worker.send_signal(signal.SIGTERM)
    assert healthy.worker.wait(60) == 0


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="host names need root here")
def test_a_run_that_stood_still_is_running_again_when_it_goes_on(
    prefect: PrefectServer, tmp_path: Path
) -> None:
    """A machine that slept, a server that was away: the server crashes the run, and the run says that it lives."""
    one = row(prefect, tmp_path, "sleeper")
    cover(prefect, [one.deployment])
    time.sleep(8)  # the server looks for new automations
    one.run = again(prefect, one.deployment)
    until((one.folder / "store" / "pid").exists, "it runs", 600)
    time.sleep(3)  # the first heartbeat
    run = psutil.Process(int((one.folder / "store" / "pid").read_text()))
    run.suspend()
    until(lambda: state(prefect, one.run)["type"] == "CRASHED", "it is taken for dead", 60 * MINUTES)
    run.resume()
    until(lambda: state(prefect, one.run)["type"] == "RUNNING", "it says that it lives", 30)
    (one.folder / "store" / "go").touch()
    until(lambda: state(prefect, one.run)["type"] == "COMPLETED", "it completes", 60)
    one.worker.send_signal(signal.SIGTERM)
    assert one.worker.wait(60) == 0


def test_a_run_that_needs_long_to_begin_is_not_taken_for_dead(prefect: PrefectServer, tmp_path: Path) -> None:
    """Its process is there, and its worker says so: on an overloaded machine it may need minutes to load its code."""
    slow = [{"prefect.deployments.steps.run_shell_script": {"script": "sleep 200"}}]
    one = row(prefect, tmp_path, "overloaded", slow)
    (one.folder / "store").mkdir()
    (one.folder / "store" / "go").touch()
    cover(prefect, [one.deployment])
    time.sleep(8)  # the server looks for new automations
    one.run = again(prefect, one.deployment)
    until(lambda: state(prefect, one.run)["type"] == "PENDING", "it is prepared", 600)
    until(lambda: state(prefect, one.run)["type"] not in ("PENDING", "RUNNING"), "it ends", 600)
    said = state(prefect, one.run)
    states = [found["type"] for found in prefect.ask(f"flow_run_states/?flow_run_id={one.run}")]
    assert said["type"] == "COMPLETED" and "CRASHED" not in states, (said, states)
    one.worker.send_signal(signal.SIGTERM)
    assert one.worker.wait(60) == 0


def test_a_run_that_dies_between_its_beginning_and_its_first_heartbeat_is_closed(
    prefect: PrefectServer,
) -> None:
    """As when its machine is lost in these seconds: the server has heard that it runs, and nothing after."""
    flow = prefect.ask("flows/", {"name": "probe"})["id"]
    deployment = str(prefect.ask("deployments/", {"name": "unheard", "flow_id": flow})["id"])
    cover(prefect, [deployment])
    time.sleep(5)  # the server looks for new automations
    run = again(prefect, deployment)
    for kind in ("PENDING", "RUNNING"):
        body = {"state": {"type": kind, "name": kind.title()}, "force": True}
        prefect.ask(f"flow_runs/{run}/set_state", body)
    until(lambda: state(prefect, run)["type"] != "RUNNING", "it is closed", 300)
    lost = state(prefect, run)
    assert (lost["type"], lost["message"]) == ("CRASHED", SILENT)


def test_every_deployment_is_watched(prefect: PrefectServer) -> None:
    """By `make deploy`, of which this is the end: the deployments here are made by their names alone."""
    flows = {name: prefect.ask("flows/", {"name": name})["id"] for name in FLOWS}
    ids = set()
    for deployment in DEPLOYMENTS:
        flow = flows[deployment["entrypoint"].rpartition(":")[2]]
        made = prefect.ask("deployments/", {"name": deployment["name"], "flow_id": flow})
        ids.add(f"prefect.deployment.{made['id']}")
    environment = {**prefect.environment, "PYTHONPATH": code()}
    command = [sys.executable, "-m", "infra.automations"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {one["name"]: one["trigger"] for one in prefect.ask("automations/filter", {})}
    for name in ("a run fell silent", "a run never began"):
        assert set(found[name]["match_related"]["prefect.resource.id"]) == ids


def test_three_heartbeats_fit_into_the_silence() -> None:
    """And all of it, with the server's five seconds between two looks, into the two minutes."""
    text = (ROOT / "infra" / "prefect.yaml").read_text(encoding="utf-8")
    assert 'PREFECT_FLOWS_HEARTBEAT_FREQUENCY: "30"' in text
    assert timedelta(seconds=90) <= lost_runs.SILENCE <= timedelta(seconds=110)
    assert timedelta(seconds=110) >= lost_runs.START
