"""Where a stage runs: in the flow's process, or, with `placement: pools`, as a run of its own in a work pool.

The flow's task of a stage stays what it was; instead of making the artifact it starts the deployment
`stage/<pool>` (flows/stage.py), waits, and takes the artifact over from the store, verified, by its key. The other
run decides, locks, caches and makes by the very same code, from what is sent to it: configuration, label,
references of the inputs. It is sent the identity of what is wanted too, so that another version of the code in
that pool is an error that names the module, never another artifact.

A training on several nodes (`nodes`) has a run of that pool for each. The first makes the artifact, and the others join it
(tasks/runtime/nodes.py). They begin and end together.

Whoever ends the flow's task (cancelling it in the UI or by the API, SIGTERM, SIGINT) cancels the other run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client
from prefect.artifacts import create_link_artifact
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelling, Completed, Failed
from prefect.utilities.urls import url_for

from sifthinker.config import Config, Pools, Train
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from tasks.runtime import end_states, server_away, store_paths
from tasks.runtime.liveness import NO_WORKER, emit, lost
from tasks.runtime.server_away import BY_WORKER
from tasks.runtime.stage import Order
from tasks.runtime.stage_log import Log

FLOW = "stage"  # of flows/stage.py; its deployments are named after their pools
HOUR, MINUTE = 3600.0, 60.0
RETRIES = 2  # of a stage whose worker or machine went down, whichever it is
UNSERVED = 15.0  # minutes without a worker after which the stage's run is told of (infra/alert_triggers.py)
EVERY = 1.0  # seconds between two looks at the other run
_NONE = "it has no worker"
REVIVES = 15.0  # seconds in which a run that lives says so after the server took it for dead (liveness.BEAT, and room)
LEAVE = 15.0  # seconds that a cancelled run is given to end, beside its grace, before the flow goes on ending itself


def pool(config: Config, stage: str) -> str | None:
    """The work pool that a stage runs in; None: the flow's process."""
    return config.pools.model_dump().get(stage) if config.placement == "pools" else None


def stages() -> list[str]:
    """The stages that can be placed: the fields of `pools`, but for those that are numbers."""
    return [name for name, field in Pools.model_fields.items() if field.annotation is not float]


def settled(config: Config) -> Config:
    """The configuration with the stages of the pool that this very run occupies placed in its process.

    A pool of GPUs takes one run at a time: a stage that was sent to it from there would wait for ever.

    Raises:
        UserError: a pool has no deployment that stages could be sent to.
    """
    if config.placement == "process":
        return config
    with get_client(sync_client=True) as client:
        own = _own_pool(client)
        named = {name: pool(config, name) for name in stages()}
        for name, there in named.items():
            if there in (None, own):
                continue
            try:
                client.read_deployment_by_name(f"{FLOW}/{there}")
            except ObjectNotFound as error:
                raise UserError(
                    f"pools.{name}: the server has no deployment {FLOW}/{there}; register it "
                    "(infra/prefect.yaml, `make deploy`), or name another pool"
                ) from error
    here = {name: None for name, there in named.items() if there == own}
    return config.model_copy(update={"pools": config.pools.model_copy(update=here)})


def sent(order: Order, store: Store) -> dict[str, Any]:
    """The parameters of the other run; `received` is the way back."""
    config = order.config.model_dump(mode="json") | {"placement": "process", "store": str(store.root)}
    return {
        "stage": order.stage.name,
        "label": order.label,
        "config": _strings(config, lambda text: store_paths.packed(text, store.root)),
        "inputs": {name: ref.model_dump() for name, ref in order.inputs.items()},
        "identity": dict(order.identity),
        "refresh": order.refresh,
    }


def received(config: Config, store: Store) -> Config:
    """The configuration as it reads on this host."""
    todo = "all pools need the same store"
    given = config.model_dump(mode="json")
    return Config.model_validate(_strings(given, lambda text: store_paths.unpacked(text, store, todo)))


def elsewhere(order: Order, there: str, store: Store, log: Log) -> State[Any]:
    """Has the artifact of an order made in a pool: how that ended. A completed one is in the store."""
    wanted = nodes(order.config, order.stage.name)
    with get_client(sync_client=True) as client:
        if refused := no_room(client, there, wanted):
            return end_states.failed(UserError(refused))
    started: list[Any] = []
    try:
        for node in range(wanted):
            started.append(_start(order, there, store, node, log))
        outcome, leave = _outcome(order, there, started, log)
    except server_away.ServerAway:  # the stage goes on there: the next run finds it at work, or in the store
        server_away.give_up()
        raise
    except BaseException:  # cancelled, interrupted: nothing may go on there for a run that has ended
        for run in started:
            cancel(run.id, log, _grace(order))
        raise
    for run in started:
        _leave(run, leave, order, log)
    if outcome is None:
        return Failed(
            message=f"pool {there} took no run for {order.config.pools.wait:g} h (pools.wait); is its worker running?"
        )
    said = (outcome.message or "it said nothing").rstrip(".")
    if outcome.is_crashed():
        return end_states.lost(
            f"its run in pool {there} crashed: {said}. See {_link(started[0])} and the log of the pool's worker. Start the "
            "worker again where it is gone, and run again with the same command: what was finished is in the store"
        )
    if outcome.is_completed():
        return Completed(name=outcome.name, message=f"by pool {there}")
    ended = "was cancelled" if outcome.is_cancelled() else "failed"
    return end_states.passed_on(outcome, f"its run in pool {there} {ended}: {said}")


def _leave(run: FlowRun, seconds: float, order: Order, log: Log) -> None:
    """Cancels a run that does not end by itself: a node that nobody took, or that outlasts the first."""
    deadline = time.monotonic() + seconds
    try:
        with get_client(sync_client=True) as client:
            while not ((state := client.read_flow_run(run.id).state) and state.is_final()):
                if time.monotonic() >= deadline:
                    cancel(run.id, log, _grace(order))
                    return
                time.sleep(EVERY)
    except (httpx.HTTPError, ObjectNotFound) as error:  # what it was for has ended: no reason to fail that
        log.warning("%s: whether its run %s has ended is not known: %s", order.label, run.id, error)


def nodes(config: Config, stage: str) -> int:
    """How many runs of a pool a stage takes at once."""
    section = getattr(config, stage, None)
    return section.nodes if isinstance(section, Train) else 1


def no_room(client: SyncPrefectClient, there: str, wanted: int) -> str:
    """Why a pool does not take several runs at once, which would wait for each other; empty where it does."""
    limit = client.read_work_pool(there).concurrency_limit if wanted > 1 else None
    if limit is None or limit >= wanted:
        return ""
    return (
        f"pool {there} takes {limit} runs at once and the training has {wanted} nodes, a run each: "
        f"`prefect work-pool set-concurrency-limit {there} {wanted}`, and start a worker on each machine"
    )


def _start(order: Order, there: str, store: Store, node: int, log: Log) -> Any:
    """Starts the run of a node; the first is 0."""
    name = f"{order.label} node {node + 1}" if node else order.label
    run: Any = run_deployment(
        f"{FLOW}/{there}",
        parameters={**sent(order, store), "node": node},
        flow_run_name=f"{order.config.name} {name}",
        work_queue_name=queue(there),
        timeout=0,
    )
    if link := url_for("flow-run", run.id):
        key = f"{order.label}-run-{node + 1}" if node else f"{order.label}-run"
        create_link_artifact(link, f"run in {there}", key, f"{name} in pool {there}")
    log.info("%s runs in pool %s: %s", name, there, _link(run))
    return run


def _link(run: Any) -> str:
    return url_for("flow-run", run.id) or str(run.id)


def _grace(order: Order) -> float:
    """Seconds that a training has for its checkpoint when it is told to end."""
    section = getattr(order.config, order.stage.name, None)
    return section.grace if isinstance(section, Train) else 0.0


def cancel(run: UUID, log: Log, grace: float = 0.0) -> None:
    """Cancels a run, and gives it its grace and a moment to end, so that whoever is told "cancelled" finds it so."""
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run, Cancelling(message="The run that it was for has ended."))
            leave = grace + LEAVE
            deadline = time.monotonic() + leave
            while time.monotonic() < deadline:
                state = client.read_flow_run(run).state
                if state and state.is_final():
                    log.info("its run in the other pool has ended: %s", state.name)
                    return
                time.sleep(0.25)
        log.warning("its run in the other pool (%s) has %.0f s later not ended", run, leave)
    except (httpx.HTTPError, ObjectNotFound) as error:
        log.error("its run in the other pool (%s) could not be cancelled: %s; cancel it by hand", run, error)


def _outcome(
    order: Order, there: str, started: Sequence[FlowRun], log: Log
) -> tuple[State[Any] | None, float]:
    """The final state of the first run; None: nobody took it in time. And seconds that the runs have to end by themselves.

    Another node's run that ends before it and has not done its part decides too: the first would wait for it in vain.
    A server that is away is asked again and again.

    Raises:
        ServerAway: the server does not come back.
    """
    began = said = time.monotonic()
    left: float | None = None  # since when a node is gone
    silent: float | None = None  # since when the server takes the first for dead
    away, unserved = _Away(order, there), _Unserved(order, there)
    settings = {"timeout": server_away.ANSWER}
    with server_away.at_once(), get_client(sync_client=True, httpx_settings=settings) as client:
        while True:
            try:
                states = [client.read_flow_run(run.id).state for run in started]
                now = time.monotonic()
                away.over(log)
                if states[0] and states[0].is_final():
                    silent = silent or now
                    if not lost(states[0]) or now - silent > REVIVES:
                        return states[0], LEAVE
                else:
                    silent = None
                if gone := [s for s in states[1:] if s and s.is_final() and not s.is_completed()]:
                    left = left or now
                    if now - left > LEAVE + _grace(order):
                        return gone[0], 0.0
                waiting = any(s is None or s.is_scheduled() or s.is_pending() for s in states)
                if waiting and now - began > order.config.pools.wait * HOUR:
                    return None, 0.0
                if waiting and now - said > MINUTE:
                    said = now
                    begins = any(s and s.is_pending() for s in states)
                    why = "its worker starts the run" if begins else _why(client, there)
                    log.warning("%s waits for pool %s: %s", order.label, there, why)
                    unserved.look(client, _NONE in why, now, log)
            except httpx.HTTPError as error:
                away.met(error, log)
            time.sleep(EVERY)


class _Away:
    """A server that does not answer while a run in a pool is waited for: said at once, then every minute."""

    def __init__(self, order: Order, there: str) -> None:
        self.order, self.there = order, there
        self.since = self.said = 0.0  # when it was first met, and last told of
        self.met_it = False

    def met(self, error: httpx.HTTPError, log: Log) -> None:
        """It did not answer.

        Raises:
            ServerAway: not for as long as `pools.server_away` says.
        """
        now = time.monotonic()
        label, minutes = self.order.label, self.order.config.pools.server_away
        wrong = f"{type(error).__name__}: {error}"
        if not self.met_it:
            self.met_it, self.since = True, now
        gone = (now - self.since) / MINUTE
        if gone >= minutes:
            raise server_away.ServerAway(
                f"{label}: {server_away.explained(wrong)}. Its run in pool {self.there} may still be at work, and the next "
                "run waits for it"
            ) from error
        if now == self.since or now - self.said >= MINUTE:
            self.said = now
            server_away.note()
            log.warning(
                "%s: the Prefect server at %s does not answer: %s; the stage goes on in pool %s, and this run asks for it "
                "again for %.0f min at most (pools.server_away), then it fails",
                *(label, server_away.address(), wrong, self.there, minutes - gone),
            )

    def over(self, log: Log) -> None:
        """It has answered."""
        if self.met_it:
            self.met_it = False
            log.info("%s: the Prefect server answers again", self.order.label)


class _Unserved:
    """A pool without a worker while a stage waits for it: told of once, after a quarter of an hour."""

    def __init__(self, order: Order, there: str) -> None:
        self.label, self.there = order.label, there
        self.since: float | None = None  # since when it has none
        self.told = False

    def look(self, client: SyncPrefectClient, without: bool, now: float, log: Log) -> None:
        """It has no worker at this moment, or has one."""
        if not without:
            self.since = None
            return
        self.since = now if self.since is None else self.since
        if self.told or now - self.since < UNSERVED * MINUTE or not (own := flow_run.id):
            return
        self.told = True
        said = f"{self.label} waits for pool {self.there}: {_why(client, self.there)}"
        log.error("%s; whoever gets the alerts is told", said)
        emit(NO_WORKER, client.read_flow_run(UUID(own)), {"message": said, "pool": self.there})


def _why(client: SyncPrefectClient, there: str) -> str:
    workers = client.read_workers_for_work_pool(there)
    if any(worker.status == WorkerStatus.ONLINE for worker in workers):
        return "its worker is online, other runs are before it"
    return f"{_NONE}; start one: make worker POOL={there}"


def _own_pool(client: SyncPrefectClient) -> str | None:
    """The pool whose worker started this process, if one did."""
    run = os.environ.get(BY_WORKER)
    return client.read_flow_run(UUID(run)).work_pool_name if run else None


def queue(there: str) -> str | None:
    """The queue of a pool for a stage of this run: as this run's own, where the pool has it. None: the deployment's."""
    run = os.environ.get(BY_WORKER)
    if not run:
        return None
    with get_client(sync_client=True) as client:
        own = client.read_flow_run(UUID(run)).work_queue_name
        try:
            return client.read_work_queue_by_name(own, there).name if own else None
        except ObjectNotFound:
            return None


def _strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _strings(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_strings(item, change) for item in value]
    return value
