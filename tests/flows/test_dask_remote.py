"""Dask workers that share no folder with the flow or with each other: content by S3, the ledger in PostgreSQL."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
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


def digests(root: Path, remote: str | None = None, stages: Sequence[str] = STAGES) -> dict[str, list[str]]:
    """What each stage's latest artifact and its shards are, by stage."""
    found = {}
    store = Store(root, remote)
    for stage in stages:
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


def test_dead_letters_are_asked_again_on_other_machines_as_in_one_process(
    machines: DaskCluster, bucket: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sif annotate --retry`: the stage `retry`. Half of the rows are dead letters; the passes draw their faults anew."""
    faults = {"wrong-depths": 0.5}
    stages = (*STAGES, "retry")

    def lossy(store: Path, url: str, **more: Any) -> Config:
        api = {"base_url": url, "model": "standin-annotator", "concurrency": CONCURRENCY}
        passes = [{"model": "other"}, {"model": "third", "reasons": ["depths"]}]
        annotate = {"api": api, "attempts": 1}
        return config(store, annotate=annotate, retry={"passes": passes}, max_rejected=1.0, **more)

    with standin.running(tmp_path / "standin.log", faults) as url:
        there = lossy(tmp_path / "flow", url, remote=bucket, dask={"address": machines.address})
        state = run(there, stop_after="retry")
        assert state.is_completed(), (state.message, machines.log("one"), machines.log("two"))
        counts = standin.counts(url)
    monkeypatch.delenv("SIF_LEDGER")
    with standin.running(tmp_path / "alone.log", faults) as url:
        state = run(lossy(tmp_path / "alone", url), stop_after="retry")
        assert state.is_completed(), state.message
        alone = standin.counts(url)
    assert digests(tmp_path / "flow", bucket, stages) == digests(tmp_path / "alone", None, stages)
    assert counts["distinct"] == counts["answered"] == alone["distinct"], "each request is paid once"
    [first], [second] = (Store(tmp_path / "alone").manifests(stage) for stage in ("annotate", "retry"))
    assert first["rows"]["rejected"]["depths"] > 0 and second["rows"]["kept"] > first["rows"]["kept"]
    made = {
        name: len(list((tmp_path / name / "store" / "retry.parts").glob("*/manifest.json")))
        for name in ("one", "two")
    }
    assert sum(made.values()) == SHARDS, f"the machines made them, not the flow: {made}"
    # Of ingest, each machine has the parts of its shards alone.
    for name in ("one", "two"):
        store = tmp_path / name / "store"
        assert list(store.glob("ingest/*.part-*"))
        assert not [path for path in store.glob("ingest/*") if path.is_dir() and "." not in path.name]
