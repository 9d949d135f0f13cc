"""On a Dask worker: a shard that a flow on another machine has sent.

The worker's store is the folder that its environment variable SIF_STORE names, or else the flow's. Its content comes
from the flow's `remote`, and what it makes goes there. Without a `remote`, the folder is on a volume that all see.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.llm import bookkeeping
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Artifact, Damaged
from tasks.runtime import identity
from tasks.runtime.stage import Order, StageFailed

VARIABLE = "SIF_STORE"
# Reasons of rejects that say that a picture is not what ingest read. On a worker that is a folder that is not the flow's.
OTHER_PICTURES = ("image-missing", "image-unreadable", "image-changed", "image-broken", "image-format")
_PASSES_ON = "retry"  # the stage that asks for annotate's rejects, and keeps what is rejected again


def received(order: Order) -> tuple[Order, Store]:
    """The order as it reads here, and this worker's store.

    Raises:
        UserError: code, store or ledger of this worker are not those that the flow needs.
    """
    assert order.sent
    check(order)
    root = store_root(Path(order.sent.root))
    if order.sent.remote is None:
        check_shared(root, Path(order.sent.root))
    store = Store(root, order.sent.remote)
    check_ledger(order.sent.ledger)
    store.push_pending()  # what a worker that was killed here had made
    return replace(order, config=order.config.model_copy(update={"store": store.root})), store


def store_root(of_flow: Path) -> Path:
    """The folder of this worker's store."""
    return Path(os.environ.get(VARIABLE, "").strip() or of_flow)


def check_ledger(of_flow: str) -> None:
    """Compares the database of this worker's ledger with the flow's; "": the flow needs none here.

    Raises:
        UserError: it is another one, or cannot be opened.
    """
    if of_flow and of_flow != _ledger():
        raise UserError(
            f"its SIF_LEDGER is {bookkeeping.database().name}, another database than the flow's, so what is paid would "
            "be paid again; give all hosts the same ledger"
        )


def check_shared(root: Path, of_flow: Path) -> None:
    """Whether this worker's store can be the flow's, where they share no remote.

    Raises:
        UserError: it is another folder, or is not there.
    """
    if root.resolve() != of_flow.resolve():
        raise UserError(
            f"{VARIABLE} is {root}, the flow's store is {of_flow}, and they share no `remote`: set `remote` to an S3 "
            f"address that all hosts reach, or unset {VARIABLE} where the flow's store is on a volume that all see"
        )
    if not root.is_dir():
        raise UserError(
            f"there is no store {root} here: mount the volume that holds the flow's store at this path, or set `remote`, "
            f"and {VARIABLE} to a folder of this worker"
        )


@cache
def _ledger() -> str:
    return bookkeeping.identity()


def check(order: Order) -> None:
    """Compares this worker's code and libraries with the flow's.

    Raises:
        UserError: they differ.
    """
    here = identity.identity(order.stage.name, order.stage.results.of(order.config), None, {}, {})
    if reasons := identity.means_changed(order.identity, here):
        raise UserError(
            f"{order.label}: this Dask worker has another version of the code or of a library (flow -> worker): "
            f"{'; '.join(reasons)}; give the cluster's workers the flow's"
        )


def check_pictures(order: Order, rejected: Mapping[str, int], inputs: Mapping[str, Artifact]) -> None:
    """Refuses a shard whose rows were rejected because this worker has other pictures than ingest saw.

    What `annotate` had rejected says nothing about this worker: `retry` passes it on.

    Raises:
        UserError: it has.
    """
    if order.sent is None or order.part is None:
        return
    letters = inputs["chains"].shards[order.part].rejects() if order.stage.name == _PASSES_ON else []
    earlier = Counter(row["reason"] for row in tables.read(letters, ["reason"]))
    if found := [reason for reason in OTHER_PICTURES if rejected.get(reason, 0) > earlier[reason]]:
        folders = [f"{source.name}: {source.images}" for source in order.config.sources if source.images]
        raise UserError(
            f"{sum(rejected[reason] - earlier[reason] for reason in found)} rows need pictures that are not those that ingest read "
            f"({', '.join(found)}); give this host the same image folders ({'; '.join(folders)})"
        )


@contextmanager
def named(order: Order) -> Iterator[None]:
    """Says of an error on which worker it happened."""
    if order.sent is None:
        yield
        return
    where = f"(on the Dask worker {worker()})"
    try:
        yield
    except StageFailed as error:
        raise type(error)(f"{error} {where}") from error
    except (UserError, Damaged) as error:
        raise UserError(f"{error} {where}") from error


def worker() -> str:
    """This worker's host and address."""
    return ", ".join(filter(None, (socket.gethostname(), address())))


def address() -> str:
    """Where the cluster reaches this worker; "" outside of one."""
    try:
        from distributed import get_worker

        return str(get_worker().address)
    except (ImportError, ValueError):
        return ""


def wanted() -> Callable[[], None]:
    """What raises, once called, as soon as the flow no longer waits for what this thread makes.

    Dask cannot stop a thread. A flow that was cancelled, or killed, must not pay on.
    """
    try:
        from dask.context import thread_state
        from distributed import get_worker

        tasks, key = get_worker().state.tasks, thread_state.key
    except (ImportError, ValueError, AttributeError):  # not on a worker
        return lambda: None

    def check_wanted() -> None:
        task = tasks.get(key)
        if task is None or task.state == "cancelled":
            raise UserError("the run that wanted this shard is gone; what was bought is kept")

    return check_wanted
