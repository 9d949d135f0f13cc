"""The Dask cluster's part of `sif doctor`: its scheduler, and on each worker the code, resources, store, remote and ledger."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sifthinker.config import Config, Dask
from sifthinker.core.errors import UserError
from sifthinker.llm import bookkeeping
from sifthinker.llm.ledger import VARIABLE
from sifthinker.store.s3 import Remote
from sifthinker.upkeep.findings import Finding
from tasks.runtime import cluster, dask_worker, identity
from tasks.runtime.stage_results import RESULTS

CHECK = "Dask"
CONNECT = 10  # seconds for the scheduler to answer
ALWAYS = ("expand", "depth")  # the stages whose shards go to the cluster
ASKING = ("annotate", "retry")  # those that also do where the ledger is shared


def workers(config: Config) -> Iterator[Finding]:
    """Whether the cluster that a configuration names can make its shards; nothing where it names none."""
    if not (dask := config.dask):
        return
    try:
        from distributed import Client
        from prefect_dask.client import PrefectDaskClient  # noqa: F401 - the flow needs it
    except ImportError as error:
        yield Finding(
            CHECK, "error", f"{error.name} is not installed", "pip install -e '.[dask]' -c constraints.txt"
        )
        return
    try:
        client = Client(dask.address, timeout=CONNECT, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError) as error:
        todo = "start one (dask scheduler), or correct dask.address"
        yield Finding(CHECK, "error", f"no scheduler answers at {dask.address}: {error}", todo)
        return
    with client:
        there = client.scheduler_info(n_workers=-1)["workers"]
        yield from _resources(dask, there)
        yield from _each(config, client, there)


def _resources(dask: Dask, there: Mapping[str, Any]) -> Iterator[Finding]:
    if not there:
        found = f"the scheduler at {dask.address} has no worker"
        yield Finding(CHECK, "error", found, f"start some: dask worker {dask.address}")
        return
    hosts = len({worker["host"] for worker in there.values()})
    yield Finding(CHECK, "ok", f"{dask.address}: {len(there)} workers on {hosts} hosts")
    for stage, needs in dask.resources.items():
        if not any(cluster.offers(worker.get("resources", {}), needs) for worker in there.values()):
            wanted = " ".join(f"{name}={count:g}" for name, count in needs.items())
            found = f"no worker has the resources {wanted} that {stage} needs (dask.resources)"
            todo = f"start some: dask worker {dask.address} --resources '{wanted}'"
            yield Finding(CHECK, "error", found, todo)


def _each(config: Config, client: Any, there: Mapping[str, Any]) -> Iterator[Finding]:
    """What the workers find wrong with themselves; those that find the same are one finding."""
    found: dict[str, list[str]] = defaultdict(list)
    with _probe(config.store.resolve()) as probe:
        shared = bookkeeping.identity() if os.environ.get(VARIABLE, "").strip() else ""
        stages = (*ALWAYS, *(ASKING if shared else ()))
        means = {stage: _means(stage, config) for stage in stages}
        for address, worker in there.items():
            name = f"{worker['host']} ({address})"
            try:
                said = client.run(look, config, means, str(probe), shared, workers=[address])[address]
            except Exception as error:  # noqa: BLE001 - code that is not the flow's fails in any way
                said = [
                    f"it cannot be asked: {type(error).__name__}: {error}; give it the flow's code and libraries"
                ]
            for problem in said:
                found[problem].append(name)
    for problem, names in found.items():
        yield Finding(CHECK, "error", f"{problem}: {len(names)} of {len(there)} workers: {', '.join(names)}")
    if not found:
        where = f"share {config.remote}" if config.remote else f"see the store {config.store.resolve()}"
        yield Finding(
            CHECK, "ok", f"all workers have the code and libraries of {', '.join(stages)}, and {where}"
        )


@contextmanager
def _probe(store: Path) -> Iterator[Path]:
    """A file in the flow's store, for the workers to look for. A store that was not there goes again."""
    made = [folder for folder in (store, *store.parents) if not folder.exists()]
    store.mkdir(parents=True, exist_ok=True)
    probe = store / f".doctor-{uuid.uuid4().hex}"
    probe.touch()
    try:
        yield probe
    finally:
        probe.unlink()
        for folder in made:
            if not any(folder.iterdir()):  # else a run has begun there meanwhile
                folder.rmdir()


def _means(stage: str, config: Config) -> identity.Identity:
    return identity.identity(stage, RESULTS[stage].of(config), None, {}, {})


async def look(config: Config, means: Mapping[str, identity.Identity], probe: str, ledger: str) -> list[str]:
    """On a worker: what keeps it from making shards of the flow's, each with what to do.

    Args:
        config: the flow's.
        means: what decides the result of each stage, where the flow is.
        probe: a file in the flow's store.
        ledger: what the flow's shared ledger is; "": it has none.
    """
    checks: tuple[Callable[[], None], ...] = (
        lambda: _check_code(config, means),
        lambda: _check_store(config, Path(probe)),
        lambda: _check_images(config),
        lambda: dask_worker.check_ledger(ledger),
    )
    found = []
    for check in checks:  # beside the worker's loop, which others wait for
        try:
            await asyncio.to_thread(check)
        except UserError as error:
            found.append(str(error))
    return found


def _check_code(config: Config, means: Mapping[str, identity.Identity]) -> None:
    for stage, there in means.items():
        if reasons := identity.means_changed(there, _means(stage, config)):
            raise UserError(
                f"another version of the code or of a library of {stage} (flow -> worker): {'; '.join(reasons)}; give it "
                "the flow's"
            )


def _check_store(config: Config, probe: Path) -> None:
    if config.remote:
        Remote(config.remote).list("runs")
        return
    root = dask_worker.store_root(probe.parent)
    dask_worker.check_shared(root, probe.parent)
    if not probe.exists():
        raise UserError(
            f"{root} is another folder there than the flow's store: mount the same volume, or set `remote`"
        )


def _check_images(config: Config) -> None:
    for source in config.sources:
        if source.images and not source.images.resolve().is_dir():
            raise UserError(
                f"sources.{source.name}: no folder of images {source.images.resolve()}; stages that open pictures fail "
                "there: give it the folder under the same path"
            )
