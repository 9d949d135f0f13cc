"""The shards of the data stages on a Dask cluster: processes and working folders of their own over one store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sifthinker.config import Config
from sifthinker.store.artifacts import Store
from tests.dask_cluster import cluster
from tests.machine import free_port

distributed = pytest.importorskip("distributed", reason="the `dask` extra is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
SHARDS = 4


@pytest.fixture
def dask(prefect_server: str, tmp_path: Path) -> Iterator[distributed.Client]:
    """Two workers on one store; gives a client."""
    with cluster(tmp_path) as made:
        for name in ("worker-1", "worker-2"):
            made.worker(name)
        with distributed.Client(made.address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            yield client


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
    state = reproduce(config=form.text(there), stop_after="annotate", return_state=True)
    assert state.is_completed(), state.message
    workers = work_of(dask, began)
    assert len(workers) == 2 * SHARDS and len(set(workers)) == 2, (
        "annotate asks a server of the flow's process"
    )

    state = reproduce(config=form.text(config(tmp_path / "here")), stop_after="annotate", return_state=True)
    assert state.is_completed(), state.message
    assert made(tmp_path / "there") == made(tmp_path / "here")
    assert all(len(digests) == SHARDS for digests in made(tmp_path / "here").values())

    again = time.time()
    state = reproduce(
        config=form.text(there), stop_after="annotate", return_state=True
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
