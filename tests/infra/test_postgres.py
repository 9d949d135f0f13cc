"""The Prefect server on PostgreSQL, as compose.yaml and infra/kubernetes run it: its record is complete."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from sifthinker.system.processes import end
from tests import postgres
from tests.machine import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
SIF = str(Path(sys.executable).with_name("sif"))
SHARDS = 500
ENDED = {"Completed", "Cached"}


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URL of an empty database of a PostgreSQL server of this test's own, on loopback."""
    with postgres.serving() as server:
        yield server.url.replace("postgresql:", "postgresql+asyncpg:")


@pytest.fixture(scope="module")
def environment(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """For `sif`: it starts the Prefect server on this database, and leaves it running."""
    home = tmp_path_factory.mktemp("on-postgres")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    yield {
        **inherited,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    end(int((home / "server.pid").read_text()))
    assert not list(home.glob("*.db")), "the server used SQLite"


def sif(environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run([SIF, "run", *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def asked(environment: dict[str, str], path: str, **body: Any) -> Any:
    """What the server answers to a question, asked with a CSRF token as its own page does."""
    me = "test-postgres"
    with httpx.Client(base_url=f"{environment['PREFECT_API_URL']}/", timeout=60) as client:
        token = client.get("csrf-token", params={"client": me}).raise_for_status().json()["token"]
        headers = {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": me}
        return client.post(path, json=body, headers=headers).raise_for_status().json()


def states(environment: dict[str, str]) -> Counter[tuple[str, str]]:
    """Of the one flow run's task runs: how many, by stage (shards as "<stage> part") and state."""
    found: list[Any] = []
    while page := asked(environment, "task_runs/filter", limit=200, offset=len(found), sort="ID_DESC"):
        found += page
    return Counter((task["name"].rstrip("0123456789 "), task["state"]["name"]) for task in found)


def test_a_stage_of_500_shards_leaves_a_complete_record(environment: dict[str, str], tmp_path: Path) -> None:
    # About four questions share a picture, and all of a picture are in one shard: 300 shards have rows, 1,600 questions.
    settings = [f"store={tmp_path}", "scenes.rows=1600", "scenes.benchmark_rows=2", "scenes.width=64"]
    more = ("scenes.height=64", f"ingest.shards={SHARDS}")
    fields = [x for field in (*settings, *more) for x in ("--set", field)]
    sif(environment, "--config", "smoke", *fields, "--stop-after", "expand")
    stages = ("scenes", "ingest", "expand")
    files = list((tmp_path / "ingest").glob("*/samples-*.parquet"))
    filled = sum(pq.read_metadata(file).num_rows > 0 for file in files)
    assert len(files) == SHARDS and filled > SHARDS / 2
    tasks = filled + (filled < SHARDS)  # shards without rows are equal, and one task
    recorded = settled(environment, len(stages) + tasks)
    parts = {state: count for (name, state), count in recorded.items() if name == "expand part"}
    assert sum(parts.values()) == tasks and set(parts) <= ENDED
    assert {name: state for name, state in recorded if name != "expand part"} == dict.fromkeys(
        stages, "Completed"
    )


def settled(environment: dict[str, str], least: int) -> Counter[tuple[str, str]]:
    """The states once at least so many task runs are on record and all have ended: events arrive a little later."""
    deadline = time.monotonic() + 60
    while (found := states(environment)).total() < least or not {state for _, state in found} <= ENDED:
        if time.monotonic() > deadline:
            break  # what is missing shows in the caller's comparison
        time.sleep(1)
    return found


@pytest.mark.slow
def test_the_demo_passes_on_postgresql(environment: dict[str, str], tmp_path: Path) -> None:
    before = states(environment)
    sif(environment, "--config", "smoke", "--set", f"store={tmp_path}")
    added = settled(environment, before.total() + 1) - before
    assert {state for _, state in added} <= ENDED
    assert ("report", "Completed") in added


def test_schedules_make_runs_on_postgresql(environment: dict[str, str]) -> None:
    """The scheduler's statements are other ones than on SQLite."""
    start = [sys.executable, "-c", "from flows import server; server.ensure()"]
    for command in (start, [sys.executable, "infra/deploy.py"]):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    filters = {"state": {"type": {"any_": ["SCHEDULED"]}}}
    scheduled: set[str] = set()
    deadline = time.monotonic() + 90
    while scheduled != {"nightly", "prune"} and time.monotonic() < deadline:
        time.sleep(1)
        found = asked(environment, "flow_runs/filter", flow_runs=filters)
        names = {one["id"]: one["name"] for one in asked(environment, "flows/filter")}
        scheduled = {names[run["flow_id"]] for run in found if run["auto_scheduled"]}
    assert scheduled == {"nightly", "prune"}
