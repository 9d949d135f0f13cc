"""Pools and queues are made by `make deploy`, with their limits; a night's stage goes before what waits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra import pools as work_pools
from infra.pools import NIGHT
from sifthinker.core.errors import UserError
from tasks.runtime import placement
from tasks.runtime.server_away import BY_WORKER
from tests.faults.conftest import ROOT, PrefectServer, started
from tests.infra.conftest import Patient

POOLS = work_pools.read()
KUBERNETES = ROOT / "infra" / "kubernetes" / "base"
DEPLOYMENTS = yaml.safe_load((ROOT / "infra/prefect.yaml").read_text(encoding="utf-8"))["deployments"]


def test_every_pool_of_a_deployment_is_made_and_every_night_waits_in_its_queue() -> None:
    assert {deployment["work_pool"]["name"] for deployment in DEPLOYMENTS} == set(POOLS)
    for deployment in DEPLOYMENTS:
        at_night = "nightly.py" in deployment["entrypoint"]
        assert deployment["work_pool"].get("work_queue_name") == (NIGHT if at_night else None)


def test_a_variable_that_the_template_does_not_have_is_refused(tmp_path: Path) -> None:
    shutil.copy(KUBERNETES / work_pools.TEMPLATE, tmp_path)
    pool = work_pools.Pool(limit=1, type="kubernetes", job={"image": "a", "tolerationz": []})
    with pytest.raises(UserError, match=r"job\.tolerationz: .* it has: name, env, pool"):
        work_pools.template(pool, tmp_path)
    with pytest.raises(UserError, match=r"job-template\.yaml: No such file"):
        work_pools.template(pool, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpu: {limit: 0}", "greater than or equal to 1"),
        ("cpu: {limitz: 1}", "limitz"),
        ("cpu: [", "while parsing"),
    ],
)
def test_a_wrong_file_of_pools_is_refused(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pools.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv(work_pools.VARIABLE, str(tmp_path / "pools.yaml"))
    with pytest.raises(UserError, match=message):
        work_pools.read()


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[PrefectServer]:
    """A server of these tests' own, with the pools: limits and runs are changed here."""
    home = tmp_path_factory.mktemp("pools")
    shutil.copy(prefect_database, home)
    with started(home) as running:
        done = program(running, "infra.pools")
        assert done.returncode == 0, done.stderr
        yield running


def program(prefect: PrefectServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**prefect.environment, "PYTHONPATH": code}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture
def client(prefect: PrefectServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{prefect.api}/", timeout=60, transport=Patient()) as client:
        yield client


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    return client.post(path, json=body).raise_for_status().json()


def waiting(client: httpx.Client, pool: str, queue: str | None = None) -> str:
    """A run that waits in a pool; its id."""
    name = uuid.uuid4().hex
    flow = post(client, "flows/", {"name": "pools-test"})["id"]
    body = {"name": name, "flow_id": flow, "work_pool_name": pool, "enforce_parameter_schema": False}
    deployment = post(client, "deployments/", body)["id"]
    body = {"state": {"type": "SCHEDULED"}, **({"work_queue_name": queue} if queue else {})}
    return str(post(client, f"deployments/{deployment}/create_flow_run", body)["id"])


def offered(client: httpx.Client, pool: str) -> list[str]:
    """What a worker of a pool would be given now, in order."""
    until = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    found = post(client, f"work_pools/{pool}/get_scheduled_flow_runs", {"scheduled_before": until})
    return [one["flow_run"]["id"] for one in found]


def move(client: httpx.Client, run: str, *kinds: str) -> None:
    for kind in kinds:
        post(client, f"flow_runs/{run}/set_state", {"state": {"type": kind}, "force": True})


@pytest.mark.e2e
def test_pools_have_their_limits_and_the_nights_queue_goes_first(client: httpx.Client) -> None:
    made = {pool["name"]: pool["concurrency_limit"] for pool in post(client, "work_pools/filter", {})}
    assert {name: made[name] for name in POOLS} == {name: pool.limit for name, pool in POOLS.items()}
    for name in POOLS:
        queues = post(client, f"work_pools/{name}/queues/filter", {})
        assert [queue["name"] for queue in sorted(queues, key=lambda q: q["priority"])] == [NIGHT, "default"]


@pytest.mark.e2e
def test_what_people_set_stays(prefect: PrefectServer, client: httpx.Client) -> None:
    client.patch("work_pools/gpu-8", json={"concurrency_limit": 2}).raise_for_status()
    client.patch(f"work_pools/gpu-8/queues/{NIGHT}", json={"concurrency_limit": 1}).raise_for_status()
    try:
        said = program(prefect, "infra.pools")
        assert said.returncode == 0 and "work pool gpu-8 is there" in said.stdout
        assert client.get("work_pools/gpu-8").json()["concurrency_limit"] == 2
        assert client.get(f"work_pools/gpu-8/queues/{NIGHT}").json()["concurrency_limit"] == 1
    finally:
        client.patch("work_pools/gpu-8", json={"concurrency_limit": 1}).raise_for_status()
        client.patch(f"work_pools/gpu-8/queues/{NIGHT}", json={"concurrency_limit": None}).raise_for_status()


@pytest.mark.e2e
def test_a_nights_stage_goes_before_all_that_waits_in_a_full_pool(client: httpx.Client) -> None:
    under_way = waiting(client, "gpu-1")
    move(client, under_way, "PENDING", "RUNNING")
    days = [waiting(client, "gpu-1") for _ in range(3)]
    night = waiting(client, "gpu-1", NIGHT)
    assert offered(client, "gpu-1") == []  # the pool's one place is taken
    move(client, under_way, "COMPLETED")
    assert offered(client, "gpu-1") == [night]
    move(client, night, "PENDING", "RUNNING", "COMPLETED")
    assert offered(client, "gpu-1") == days[:1]
    for run in days:
        move(client, run, "CANCELLED")


@pytest.mark.e2e
def test_a_place_can_be_kept_for_nights(client: httpx.Client) -> None:
    """README.md: a pool of two runs, of which `default` may have one."""
    client.patch("work_pools/gpu-1", json={"concurrency_limit": 2}).raise_for_status()
    client.patch("work_pools/gpu-1/queues/default", json={"concurrency_limit": 1}).raise_for_status()
    try:
        training = waiting(client, "gpu-1")
        move(client, training, "PENDING", "RUNNING")
        another = waiting(client, "gpu-1")
        night = waiting(client, "gpu-1", NIGHT)
        assert offered(client, "gpu-1") == [night]
        for run in (training, another, night):
            move(client, run, "CANCELLED")
    finally:
        client.patch("work_pools/gpu-1", json={"concurrency_limit": 1}).raise_for_status()
        client.patch("work_pools/gpu-1/queues/default", json={"concurrency_limit": None}).raise_for_status()


@pytest.mark.e2e
def test_a_stage_waits_in_the_queue_of_its_run_where_the_pool_has_it(
    prefect: PrefectServer, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    night, day = waiting(client, "cpu", NIGHT), waiting(client, "cpu")
    other = f"other-{uuid.uuid4().hex}"
    post(client, "work_pools/", {"name": other, "type": "process"})
    with temporary_settings({PREFECT_API_URL: prefect.api}):
        monkeypatch.delenv(BY_WORKER, raising=False)
        assert placement.queue("gpu-1") is None  # a run by `sif run`
        monkeypatch.setenv(BY_WORKER, night)
        assert placement.queue("gpu-1") == NIGHT
        assert placement.queue(other) is None
        monkeypatch.setenv(BY_WORKER, day)
        assert placement.queue("gpu-1") == "default"
    for run in (night, day):
        move(client, run, "CANCELLED")


@pytest.mark.e2e
def test_a_worker_makes_no_pool(prefect: PrefectServer, client: httpx.Client) -> None:
    """Else the pool has no limit if the worker comes before `make deploy`, which leaves it as it is."""
    ended = program(prefect, "infra.worker", "--pool", "nowhere", "--type", "process", "--run-once")
    assert "'nowhere' not found" in ended.stdout + ended.stderr
    assert client.get("work_pools/nowhere").status_code == 404
