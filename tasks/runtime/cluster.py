"""Shards on a Dask cluster (`dask: tcp://scheduler:8786`): the same tasks and keys, on other machines.

What goes there: the shards of `expand` and `depth`, and those of `annotate` and `retry` where the ledger of paid calls is
in a database and the endpoint is no server of this machine's. `tasks/runtime/dask_worker.py` is the other end.

A worker that is lost loses nothing else: Dask gives its shards to others. A cluster that has no worker for them is said
so within seconds, and waited for as long as `dask.wait` allows.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State

from sifthinker.core.errors import UserError
from sifthinker.llm import bookkeeping
from sifthinker.store.artifacts import Store
from tasks.runtime import store_paths
from tasks.runtime.stage import Endpoints, Order, Sent, StageFailed
from tasks.runtime.stage_log import Log

CONNECT = 20  # seconds for the scheduler to answer
LOOK = 5.0  # seconds between two looks at the workers
MINUTE, HOUR = 60.0, 3600.0


def takes(order: Order, endpoints: Endpoints) -> bool:
    """Whether the shards of a stage go to the cluster, given where it asks its models."""
    return bool(order.config.dask) and (not endpoints.urls or not why_here(endpoints))


def why_here(endpoints: Endpoints) -> str:
    """Why what asks an endpoint stays in the flow's process; "" where it need not."""
    if endpoints.here:
        return endpoints.here
    if endpoints.ledger != bookkeeping.SHARED:
        return "its ledger is a file of this machine (set SIF_LEDGER, here and for the workers)"
    return ""


def portable(order: Order, store: Store) -> Order:
    """The order for another machine: its paths are absolute, or say that they lie in the store."""

    def images(path: Path | None) -> Path | None:
        return path and Path(store_paths.packed(str(path.resolve()), store.root))

    sources = tuple(
        source.model_copy(update={"images": images(source.images)}) for source in order.config.sources
    )
    ledger = bookkeeping.identity() if order.endpoints.urls else ""
    return replace(
        order,
        config=order.config.model_copy(update={"sources": sources}),
        sent=Sent(str(store.root), store.remote.url if store.remote else None, ledger),
    )


class Cluster:
    """A Dask cluster, as one stage uses it."""

    def __init__(self, client: Any, order: Order, store: Store, log: Log) -> None:
        """Of a client that is connected.

        Args:
            client: prefect-dask's.
            order: of the stage whose shards are made.
            store: the flow's.
            log: takes what is waited for.
        """
        assert order.config.dask
        self._client, self._dask, self._store, self._log = client, order.config.dask, store, log
        self._label = order.label
        self._needs = dict(dict(self._dask.resources).get(order.stage.name, {}))  # type: ignore[call-overload]
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._left: dict[Any, Order] = {}
        self._workers: set[str] = set()  # addresses of all that there have been
        self._dead: set[str] = set()
        self._without: float | None = None  # since when no worker can take a shard
        self._said = time.monotonic()

    def submit(self, task: Any, order: Order) -> Any:
        """Sends a shard; what is returned names it in `finished`."""
        future = self._client.submit(
            task,
            parameters={"order": portable(order, self._store), "root": ""},
            return_type="state",
            resources=self._needs or None,
        )
        self._left[future] = order
        future.add_done_callback(self._done.put)
        return future

    def finished(self) -> Iterator[tuple[Any, State[Any]]]:
        """What was sent, each with its final state, as they end.

        Raises:
            UserError: for as long as `dask.wait` allows, no worker can take a shard.
            StageFailed: a shard was lost with each worker that took it, or the cluster forgot it.
        """
        self._look()
        while self._left:
            try:
                future = self._done.get(timeout=LOOK)
            except queue.Empty:
                self._look()
                continue
            del self._left[future]
            self._said = time.monotonic()
            yield future, self._state(future)

    def cancel(self) -> None:
        """Nobody waits for the rest any more. A worker that makes one of them sees it."""
        if self._left:
            self._client.cancel(list(self._left))

    def _state(self, future: Any) -> State[Any]:
        from distributed import CancelledError
        from distributed.scheduler import KilledWorker

        try:
            state: State[Any] = future.result()
        except KilledWorker as error:
            raise StageFailed(
                f"{self._label}: {error.allowed_failures + 1} workers were lost while they made one of its shards, the "
                f"last one {error.last_worker.address}; a worker that takes more memory than its machine has is killed: "
                "see its log, give the workers more memory, or set `ingest.shards` higher"
            ) from error
        except CancelledError as error:
            raise StageFailed(
                f"{self._label}: the Dask scheduler at {self._dask.address} was lost, and its work with it; what is "
                "made is in the store, and the next run goes on from there"
            ) from error
        except Exception as error:
            raise StageFailed(
                f"{self._label}: a Dask worker could not begin a shard: {type(error).__name__}: {error}; give the "
                "workers the flow's code and environment"
            ) from error
        return state

    def _look(self) -> None:
        """Says what is waited for.

        Raises:
            UserError: it has been waited for as long as `dask.wait` allows.
        """
        now = time.monotonic()
        lacking, able = self._lacking()
        if not lacking:
            self._without = None
            if now - self._said > MINUTE:
                self._said = now
                self._log.info(
                    "%s: %d shards are left, on %d workers of the Dask cluster",
                    self._label,
                    len(self._left),
                    able,
                )
            return
        limit = self._dask.wait * HOUR
        began = self._without is None
        self._without = now if self._without is None else self._without
        if now - self._without >= limit:
            raise UserError(f"{self._label}: waited {_minutes(limit)} (dask.wait), and {lacking}")
        if began or now - self._said > MINUTE:
            self._said = now
            left = limit - (now - self._without)
            self._log.warning("%s waits, for %s at most: %s", self._label, _minutes(left), lacking)

    def _lacking(self) -> tuple[str, int]:
        """Why no worker can take a shard, with what to do, or ""; and how many can."""
        address = self._dask.address
        try:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError) as error:
            return f"the Dask scheduler at {address} does not answer: {error}", 0
        self._free_locks(set(workers))
        able = sum(offers(worker.get("resources", {}), self._needs) for worker in workers.values())
        if able:
            return "", able
        if not workers:
            return (
                f"the Dask scheduler at {address} has no worker; start some: `dask worker {address}`",
                0,
            )
        needs = " ".join(f"{name}={count:g}" for name, count in self._needs.items())
        return (
            f"none of the {len(workers)} workers of the Dask cluster at {address} has the resources {needs} "
            f"(dask.resources); start some: `dask worker {address} --resources '{needs}'`",
            0,
        )

    def _free_locks(self, workers: set[str]) -> None:
        """Takes the locks of lost workers on the remote, so that others need not wait until they expire."""
        self._workers |= workers
        if lost := self._workers - workers - self._dead:
            self._log.warning(
                "%s: %s left the Dask cluster; other workers make what they had not finished",
                self._label,
                ", ".join(sorted(lost)),
            )
        self._dead = self._workers - workers
        if not self._dead or self._store.remote is None:
            return
        busy = {key for keys in self._client.processing().values() for key in keys}
        for future, order in self._left.items():
            if future.key in busy and self._store.free(order.place, order.key, self._dead):
                self._log.info("%s: took the lock of %s from a lost worker", self._label, order.key)


def offers(has: Mapping[str, float], needs: Mapping[str, float]) -> bool:
    """Whether a worker has the resources that a shard needs."""
    return all(has.get(name, 0.0) >= count for name, count in needs.items())


def _minutes(seconds: float) -> str:
    return f"{seconds / MINUTE:.0f} minutes" if seconds >= 2 * MINUTE else f"{seconds:.0f} s"


@contextmanager
def connected(order: Order, store: Store, log: Log) -> Iterator[Cluster]:
    """The cluster that makes the shards of a stage.

    Raises:
        UserError: prefect-dask is not installed, or nothing answers at the address.
    """
    dask = order.config.dask
    assert dask
    try:
        from prefect_dask.client import PrefectDaskClient
    except ImportError as error:
        raise UserError(
            f"dask: {error.name} is not installed; pip install -e '.[dask]' -c constraints.txt"
        ) from error
    try:
        client = PrefectDaskClient(dask.address, timeout=CONNECT, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError) as error:
        raise UserError(
            f"dask: no scheduler answers at {dask.address}: {error}; start one (dask scheduler), or correct the address"
        ) from error
    with client:
        cluster = Cluster(client, order, store, log)
        try:
            yield cluster
        finally:
            cluster.cancel()
