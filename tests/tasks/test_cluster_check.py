"""What `sif doctor` says about a Dask cluster; its workers are threads of this process, asked over the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sifthinker.config import Config, parse
from sifthinker.core.errors import UserError
from sifthinker.llm.ledger import VARIABLE
from sifthinker.upkeep.findings import Finding
from tasks.operations import cluster_check
from tasks.runtime import dask_worker
from tests.machine import free_port

distributed = pytest.importorskip("distributed", reason="the `dask` extra is not installed")
pytest.importorskip("prefect_dask", reason="the `dask` extra is not installed")
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def two_workers() -> Iterator[str]:
    """The address of a scheduler with two workers, both with a GPU."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        dashboard_address=None,
        resources={"GPU": 1},
    ) as made:
        yield made.scheduler_address


def configured(tmp_path: Path, address: str, **more: Any) -> Config:
    dask = {"address": address, **more.pop("dask", {})}
    return parse({"scenes": {}, "store": str(tmp_path / "store"), "dask": dask, **more}, "test")


def errors(config: Config) -> list[Finding]:
    return [finding for finding in cluster_check.workers(config) if finding.verdict == "error"]


def test_a_cluster_that_shares_the_flows_store_and_code_is_right(tmp_path: Path, two_workers: str) -> None:
    config = configured(tmp_path, two_workers, dask={"resources": {"depth": {"GPU": 1}}})
    found = list(cluster_check.workers(config))
    assert [finding.verdict for finding in found] == ["ok", "ok"]
    assert f"{two_workers}: 2 workers on 1 hosts" in found[0].found
    assert "expand, depth" in found[1].found and str(tmp_path / "store") in found[1].found
    assert not list(tmp_path.iterdir()), "a store that was not there is none afterwards"
    config.store.mkdir()
    assert all(finding.verdict == "ok" for finding in cluster_check.workers(config))
    assert not list(config.store.iterdir()), "nothing is left in a store that was there"


def test_no_dask_is_no_line(tmp_path: Path) -> None:
    assert not list(cluster_check.workers(parse({"scenes": {}, "store": str(tmp_path)}, "test")))


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_check, "CONNECT", 1)
    nowhere = f"tcp://127.0.0.1:{free_port()}"
    [found] = errors(configured(tmp_path, nowhere))
    assert nowhere in found.found and "dask scheduler" in found.todo


def test_a_scheduler_without_workers_is_an_error(tmp_path: Path) -> None:
    with distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", dashboard_address=None
    ) as empty:
        [found] = errors(configured(tmp_path, empty.scheduler_address))
        assert "no worker" in found.found and f"dask worker {empty.scheduler_address}" in found.todo


def test_resources_that_no_worker_offers_are_named_with_their_stage(tmp_path: Path, two_workers: str) -> None:
    wanted = {"resources": {"depth": {"GPU": 2}, "expand": {}}}
    [found] = errors(configured(tmp_path, two_workers, dask=wanted))
    assert "GPU=2 that depth needs" in found.found and "--resources 'GPU=2'" in found.todo


def test_a_worker_with_other_code_is_named_with_what_differs(tmp_path: Path, two_workers: str) -> None:
    def older(stage: str, config: Config) -> Any:
        made = means(stage, config)
        return {**made, "code": {**made["code"], "expand": "0" * 64}} if stage == "expand" else made

    means = cluster_check._means
    config = configured(tmp_path, two_workers)
    there = {stage: older(stage, config) for stage in cluster_check.ALWAYS}
    with pytest.raises(UserError, match=r"library of expand \(flow -> worker\)"):
        cluster_check._check_code(config, there)


def test_a_store_that_is_another_folder_there_is_an_error_of_each_worker(
    tmp_path: Path, two_workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(dask_worker.VARIABLE, str(tmp_path / "own"))
    [found] = errors(configured(tmp_path, two_workers))
    assert "share no `remote`" in found.found and "2 of 2 workers" in found.found


def test_a_volume_that_is_not_the_flows_is_seen(tmp_path: Path) -> None:
    config = configured(tmp_path, "tcp://127.0.0.1:1")
    config.store.mkdir()
    with pytest.raises(UserError, match="another folder there"):
        cluster_check._check_store(config, config.store / ".doctor-of-another-volume")


def test_a_folder_of_images_that_a_worker_lacks_is_named(tmp_path: Path, two_workers: str) -> None:
    images = tmp_path / "images"
    source = {"name": "mine", "format": "tallyqa", "path": str(tmp_path / "x.json"), "images": str(images)}
    [found] = errors(configured(tmp_path, two_workers, scenes=None, sources=[source]))
    assert f"sources.mine: no folder of images {images}" in found.found


def test_another_ledger_than_the_flows_is_an_error(
    tmp_path: Path, two_workers: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, database)
    config = configured(tmp_path, two_workers)
    dask_worker._ledger.cache_clear()
    [_, right] = cluster_check.workers(config)
    assert right.verdict == "ok" and "annotate, retry" in right.found
    monkeypatch.setattr(dask_worker, "_ledger", lambda: "another")
    [found] = errors(config)
    assert "another database than the flow's" in found.found
    monkeypatch.undo()
    dask_worker._ledger.cache_clear()


def test_a_remote_that_a_worker_does_not_reach_is_an_error(
    tmp_path: Path, two_workers: str, bucket: str
) -> None:
    assert not errors(configured(tmp_path, two_workers, remote=bucket))
    [found] = errors(configured(tmp_path, two_workers, remote=f"{bucket.rpartition('/')[0]}-none/prefix"))
    assert "2 of 2 workers" in found.found and "none" in found.found
