"""What a flow says of a Dask cluster that has no worker for its shards, or loses them. The client here is a fake."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import Timeout
from prefect.states import Completed

from sifthinker.config import Config, Dask
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from tasks.runtime import cluster
from tasks.runtime.stage import Order, StageFailed
from tasks.stages.depth import depth

distributed = pytest.importorskip("distributed", reason="the `dask` extra is not installed")


class Future:
    """A shard that is under way, until `end`."""

    def __init__(self, key: str = "") -> None:
        self.key = key
        self._tell: Callable[[Any], None] = lambda _: None
        self._ended: Any = None

    def add_done_callback(self, tell: Callable[[Any], None]) -> None:
        self._tell = tell
        if self._ended:
            tell(self)

    def end(self, how: Any) -> Future:
        self._ended = how
        self._tell(self)
        return self

    def result(self) -> Any:
        if isinstance(self._ended, BaseException):
            raise self._ended
        return self._ended


class Client:
    """A client of a cluster whose workers a test sets."""

    def __init__(self, *workers: dict[str, float]) -> None:
        self.workers = [{"resources": resources} for resources in workers]
        self.futures: list[Future] = []
        self.sent: list[dict[str, Any]] = []
        self.cancelled: list[Future] = []
        self.looks = 0

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        self.looks += 1
        return {"workers": {f"tcp://w:{n}": worker for n, worker in enumerate(self.workers)}}

    def processing(self) -> dict[str, list[str]]:
        return {"tcp://w:0": [future.key for future in self.futures[:1]]}

    def submit(self, task: Any, **how: Any) -> Future:
        self.sent.append(how)
        self.futures.append(Future(f"shard-{len(self.futures)}"))
        return self.futures[-1]

    def cancel(self, futures: list[Future]) -> None:
        self.cancelled += futures


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOOK", 0.01)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def shard(client: Client, store: Store, wait: float = 1.0, key: str = "k", **resources: Any) -> Order:
    dask = Dask(address="tcp://a:1", resources=resources, wait=wait)  # type: ignore[arg-type]
    config = Config(store=store.root, scenes={}, dask=dask)  # type: ignore[arg-type]
    return Order(depth, "depth", config, {}, {}, key, part=0)


def there(client: Client, store: Store, wait: float = 1.0, **resources: Any) -> cluster.Cluster:
    """The cluster, with one shard sent."""
    order = shard(client, store, wait, **resources)
    made = cluster.Cluster(client, order, store, logging.getLogger("test"))
    made.submit(None, order)
    return made


@pytest.mark.parametrize(
    ("client", "said"),
    [
        (Client(), "has no worker; start some: `dask worker tcp://a:1`"),
        (Client({}, {"GPU": 0.5}), r"none of the 2 workers .* has the resources GPU=1 \(dask.resources\)"),
    ],
)
def test_a_cluster_without_a_fitting_worker_is_said_at_once_and_given_up_at_the_limit(
    client: Client, said: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    asked = there(client, store, 0.1 / 3600, depth={"GPU": 1})
    with pytest.raises(UserError, match=rf"depth: waited 0 s \(dask.wait\), and .*{said}"):
        next(asked.finished())
    assert len(caplog.messages) == 1, "once a minute"
    assert "depth waits, for 0 s at most" in caplog.messages[0]
    asked.cancel()
    assert client.cancelled == client.futures


def test_a_worker_that_comes_late_takes_the_shards(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    asked = there(client, store, depth={"GPU": 1}, annotate={"LINES": 4})
    found = asked.finished()
    looks = cluster.Cluster._look

    def come(self: cluster.Cluster) -> None:
        looks(self)
        if client.looks == 3:
            client.workers.append({"resources": {"GPU": 1.0}})
        if client.looks == 5:
            client.futures[0].end(Completed())

    asked._look = come.__get__(asked)  # type: ignore[method-assign]
    future, state = next(found)
    assert future is client.futures[0] and state.is_completed()
    assert list(found) == []
    assert [how["resources"] for how in client.sent] == [{"GPU": 1.0}]
    assert len(caplog.messages) == 1


def test_a_stage_without_resources_asks_for_none(store: Store) -> None:
    client = Client({})
    there(client, store, expand={"CORES": 2})
    assert client.sent[0]["resources"] is None


def killed() -> BaseException:
    from distributed.scheduler import KilledWorker, WorkerState

    lost = WorkerState(
        address="tcp://w:1", status=distributed.Status.closed, pid=1, name="w", nthreads=1, memory_limit=0,
        local_directory="", nanny="", server_id="w", services={}, versions={}, extra={}, scheduler=None,  # type: ignore[arg-type]
    )  # fmt: skip
    return KilledWorker("shard", lost, 3)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (killed, "depth: 4 workers were lost while they made one of its shards, the last one tcp://w:1"),
        (lambda: distributed.CancelledError(), "the Dask scheduler at tcp://a:1 was lost"),
        (lambda: ModuleNotFoundError("tasks"), "could not begin a shard: ModuleNotFoundError: tasks"),
    ],
)
def test_a_shard_that_is_lost_is_explained(how: Callable[[], BaseException], said: str, store: Store) -> None:
    client = Client({})
    asked = there(client, store)
    client.futures[0].end(how())
    with pytest.raises(StageFailed, match=said):
        next(asked.finished())


def test_the_locks_of_a_lost_worker_are_free_for_others(
    bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:

    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "test"]

    caplog.set_level(logging.INFO)
    store, other = Store(tmp_path / "a", bucket), Store(tmp_path / "b", bucket)
    client = Client({}, {})
    asked = there(client, store)
    asked.submit(None, shard(client, store, key="waits"))
    locks = {key: other.lock("depth.parts", key, "tcp://w:1") for key in ("k", "waits")}
    for lock in locks.values():
        lock.acquire(timeout=0)
    asked._look()
    assert not said(), "its holder lives"
    del client.workers[1]
    asked._look()
    assert "depth: tcp://w:1 left the Dask cluster" in said()[0]
    assert said()[1:] == ["depth: took the lock of k from a lost worker"]
    with store.lock("depth.parts", "k").at_once():
        locks["k"].release()  # by one that lives after all: the lock is another's now
        with pytest.raises(Timeout):
            Store(tmp_path / "c", bucket).lock("depth.parts", "k").acquire(timeout=0)
    with pytest.raises(Timeout):
        store.lock("depth.parts", "waits").acquire(timeout=0)
    locks["waits"].release()
