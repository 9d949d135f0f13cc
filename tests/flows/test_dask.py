"""The shards of the data stages on a Dask cluster: processes and working folders of their own over one store."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sifthinker.config import Config
from sifthinker.store.artifacts import Store
from sifthinker.system.processes import end

distributed = pytest.importorskip("distributed", reason="the `dask` extra is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
SHARDS = 4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def dask(prefect_server: str, tmp_path: Path) -> Iterator[distributed.Client]:
    """A scheduler and two workers, each a process in a folder of its own; gives a client."""
    address = f"tcp://127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.getenv("PYTHONPATH")))),
    }

    def start(name: str, *command: str) -> subprocess.Popen[bytes]:
        folder = tmp_path / name
        folder.mkdir()
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "distributed.cli." + command[0], *command[1:]],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    alone = ("--nthreads", "1", "--memory-limit", "0", "--no-dashboard")
    started = [
        start("scheduler", "dask_scheduler", "--host", address, "--no-dashboard"),
        *(start(f"worker-{n}", "dask_worker", address, "--no-nanny", *alone) for n in (1, 2)),
    ]
    try:
        with distributed.Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            yield client
    finally:
        for process in started:
            end(process.pid)


def config(store: Path, **more: Any) -> Config:
    """The demo's data stages in shards."""
    values = yaml.safe_load((ROOT / "flows/configs/smoke.yaml").read_text(encoding="utf-8"))
    values |= {"store": str(store), "ingest": {"shards": SHARDS}, **more}
    values["scenes"] |= {"rows": 24, "benchmark_rows": 2}
    return Config.model_validate(values)


def made(store: Path) -> dict[str, list[str]]:
    """Digests of all shards by stage."""
    opened = Store(store)
    return {
        stage: sorted(m["digest"] for m in opened.manifests(f"{stage}.parts"))
        for stage in ("expand", "depth")
    }


def work_of(client: distributed.Client, since: float) -> list[str]:
    """The workers of what the cluster has done since."""
    return [str(record["worker"]) for record in client.get_task_stream(start=since)]


def test_shards_are_made_by_the_clusters_workers_and_are_those_of_one_machine(
    dask: distributed.Client, tmp_path: Path
) -> None:
    from flows import form
    from flows.reproduce import reproduce

    dask.get_task_stream()  # from here on the scheduler remembers
    began = time.time()
    there = config(tmp_path / "there", dask=dask.scheduler.address)
    state = reproduce(config=form.text(there), stop_after="depth", return_state=True)
    assert state.is_completed(), state.message
    workers = work_of(dask, began)
    assert len(workers) >= 2 * SHARDS and len(set(workers)) == 2

    state = reproduce(config=form.text(config(tmp_path / "here")), stop_after="depth", return_state=True)
    assert state.is_completed(), state.message
    assert made(tmp_path / "there") == made(tmp_path / "here")
    assert all(len(digests) == SHARDS for digests in made(tmp_path / "here").values())

    again = time.time()
    state = reproduce(
        config=form.text(there), stop_after="depth", return_state=True
    )  # nothing is left to be made
    assert state.is_completed(), state.message
    assert work_of(dask, again) == []


def test_a_cluster_that_is_not_there_is_said_in_one_line(prefect_server: str, tmp_path: Path) -> None:
    from flows import form
    from flows.reproduce import reproduce

    nowhere = f"tcp://127.0.0.1:{free_port()}"
    state = reproduce(
        config=form.text(config(tmp_path / "store", dask=nowhere)), stop_after="expand", return_state=True
    )
    assert state.is_failed()
    assert f"dask: no scheduler answers at {nowhere}" in str(state.message)
