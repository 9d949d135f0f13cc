"""What the project relies on in Prefect, against the pinned versions; the table in infra/README.md says what is where.

A pin can break a part of Prefect that no flow touches: with SQLAlchemy 2.1 everything worked but the scheduler, and
no night ever started. So each part is used here as the project uses it, on one server: a fresh one, with what
`make deploy` registers, and one worker of pool cpu.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Pending, Running, Scheduled

from sifthinker.store.artifacts import Store
from sifthinker.upkeep.findings import Finding
from tasks.operations import doctor, schedules, server_metrics
from tests.faults.conftest import ROOT, PrefectServer, started
from tests.infra.deployed import FINAL, change, deploy, ended, made, named, probe, start, state, wait

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
DEPLOYMENTS = yaml.safe_load((ROOT / "infra/prefect.yaml").read_text(encoding="utf-8"))["deployments"]
SCHEDULED = sorted(deployment["name"] for deployment in DEPLOYMENTS if deployment.get("schedules"))


def test_there_are_schedules_to_look_for() -> None:
    assert SCHEDULED == ["nightly", "prune"]


@pytest.mark.parametrize("name", SCHEDULED)
def test_the_server_makes_runs_for_a_schedule_after_make_deploy(prefect: PrefectServer, name: str) -> None:
    """Fails with SQLAlchemy 2.1: the scheduler breaks at each pass, and nothing else does."""
    for schedule in next(d["schedules"] for d in DEPLOYMENTS if d["name"] == name):
        given = schedule.get("parameters", {})

        def coming(given: dict[str, Any] = given) -> list[dict[str, Any]]:
            found = made(prefect, name, "SCHEDULED")
            return [run for run in found if run["parameters"].get("tier") == given.get("tier")]

        first, *more = wait(coming, f"a scheduled run of {name}, {schedule['slug']}", 90)
        assert more, "the scheduler makes at least three"
        minute, hour, _, _, weekdays = schedule["cron"].split()
        least, _, most = weekdays.partition("-")
        for run in (first, *more):
            begins = datetime.fromisoformat(run["expected_start_time"]).astimezone(UTC)
            assert (begins.minute, begins.hour) == (int(minute), int(hour))
            assert int(least) <= begins.isoweekday() % 7 <= int(most or least)
        first_begins = datetime.fromisoformat(first["expected_start_time"])
        assert first_begins - datetime.now(UTC) < timedelta(days=7)


def test_a_pause_takes_the_scheduled_runs_away_and_outlasts_make_deploy(prefect: PrefectServer) -> None:
    wait(lambda: made(prefect, "nightly", "SCHEDULED"), "a night", 90)
    wait(lambda: made(prefect, "prune", "SCHEDULED"), "a pruning", 90)
    night, pruning = named(prefect, "nightly"), named(prefect, "prune")
    schedule = f"deployments/{pruning['id']}/schedules/{pruning['schedules'][0]['id']}"

    def quiet() -> bool:
        return not any(made(prefect, name, "SCHEDULED") for name in SCHEDULED)

    with httpx.Client(base_url=f"{prefect.api}/", timeout=60) as client:
        try:
            prefect.ask(f"deployments/{night['id']}/pause_deployment", {})
            client.patch(schedule, json={"active": False}).raise_for_status()
            assert quiet()
            deploy(prefect)
            time.sleep(7)  # the scheduler looks at new and changed deployments every 5 s
            assert quiet()
        finally:  # the other tests need the schedules
            prefect.ask(f"deployments/{night['id']}/resume_deployment", {})
            client.patch(schedule, json={"active": True}).raise_for_status()
    for name in SCHEDULED:
        wait(lambda name=name: made(prefect, name, "SCHEDULED"), f"{name} again", 90)


def look(prefect: PrefectServer) -> list[Finding]:
    """What `sif doctor` says of the schedules."""
    with temporary_settings({PREFECT_API_URL: prefect.api}):
        return [*doctor.schedules()]


def test_doctor_says_when_a_night_comes_and_that_a_schedule_is_off(prefect: PrefectServer) -> None:
    wait(lambda: made(prefect, "nightly", "SCHEDULED"), "a night", 90)
    wait(lambda: made(prefect, "prune", "SCHEDULED"), "a pruning", 90)
    [good] = look(prefect)
    assert good.verdict == "ok"
    assert "nightly runs next at 20" in good.found and "prune runs next at 20" in good.found
    night = named(prefect, "nightly")
    schedules = [
        f"{prefect.api}/deployments/{night['id']}/schedules/{one['id']}" for one in night["schedules"]
    ]
    for schedule in schedules:
        httpx.patch(schedule, json={"active": False}, timeout=60).raise_for_status()
    try:
        off, rest = look(prefect)
    finally:
        for schedule in schedules:
            httpx.patch(schedule, json={"active": True}, timeout=60).raise_for_status()
    assert (off.verdict, off.found) == ("warning", "off: nightly") and "UI" in off.todo
    assert rest.verdict == "ok" and "nightly" not in rest.found


def test_doctor_names_the_deployments_whose_schedule_makes_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that schedules nothing, as with SQLAlchemy 2.1: the deployment is registered, and all seems well."""
    with started(tmp_path, {"PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false"}) as silent:
        flow = silent.ask("flows/", {"name": "nightly"})["id"]
        every = [{"schedule": {"cron": "0 1 * * *", "timezone": "Etc/UTC"}, "active": True}]
        silent.ask("deployments/", {"name": "nightly", "flow_id": flow, "schedules": every})
        [early] = look(silent)
        assert early.verdict == "warning" and "look again" in early.todo
        monkeypatch.setattr(schedules, "SETTLES", timedelta(0))
        [late] = look(silent)
        with temporary_settings({PREFECT_API_URL: silent.api}):
            told = {name: value for name, _, value in server_metrics.read()}
    assert told["sif_server_up"] == told["sif_server_unscheduled_deployments"] == 1
    assert late.verdict == "error" and late.found.endswith("no run: nightly")
    assert "schedule_deployments" in late.todo and "sqlalchemy<2.1" in late.todo


def run_that_ended(prefect: PrefectServer, name: str, of: str | None = None) -> str:
    """A run that has ended, with a log line and an artifact; a subflow's run where it is one of a task's run."""
    flow = prefect.ask("flows/", {"name": name})["id"]
    run = prefect.ask("flow_runs/", {"flow_id": flow, "name": name, "parent_task_run_id": of})["id"]
    now = datetime.now(UTC).isoformat()
    line = {"name": "test", "level": 20, "message": name, "timestamp": now, "flow_run_id": run}
    httpx.post(f"{prefect.api}/logs/", json=[line], timeout=60).raise_for_status()
    prefect.ask("artifacts/", {"key": name, "type": "markdown", "data": name, "flow_run_id": run})
    prefect.ask(f"flow_runs/{run}/set_state", {"state": {"type": "COMPLETED"}, "force": True})
    return str(run)


def test_the_server_forgets_runs_that_ended_long_ago_and_no_others(tmp_path: Path) -> None:
    """The variables are those of compose.yaml, the times shorter."""
    service = "PREFECT_SERVER_SERVICES_DB_VACUUM_"
    composed = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text(encoding="utf-8"))
    default = (
        composed["services"]["server"]["environment"][f"{service}ENABLED"].partition(":-")[2].rstrip("}")
    )
    settings = {"ENABLED": default, "RETENTION_PERIOD": "7200", "LOOP_SECONDS": "2"}
    with started(tmp_path, {f"{service}{name}": value for name, value in settings.items()}) as forgetful:
        names = ("old", "recent", "under-way")
        runs = {name: run_that_ended(forgetful, name) for name in names}
        task = {"flow_run_id": runs["old"], "task_key": "sub", "dynamic_key": "0"}
        runs["old-subflow"] = run_that_ended(
            forgetful, "old-subflow", forgetful.ask("task_runs/", task)["id"]
        )
        forgetful.ask(
            f"flow_runs/{runs['under-way']}/set_state", {"state": {"type": "RUNNING"}, "force": True}
        )
        forgetful.ask(
            "artifacts/", {"key": "note", "type": "markdown", "data": "of no run"}
        )  # as infra/interrupted.py
        long_ago = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%d %H:%M:%S.%f")
        with closing(sqlite3.connect(forgetful.home / "prefect.db", timeout=60)) as db, db:
            db.execute("UPDATE flow_run SET end_time = ? WHERE name IN ('old', 'old-subflow')", (long_ago,))
            db.execute("UPDATE flow_run SET start_time = ? WHERE name = 'under-way'", (long_ago,))

        def kept() -> set[str]:
            return {run["name"] for run in forgetful.ask("flow_runs/filter", {})}

        wait(lambda: kept() == {"recent", "under-way"}, "the old runs to go", 90)
        wait(
            lambda: {log["message"] for log in forgetful.ask("logs/filter", {})} == kept(),
            "their logs to go",
            60,
        )
        wait(
            lambda: {one["key"] for one in forgetful.ask("artifacts/filter", {})} == {*kept(), "note"},
            "their artifacts to go",
            60,
        )


def test_a_schedule_of_seconds_starts_runs_by_itself(
    prefect: PrefectServer, worker: int, tmp_path: Path
) -> None:
    schedules = [{"schedule": {"interval": 5.0}, "active": True, "max_scheduled_runs": 3}]
    often = probe(prefect, tmp_path, "often", schedules=schedules)
    try:
        [run, *_] = wait(lambda: made(prefect, "often", *FINAL), "a scheduled run has ended")
    finally:
        prefect.ask(f"deployments/{often}/pause_deployment", {})
    assert run["state"]["type"] == "COMPLETED", run["state"]
    assert run["created_by"]["type"] == "SCHEDULE" and run["start_time"]
    assert (tmp_path / "run" / "steps").exists()


def test_a_worker_is_seen_alive_by_the_server_and_by_its_health_page(
    prefect: PrefectServer, worker: int
) -> None:
    def online() -> list[str]:
        found = prefect.ask("work_pools/cpu/workers/filter", {})
        return [one["name"] for one in found if one["status"] == "ONLINE"]

    def healthy() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{worker}/health", timeout=5).is_success
        except httpx.HTTPError:
            return False

    wait(online, "the worker is online")
    wait(healthy, "its health page")


def test_a_cancelled_run_ends_and_gives_its_concurrency_slot_to_the_run_that_waits(
    prefect: PrefectServer, worker: int, tmp_path: Path
) -> None:
    """As two nights at once: the second waits, keeps the time at which it should have begun, and then runs."""
    options = {"concurrency_limit": 1, "concurrency_options": {"collision_strategy": "ENQUEUE"}}
    deployment = probe(prefect, tmp_path, "one-at-a-time", **options)
    first = start(prefect, deployment, folder=str(tmp_path / "first"), until="never")
    pid = tmp_path / "first" / "pid"
    wait(lambda: pid.exists() and pid.read_text(), "the first run runs")
    second = start(prefect, deployment, folder=str(tmp_path / "second"))
    due = prefect.ask(f"flow_runs/{second}")["expected_start_time"]
    wait(lambda: state(prefect, second)["name"] == "AwaitingConcurrencySlot", "the second run waits")
    assert state(prefect, first)["type"] == "RUNNING"
    change(prefect, first, "CANCELLING", "Cancelling")
    assert ended(prefect, first) == "CANCELLED"
    wait(
        lambda: not psutil.pid_exists(int(pid.read_text())), "the process of the cancelled run has ended", 60
    )
    assert ended(prefect, second) == "COMPLETED"
    assert prefect.ask(f"flow_runs/{second}")["expected_start_time"] == due


def test_a_restart_of_the_server_ends_no_run_that_holds_a_place_under_a_limit(
    prefect: PrefectServer, worker: int, tmp_path: Path
) -> None:
    """As a night under way, and one whose machine is not there yet. Prefect alone: Crashed after 225 s, and Cancelled."""
    options = {"concurrency_limit": 2, "concurrency_options": {"collision_strategy": "ENQUEUE"}}
    deployment = probe(prefect, tmp_path, "outlives-with-a-place", **options)
    under_way = start(prefect, deployment, folder=str(tmp_path / "run"), until="go")
    wait((tmp_path / "run" / "pid").exists, "the run runs")
    client = SyncPrefectClient(prefect.api)  # the API gives leases to clients that say their version
    due = datetime.now(UTC) + timedelta(seconds=40)  # the worker looks 10 s ahead, and does not take it
    scheduled = Scheduled(scheduled_time=due)
    waiting = str(client.create_flow_run_from_deployment(UUID(deployment), state=scheduled).id)
    client.set_flow_run_state(UUID(waiting), Pending())
    leases = [
        state(prefect, one)["state_details"]["deployment_concurrency_lease_id"]
        for one in (under_way, waiting)
    ]
    assert all(leases)

    def counted() -> int:
        limit = prefect.ask(f"deployments/{deployment}")["global_concurrency_limit"]["id"]
        return int(prefect.ask(f"v2/concurrency_limits/{limit}")["active_slots"])

    prefect.kill()
    prefect.start()
    assert counted() == 2
    client.renew_concurrency_lease(UUID(leases[0]), 300)  # as the run does
    wait(lambda: datetime.now(UTC) > due, "it is due")
    client.set_flow_run_state(UUID(waiting), Running())
    assert state(prefect, waiting)["type"] == "RUNNING"
    client.set_flow_run_state(UUID(waiting), Completed())
    (tmp_path / "run" / "go").touch()
    assert ended(prefect, under_way) == "COMPLETED"
    assert counted() == 0


def test_a_failed_run_runs_again_by_the_uis_retry_and_keeps_its_cached_tasks(
    prefect: PrefectServer, worker: int, tmp_path: Path
) -> None:
    deployment = probe(prefect, tmp_path, "mended")
    run = start(prefect, deployment, folder=str(tmp_path / "run"), needs="mended")
    assert ended(prefect, run) == "FAILED"
    (tmp_path / "run" / "mended").touch()
    change(prefect, run, "SCHEDULED", "AwaitingRetry")
    wait(lambda: state(prefect, run)["type"] == "COMPLETED", "the retried run completes")
    assert prefect.ask(f"flow_runs/{run}")["run_count"] == 2
    assert (tmp_path / "run" / "steps").read_text() == "step\n"


def test_a_pool_of_gpus_hands_out_one_run_at_a_time(prefect: PrefectServer) -> None:
    """gpu-1 as `make deploy` makes it, asked as a worker asks."""
    deployment = named(prefect, "gpu-1")["id"]
    # The stage's parameters are of no interest here: nothing runs.
    body = {"state": {"type": "SCHEDULED"}, "parameters": {}, "enforce_parameter_schema": False}
    both = {str(prefect.ask(f"deployments/{deployment}/create_flow_run", body)["id"]) for _ in range(2)}

    def offered() -> list[str]:
        until = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
        found = prefect.ask("work_pools/gpu-1/get_scheduled_flow_runs", {"scheduled_before": until})
        return [one["flow_run"]["id"] for one in found]

    [first] = offered()
    change(prefect, first, "PENDING", "Pending")
    change(prefect, first, "RUNNING", "Running")
    assert offered() == []
    change(prefect, first, "COMPLETED", "Completed")
    assert offered() == [*(both - {first})]
    change(prefect, *(both - {first}), "CANCELLED", "Cancelled")


def test_a_stage_runs_in_the_pool_that_it_is_placed_in(
    prefect: PrefectServer, worker: int, tmp_path: Path
) -> None:
    """`run_deployment`, a child run with its parent, and its outcome."""
    fields = {
        "store": tmp_path,
        "scenes.rows": 4,
        "scenes.benchmark_rows": 2,
        "ingest.shards": 1,
        "placement": "pools",
        "pools.depth": "cpu",
    }
    options = [x for name, value in fields.items() for x in ("--set", f"{name}={value}")]
    command = [
        sys.executable,
        "-c",
        "from flows.commands.main import main; main()",
        "run",
        "--config",
        "smoke",
    ]
    done = subprocess.run(
        [*command, *options, "--stop-after", "depth"],
        cwd=ROOT,
        env=prefect.environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [child] = prefect.ask(
        "flow_runs/filter",
        {"flows": {"name": {"any_": ["stage"]}}, "deployments": {"name": {"any_": ["cpu"]}}},
    )
    assert child["state"]["type"] == "COMPLETED" and child["parent_task_run_id"]
    [parent] = prefect.ask("flow_runs/filter", {"flows": {"name": {"any_": ["reproduce"]}}})
    assert parent["state"]["type"] == "COMPLETED"
    assert list((Store(tmp_path).root / "depth").glob("*/manifest.json"))


def test_a_server_that_comes_back_hears_of_the_end_of_a_run_and_goes_on_scheduling(
    prefect: PrefectServer, worker: int, tmp_path: Path
) -> None:
    environment = {"PREFECT_CLIENT_MAX_RETRIES": "8", "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(tmp_path)}
    deployment = probe(prefect, tmp_path, "outlives", job_variables={"env": environment})
    run = start(prefect, deployment, folder=str(tmp_path / "run"), until="go")
    wait((tmp_path / "run" / "pid").exists, "the run runs")
    before = {made(prefect, name, "SCHEDULED")[0]["id"] for name in SCHEDULED}
    prefect.kill()
    (tmp_path / "run" / "go").touch()
    time.sleep(2)
    prefect.start()
    assert ended(prefect, run) == "COMPLETED"
    assert {made(prefect, name, "SCHEDULED")[0]["id"] for name in SCHEDULED} == before
