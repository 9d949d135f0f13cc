"""Making an artifact: the Prefect task of a stage, its shards and its summary.

`make` is the one Prefect task that runs any stage. Prefect's own cache may answer for it (state `Cached`) only where the
decision has found the verified artifact, so that a deleted or damaged output is never taken for a result.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import Timeout
from prefect import task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.states import Completed

from sifthinker.core.errors import UserError
from sifthinker.llm.client import tallied
from sifthinker.store import copies
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Artifact, Damaged, Ref
from sifthinker.system import gpu
from sifthinker.system.disk_errors import explained
from tasks.runtime import (
    cluster,
    dask_worker,
    elsewhere,
    end_states,
    placement,
    refusal,
    shards,
    stage_log,
    tries,
    ui_artifacts,
    work_folder,
)
from tasks.runtime.decide import Decision, uninstalled, wrong
from tasks.runtime.progress import End, Progress, how
from tasks.runtime.server_away import ServerAway
from tasks.runtime.stage import Job, Order, StageFailed
from tasks.runtime.stage_log import Log

VERSIONS = ("prefect", "torch", "transformers", "peft", "trl", "deepspeed", "pyarrow", "openai")


def execute(decision: Decision, store: Store) -> Ref:
    """Runs the Prefect task of a decision, or has Prefect's cache answer, and waits for it.

    Raises:
        StageRefused: it ended by a mistake of the user's.
        StageFailed: it ended without its artifact.
    """
    return _result(decision, outcome(decision, store))


def outcome(decision: Decision, store: Store) -> State[Ref]:
    """The same, as the task's final state."""
    state: State[Ref] = _task(decision, store)(decision.order, str(store.root), return_state=True)
    return state


def _result(decision: Decision, state: State[Ref]) -> Ref:
    if not state.is_completed():
        raise end_states.error(state, decision.order.label)
    made = Ref.model_validate(state.result())
    # Prefect draws an arrow of its graph where a task is given the very object that another one returned. So that object
    # is passed on while it equals the verified artifact, which is what counts.
    return made if decision.artifact is None or made == decision.artifact.ref else decision.artifact.ref


def _task(decision: Decision, store: Store) -> Any:
    order = decision.order
    return _named(order).with_options(
        cache_policy=CachePolicy.from_cache_key_fn(lambda *_: f"{order.place}-{order.key}"),
        result_storage=store.root / "prefect" / "results",
        refresh_cache=not decision.cached,
    )


def _task_elsewhere(order: Order) -> Any:
    """The task of a shard for another machine. Its result lies in no folder: it comes back by the network."""
    return _named(order).with_options(persist_result=False, cache_policy=NO_CACHE)


def _named(order: Order) -> Any:
    placed = placement.pool(order.config, order.stage.name) is not None
    return make.with_options(
        name=order.label,
        task_run_name=_run_name(order),
        # A stage that explains its end is not tried again, a lost machine's is: see `_again`.
        retries=max(order.stage.retries, placement.RETRIES) if placed else order.stage.retries,
        retry_delay_seconds=10,
    )


def _run_name(order: Order) -> str:
    if order.part is None:
        return order.label
    again = f" round {order.round}" if order.round > 1 else ""
    return f"{order.label} part {order.part + 1}{again}"


def _again(_: Any, __: TaskRun, state: State[Any]) -> bool:
    """Whether a try ended by what another try may spare: an exception, a lost machine. Other states explain the end."""
    raised = isinstance(state.data, BaseException) and not isinstance(state.data, ServerAway)
    return raised or end_states.is_lost(state)


@task(persist_result=True, result_serializer="json", retry_condition_fn=_again)
def make(order: Order, root: str) -> Ref | State[Ref]:
    """Makes one artifact (of a stage or of one of its shards) where the stage is placed, unless it is there by now."""
    log = get_run_logger()
    if order.sent:
        return _sent(order, log)
    store = Store(Path(root))
    there = placement.pool(order.config, order.stage.name)
    state = placement.elsewhere(order, there, store, log) if there else _here(order, store, log)
    if not state.is_completed():
        return state
    try:
        if there:
            copies.settle(store, order.place, order.key)
        artifact = store.find(order.place, order.key)
    except (UserError, Damaged) as error:  # another try would make again what is made
        return end_states.failed(error)
    if there and artifact is None:
        return end_states.failed(UserError(_not_here(order, store, f"pool {there}", "it is not there")))
    assert artifact, "the artifact was just made"
    if state.name == "Cached":
        return Completed(name="Cached", message=state.message, data=artifact.ref)
    if order.part is None:
        ui_artifacts.markdown(ui_artifacts.summary(order.label, artifact.manifest), order.label, order.label)
    return artifact.ref


def _sent(order: Order, log: Log) -> Ref | State[Ref]:
    """Makes a shard that a flow on another machine has sent, in this worker's store, which shares it."""
    try:
        with dask_worker.named(order):
            order, store = dask_worker.received(order)
            state = _here(order, store, log)
            if not state.is_completed():
                return state
            made = store.find(order.place, order.key)
            assert made, "the artifact was just made"
            store.upload(made.ref)
    except UserError as error:
        log.error("%s", error)
        return end_states.failed(error)
    return Completed(name=state.name, message=state.message, data=made.ref)


def _here(order: Order, store: Store, log: Log) -> State[Any]:
    """Makes the artifact in this process; `Cached` when another run has made it meanwhile."""
    try:
        with dask_worker.named(order), explained(order.label), ExitStack() as stack:
            if lacking := uninstalled(order):
                raise UserError(f"{order.label} lacks {'; '.join(lacking)}")
            lock = store.lock(order.place, order.key, dask_worker.address() if order.sent else "")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.warning("another run is making %s %s: waiting for it", order.label, order.key)
                lock.acquire()
            stack.callback(lock.release)
            if found := _made_meanwhile(store, order):
                _ended(order, store, log)
                return Completed(name="Cached", message=f"{found.stage}/{found.key} is in the store")
            wanted = dask_worker.wanted() if order.sent else None

            def still(strict: bool = False) -> None:
                lock.check(strict)
                if wanted:
                    wanted()

            still(strict=True)
            make_artifact(order, store, log, still)
    except (UserError, StageFailed) as error:  # explained already: no traceback, and no use in a retry
        log.error("%s", error)
        return end_states.failed(error)
    return Completed()


def _made_meanwhile(store: Store, order: Order) -> Ref | None:
    if order.refresh and not work_folder.finished(order, store):
        return None
    try:
        found = store.find(order.place, order.key)
    except Damaged as damage:
        get_run_logger().warning("%s is made again: %s", order.label, damage)
        return None
    return found.ref if found and not wrong(order, found) else None


def make_artifact(order: Order, store: Store, log: Log, still: Callable[..., None] = lambda *_: None) -> None:
    """Makes the artifact of an order in this process, whether it is there or not.

    Args:
        order: what to make.
        store: where to.
        log: takes lines about progress.
        still: raises where this process may no longer make it: its lock is lost or, asked strictly, may be.

    Raises:
        UserError: the stage explains a mistake of the user's, or too many rows were rejected.
    """
    inputs = _inputs(order, store)
    manifest = {
        "label": order.label,
        "name": order.config.name,
        "identity": order.identity,
        "inputs": {name: ref.model_dump() for name, ref in order.inputs.items()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _installed()}},
    }
    work_folder.begin(order, store, log)
    work = store.work(order.place, order.key)
    if order.part is None:  # what a shard took is in its stage's time
        there = store.manifest(order.place, order.key) if order.refresh else None
        tries.begin(work, there["made"] if there else None)
    # A shard in this process writes into the log of its stage.
    log_kept = stage_log.kept(work, order.label)
    with (
        log_kept if order.part is None else nullcontext(),
        store.making(order.place, order.key, manifest, lambda: still(True)) as draft,
    ):
        draft.lineage = order.stage.lineage
        fan_out = bool(order.stage.parts) and order.part is None
        progress = Progress(
            order.label, None if fan_out else shards.rows(order, inputs), log, still=still, part=order.part
        )
        job = Job(order, store, inputs, draft, order.endpoints, log, progress)
        around = order.stage.around(job) if order.part is None else nullcontext(order.endpoints)
        ended: End = "completed"
        try:
            with around as job.endpoints:
                if fan_out:
                    shards.make(job, _made)
                else:
                    _run(job)
            rows = draft.rows
            read = draft.notes.pop("read", rows["in"])
            lost = read - rows["kept"] - sum(rows["rejected"].values())
            assert not lost, f"{order.label}: {read} rows in, {rows} out: {lost} lost"
            dask_worker.check_pictures(order, rows["rejected"], inputs)
            refusal.check(job)
            draft.notes.update(tries.earlier(work))
        except BaseException as error:
            ended = how(error)
            tries.failed(work, draft.notes)
            raise
        finally:
            progress.end(ended)
    _ended(order, store, log)


def _ended(order: Order, store: Store, log: Log) -> None:
    """The artifact is there: what its tries needed goes."""
    work_folder.end(order, store, log)
    if order.part is None:
        tries.forget(store.work(order.place, order.key))


def _run(job: Job) -> None:
    """Runs the stage's function. A shard for another machine notes what was paid for it.

    A model on the GPU of this process has been used for the last time then. The process lives on, and the next stage's server or
    training counts what is free.
    """
    try:
        if job.order.sent is None:
            job.order.stage.run(job)
            return
        with tallied() as asked:
            job.order.stage.run(job)
    finally:
        if job.order.stage.in_turn:
            gpu.free()
    for counts in asked:
        elsewhere.noted(job.notes, counts)


def _inputs(order: Order, store: Store) -> dict[str, Artifact]:
    """What an artifact is made from. A shard opens its own part of the tables that its stage works through in parts."""
    in_parts = () if order.part is None else order.parts
    return {
        name: store.open(ref, order.part if name in in_parts else None) for name, ref in order.inputs.items()
    }


def _made(job: Job, decisions: Sequence[Decision]) -> Iterator[tuple[Decision, Ref]]:
    """Makes shards, on the Dask cluster or in this process; each with its artifact."""
    order, store = job.order, job.store
    if cluster.takes(order, job.endpoints):
        yield from _made_elsewhere(job, decisions)
        return
    if order.config.dask:
        job.log.info("%s stays in the flow's process: %s", order.label, cluster.why_here(job.endpoints))
    if order.stage.in_turn:
        for decision in decisions:
            yield decision, execute(decision, store)
        return
    futures = [_task(decision, store).submit(decision.order, str(store.root)) for decision in decisions]
    for decision, future in zip(decisions, futures, strict=True):
        future.wait()
        yield decision, _result(decision, future.state)


def _made_elsewhere(job: Job, decisions: Sequence[Decision]) -> Iterator[tuple[Decision, Ref]]:
    """Makes shards on the Dask cluster; what is in the store already is not sent there."""
    order, store = job.order, job.store
    for decision in decisions:
        if decision.cached:
            yield decision, execute(decision, store)
    missing = [decision for decision in decisions if not decision.cached]
    if not missing:
        return
    first = order.stage.parts[0]
    if job.endpoints.urls:
        parts = [
            job.inputs[first].part(first, decision.order.part)
            for decision in missing
            if decision.order.part is not None
        ]
        job.elsewhere.rows += sum(map(shards.length, parts))
    with cluster.connected(order, store, job.log) as there:
        sent = {
            there.submit(_task_elsewhere(decision.order), decision.order): decision for decision in missing
        }
        for future, state in there.finished():
            decision = sent[future]
            made = _result(decision, state)
            copies.settle_shard(store, made)
            try:
                manifest = store.open(made).manifest
            except Damaged as damage:
                raise StageFailed(_not_here(decision.order, store, "a Dask worker", str(damage))) from damage
            if state.name != "Cached":
                job.elsewhere.made.append(manifest)
            yield decision, made


def _not_here(order: Order, store: Store, who: str, damage: str) -> str:
    where = store.remote.url if store.remote else store.root
    return (
        f"{order.label}: {who} has made {order.place}/{order.key}, but in {where}: {damage}; see that all hosts have one "
        "`remote`, or one folder"
    )


def _installed() -> list[str]:
    from importlib.util import find_spec

    return [name for name in VERSIONS if find_spec(name)]
