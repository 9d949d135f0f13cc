"""Shards on a Dask cluster (`dask: tcp://scheduler:8786`), by Prefect's Dask runner: the same tasks, keys and cache.

What is computed goes there (expand, depth); what asks an API stays in the flow's process, beside its ledger. The
cluster's workers have this version of the code, and see the store, on a volume that they share, under the same path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sifthinker.core.errors import UserError
from tasks.runtime import identity
from tasks.runtime.stage import Order


@contextmanager
def runner(address: str) -> Iterator[Any]:
    """Prefect's Dask runner on the cluster of a scheduler.

    Raises:
        UserError: prefect-dask is not installed, or nothing answers at the address.
    """
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise UserError(
            f"dask: {error.name} is not installed; pip install -e '.[dask]' -c constraints.txt"
        ) from error
    made = DaskTaskRunner(address=address, client_kwargs={"timeout": 20})
    with made as running:
        try:
            workers = running.client.scheduler_info()["workers"]
        except (OSError, TimeoutError) as error:
            raise UserError(
                f"dask: no scheduler answers at {address}: {error}; start one (dask scheduler), or correct the address"
            ) from error
        if not workers:
            raise UserError(
                f"dask: the scheduler at {address} has no worker; start some (dask worker {address})"
            )
        yield running


def portable(order: Order) -> Order:
    """The order for another machine, with absolute paths of the folders of pictures."""
    sources = tuple(
        source.model_copy(update={"images": source.images and Path(source.images).resolve()})
        for source in order.config.sources
    )
    return replace(order, config=order.config.model_copy(update={"sources": sources}))


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
