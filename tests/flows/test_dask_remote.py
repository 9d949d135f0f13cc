"""Dask workers that share no folder with the flow or with each other: content by S3, the ledger in PostgreSQL."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sifthinker.config import Config
from sifthinker.llm import standin
from sifthinker.store.artifacts import Store
from sifthinker.store.s3 import Remote
from tests.dask_cluster import DaskCluster, cluster
from tests.flows.test_dask import SHARDS, config
from tests.ledgers import Kind

distributed = pytest.importorskip("distributed", reason="the `dask` extra is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
CONCURRENCY = 4  # calls of a worker in flight
STAGES = ("expand", "depth", "annotate")


def asking(store: Path, url: str, **more: Any) -> Config:
    """The demo's data stages, asking a stand-in that listens as any endpoint does."""
    api = {"base_url": url, "model": "standin-annotator", "concurrency": CONCURRENCY}
    return config(store, annotate={"api": api}, **more)


def digests(root: Path, remote: str | None = None) -> dict[str, list[str]]:
    """What each stage's latest artifact and its shards are, by stage."""
    found = {}
    store = Store(root, remote)
    for stage in STAGES:
        [manifest] = store.manifests(stage)
        found[stage] = [manifest["digest"], *(shard["digest"] for shard in manifest["shards"])]
    return found


def run(settings: Config, stop_after: str = "annotate") -> Any:
    from flows import form
    from flows.reproduce import reproduce

    return reproduce(config=form.text(settings), stop_after=stop_after, return_state=True)


@pytest.fixture
def machines(
    prefect_server: str, tmp_path: Path, bucket: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DaskCluster]:
    """Two workers as on two machines."""
    monkeypatch.setenv("SIF_LEDGER", database)
    monkeypatch.setenv("PREFECT_LOGGING_TO_API_ENABLED", "false")
    flow = [tmp_path / "flow", Path(os.environ["PREFECT_HOME"]), Path(os.environ["SIF_CACHE"])]
    folders = {name: tmp_path / name for name in ("one", "two")}
    with cluster(tmp_path) as made:
        for name in folders:
            others = [folder for other, folder in folders.items() if other != name]
            made.machine(name, [*flow, *others], "--resources", "GPU=1")
        with distributed.Client(made.address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=120)
        yield made


def kill_one(machines: DaskCluster, url: str, after: int, killed: list[str]) -> None:
    """Kills a worker that annotates, in the middle of a shard: after so many answers."""
    with distributed.Client(machines.address, timeout=60, set_as_default=False) as client:
        while standin.counts(url)["answered"] < after:
            time.sleep(0.05)
        busy = [address for address, keys in client.processing().items() if keys]
        names = {address: info["name"] for address, info in client.scheduler_info()["workers"].items()}
    killed.append(names[busy[0]])
    machines.workers[killed[0]].send_signal(signal.SIGKILL)


def test_a_worker_is_lost_in_the_middle_and_the_digests_are_those_of_one_process(
    machines: DaskCluster, bucket: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow: dict[str, float] = {"latency": 0.4}
    with standin.running(tmp_path / "standin.log", **slow) as url:
        dask = {"address": machines.address, "resources": {"depth": {"GPU": 1}}}
        there = asking(tmp_path / "flow", url, remote=bucket, dask=dask)
        killed: list[str] = []
        killer = threading.Thread(target=kill_one, args=(machines, url, 6, killed))
        killer.start()
        state = run(there)
        killer.join()
        assert state.is_completed(), (state.message, machines.log("one"), machines.log("two"))
        counts = standin.counts(url)
    print(killed, counts)
    [left] = {"one", "two"} - set(killed)
    assert machines.workers[killed[0]].poll() == -signal.SIGKILL

    monkeypatch.delenv("SIF_LEDGER")
    with standin.running(tmp_path / "alone.log") as url:
        state = run(asking(tmp_path / "alone", url))
        assert state.is_completed(), state.message
        alone = standin.counts(url)
    assert digests(tmp_path / "flow", bucket) == digests(tmp_path / "alone")
    assert all(len(found) == 1 + SHARDS for found in digests(tmp_path / "alone").values())

    assert counts["distinct"] == alone["distinct"]
    assert counts["answered"] - alone["answered"] <= CONCURRENCY, (
        "what was in flight at the kill, and no more"
    )
    assert dict(Kind(Path(), database).run("SELECT state, count(*) FROM calls GROUP BY state")) == {
        "ok": counts["distinct"]
    }
    for stage in STAGES:  # all of it is on the remote, and each machine has what it made
        stored = Remote(bucket).list(f"{stage}.parts")
        assert len([name for name in stored if name.endswith("manifest.json")]) == SHARDS
    assert list((tmp_path / left / "store" / "annotate.parts").glob("*/manifest.json"))
    assert not list((tmp_path / left / "store").glob("calls.sqlite*"))
