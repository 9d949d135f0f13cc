"""A shard that a flow on another machine has sent, made in this process as a Dask worker would make it."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sifthinker.config import Source
from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.core.tables import read
from sifthinker.llm import bookkeeping
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from tasks.runtime import cluster, dask_worker, identity, make, store_paths
from tasks.runtime.stage import Endpoints, Job, Order, Sent, stage
from tasks.runtime.stage_results import Results
from tests.tasks.test_shard_inputs import SCHEMA, filled, order, sums

LOG = logging.getLogger("test")


@contextmanager
def away(folder: Path) -> Iterator[None]:
    """While the block runs, the folder is not there: it is on another machine."""
    hidden = folder.with_name(f"{folder.name}-elsewhere")
    folder.rename(hidden)
    try:
        yield
    finally:
        hidden.rename(folder)


def portable(inputs: dict[str, Ref], part: int, store: Store) -> Order:
    """A shard's order as the flow sends it."""
    made = order(inputs, part, store.root)
    means = identity.identity(made.stage.name, made.stage.results.of(made.config), None, {}, {})
    return cluster.portable(replace(made, identity=means), store)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of this worker."""
    monkeypatch.setenv(dask_worker.VARIABLE, str(tmp_path / "worker"))
    return tmp_path / "worker"


def test_a_shard_is_made_where_no_folder_is_shared_and_the_flow_finds_it(
    bucket: str, tmp_path: Path, worker: Path
) -> None:
    flow = Store(tmp_path / "flow", bucket)
    sent = portable(filled(flow.root, 3), 1, flow)
    with away(flow.root):
        state = make._sent(sent, LOG)
    assert state.is_completed(), state.message
    assert not flow.folder("sums.parts", sent.key).exists()
    made = flow.open(state.data)
    assert [row["n"] for row in read([made.folder / "sums.parquet"])] == [101]
    again = make._sent(sent, LOG)
    assert again.name == "Cached" and again.data == state.data

    alone = filled(tmp_path / "alone", 3)
    make.make_artifact(order(alone, 1, tmp_path / "alone"), Store(tmp_path / "alone"), LOG)
    same = Store(tmp_path / "alone").find("sums.parts", sent.key)
    assert same and same.ref.digest == made.ref.digest


def test_what_a_killed_worker_made_and_did_not_upload_is_uploaded(
    bucket: str, tmp_path: Path, worker: Path
) -> None:
    flow = Store(tmp_path / "flow", bucket)
    sent = portable(filled(flow.root, 2), 0, flow)
    first = make._sent(sent, LOG)
    assert flow.remote
    flow.remote.remove(
        f"sums.parts/{sent.key}"
    )  # as after a kill before the upload, or a `sif prune` elsewhere
    assert make._sent(sent, LOG).name == "Cached"
    assert flow.open(first.data).ref == first.data


@pytest.mark.parametrize(
    ("set_to", "there", "said"),
    [
        ("worker", True, "they share no `remote`: set `remote` to an S3 address"),
        (None, False, "there is no store .*flow here: mount the volume"),
    ],
)
def test_a_worker_without_the_store_and_without_a_remote_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_to: str | None, there: bool, said: str
) -> None:
    flow = Store(tmp_path / "flow")
    sent = portable(filled(flow.root, 2), 0, flow)
    if set_to:
        monkeypatch.setenv(dask_worker.VARIABLE, str(tmp_path / set_to))
    with nullcontext() if there else away(flow.root):
        state = make._sent(sent, LOG)
    assert state.is_failed() and state.name == "UserError"
    assert re.search(said, str(state.message)), state.message
    assert f"(on the Dask worker {dask_worker.worker()})" in str(state.message)


def test_a_worker_on_the_flows_own_volume_needs_no_remote(tmp_path: Path) -> None:
    flow = Store(tmp_path / "flow")
    state = make._sent(portable(filled(flow.root, 2), 1, flow), LOG)
    assert state.is_completed() and flow.open(state.data).manifest["rows"]["kept"] == 1


def test_an_input_that_is_not_there_is_said_with_the_worker(tmp_path: Path) -> None:
    flow = Store(tmp_path / "flow")
    inputs = filled(flow.root, 2)
    flow.discard("numbers", inputs["numbers"].key)
    state = make._sent(portable(inputs, 0, flow), LOG)
    assert state.is_failed() and state.name == "UserError"
    assert "numbers/" in str(state.message) and "is not in the store (on the Dask worker" in str(
        state.message
    )


def test_a_worker_with_another_ledger_refuses_before_anything_is_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = Store(tmp_path / "flow")
    sent = portable(filled(flow.root, 2), 0, flow)
    sent = replace(sent, sent=Sent(str(flow.root), None, "7/1"))
    monkeypatch.setattr(dask_worker, "_ledger", lambda: "7/2")
    monkeypatch.setenv("SIF_LEDGER", "postgresql://sif:secret@other/calls")
    state = make._sent(sent, LOG)
    assert state.is_failed() and "PostgreSQL other:5432/calls, another database" in str(state.message)
    assert "secret" not in str(state.message)
    monkeypatch.delenv("SIF_LEDGER")
    monkeypatch.undo()
    dask_worker._ledger.cache_clear()
    assert "SIF_LEDGER is not set here" in str(make._sent(sent, LOG).message)


@stage(config=lambda c: {}, results=Results(("expand",)), parts=("numbers",))
def pictures(job: Job) -> None:
    """Looks for a picture of each row."""
    missing = not (job.folders["s"] / "picture.png").exists()
    rows = read(job.table("numbers"))
    job.keep("sums", SCHEMA, (Reject("s", "image-missing", "", "", "s") if missing else row for row in rows))


def test_pictures_that_a_worker_lacks_are_an_error_and_no_reject(
    bucket: str, tmp_path: Path, worker: Path
) -> None:
    flow = Store(tmp_path / "flow", bucket)
    inputs = filled(flow.root, 2)
    folder = tmp_path / "pictures"

    def sent(images: Path) -> Any:
        made = order({"numbers": inputs["numbers"]}, 0, flow.root)
        source = Source(name="s", format="viscot", path=Path("a.json"), images=images)
        config = made.config.model_copy(update={"sources": (source,)})
        return replace(
            portable(inputs, 0, flow),
            stage=pictures,
            config=cluster.portable(replace(made, config=config), flow).config,
        )

    state = make._sent(sent(folder), LOG)
    assert f"sources.s.images: there is no folder {folder} on the host" in str(state.message)
    folder.mkdir()  # such as the place of a volume that is not mounted
    state = make._sent(sent(folder), LOG)
    assert "1 rows need pictures that are not those that ingest read (image-missing)" in str(state.message)
    (folder / "picture.png").touch()
    assert make._sent(sent(folder), LOG).is_completed()


@pytest.mark.parametrize(
    ("name", "now", "refused"),
    [("retry", 2, False), ("retry", 3, True), ("annotate", 2, True)],
)
def test_pictures_that_annotate_did_not_find_elsewhere_say_nothing_about_this_worker(
    name: str, now: int, refused: bool, tmp_path: Path
) -> None:
    """`retry` passes on what `annotate` rejected; a picture more is this worker's."""
    letters = [Reject(f"s{i}", "image-changed", "", "", "s") for i in range(2)]
    tables.write(tmp_path / "rejects.parquet", tables.REJECTS, map(asdict, letters))
    shard = SimpleNamespace(rejects=lambda: [tmp_path / "rejects.parquet"])
    given: Any = {"chains": SimpleNamespace(shards={1: shard})}
    sent: Any = replace(order({}, 1, tmp_path), sent=Sent(str(tmp_path), None, ""))
    sent = replace(sent, stage=replace(sums, name=name))
    with pytest.raises(UserError, match="rows need pictures") if refused else nullcontext():
        dask_worker.check_pictures(sent, {"image-changed": now}, given)


def test_pictures_in_the_store_come_with_their_artifact(bucket: str, tmp_path: Path) -> None:
    flow, there = Store(tmp_path / "flow", bucket), Store(tmp_path / "there", bucket)
    with flow.making("scenes", "k" * 20, {"label": "scenes"}) as draft:
        (draft.out / "data").mkdir()
        (draft.out / "data" / "a.png").write_bytes(b"picture")
    packed = store_paths.packed(str(flow.folder("scenes", "k" * 20) / "data"), flow.root)
    found = store_paths.pictures("s", Path(packed), there)
    assert found.is_relative_to(there.root) and (found / "a.png").read_bytes() == b"picture"
    with pytest.raises(UserError, match="scenes/gone/data is not in the store"):
        store_paths.pictures("s", Path("store:scenes/gone/data"), there)


@pytest.mark.parametrize(
    ("endpoints", "stays"),
    [
        (Endpoints(), ""),  # nothing is asked
        (Endpoints(bookkeeping.SHARED, ("http://a/v1",)), ""),
        (Endpoints(Path("calls.sqlite"), ("http://a/v1",)), "its ledger is a file of this machine"),
        (Endpoints(bookkeeping.SHARED, ("http://a/v1",), "its endpoint is"), "its endpoint is"),
    ],
)
def test_what_asks_goes_to_the_cluster_where_another_machine_can_ask_and_record(
    tmp_path: Path, endpoints: Endpoints, stays: str
) -> None:
    of = Order(sums, "sums", order({}, 0, tmp_path).config, {}, {}, "k")
    assert not cluster.takes(of, endpoints), "there is no cluster"
    of = replace(of, config=type(of.config)(scenes={}, dask="tcp://a:1"))  # type: ignore[arg-type]
    assert cluster.takes(of, endpoints) is not bool(stays)
    if stays:
        assert cluster.why_here(endpoints).startswith(stays)


BEGAN, ENDED = threading.Event(), threading.Event()


def work() -> None:
    """A shard that goes on until nobody wants it."""
    wanted = dask_worker.wanted()
    wanted()
    BEGAN.set()
    with pytest.raises(UserError, match="the run that wanted this shard is gone"):
        while True:
            wanted()
            time.sleep(0.01)
    ENDED.set()


@pytest.mark.e2e
def test_a_worker_stops_when_the_flow_no_longer_waits() -> None:
    distributed = pytest.importorskip("distributed", reason="the `dask` extra is not installed")
    one = distributed.LocalCluster(1, threads_per_worker=1, processes=False, dashboard_address=":0")
    with one, distributed.Client(one, set_as_default=False) as client:
        future = client.submit(work)
        assert BEGAN.wait(60)
        assert not ENDED.is_set()
        client.cancel([future])
        assert ENDED.wait(60)
