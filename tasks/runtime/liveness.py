"""No run stays "Running" for ever: a run shows that it is alive, and the next run closes those that are not.

Every flow is wrapped in `alive`, which keeps `<store>/alive/<flow run>.json`: which process of which host makes the
run, and a beat every few seconds. A run that ends by itself, or is ended by a signal, removes its file. `sweep`
(before every run, and with every pruning) looks through the files that are left: where the process is gone, or the
beat of another host's has stopped for long, the run and its tasks are set to Crashed, and training processes that
it left behind are ended. A healthy run of any length is never touched: its process is there, and it beats, with or
without the Prefect server.

The server closes runs, too (infra/lost_runs.py): those whose heartbeats do not reach it. It cannot tell a dead run from
one that it could not hear. A run that lives and finds itself closed so is set to Running again.

Locks need no sweeping. The system releases those of a killed process, and the ledger knows its owners by their process.
"""

from __future__ import annotations

import contextvars
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed, Crashed, Running

from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from sifthinker.system.files import write_json
from sifthinker.system.processes import here, runs_here
from tasks.runtime import server_away, ui_artifacts
from tasks.runtime.following import reap
from tasks.runtime.server_away import BY_WORKER, ServerAway

BEAT = 5.0  # seconds
TOLD = 10.0  # seconds in which a server that is back hears of tasks that have ended
LEASE = 900.0  # seconds without a beat after which a run of another host counts as dead; clocks may differ
GOING = [StateType.PENDING, StateType.RUNNING, StateType.SCHEDULED, StateType.CANCELLING, StateType.PAUSED]
# Messages of the states in which the server closes a run that it does not hear of.
SILENT = "No heartbeat for 90 s: its process or its machine is gone, or stood still."
UNBEGUN = "It did not begin within 100 s: the process that should have started it is gone."
UNPLACED = (
    "Its pod did not begin within 45 min: no node takes it, its image is not there, or a volume is missing. See "
    "`kubectl -n sifthinker get pods` and `describe pod`, and delete its Job."
)
AGAIN = "AwaitingRetry"  # the state that Prefect gives a run of a Job on SIGTERM
# Events of ours: infra/lost_runs.py takes the first for the last sign of a run that is started again, infra/alert_triggers.py has
# an alert for the second, of a run whose stage waits for a pool without a worker.
TOLD_TO_END = "sifthinker.flow-run.told-to-end"
NO_WORKER = "sifthinker.flow-run.no-worker"


class RunCancelled(Exception):
    """Somebody cancelled this run on the server."""


@contextmanager
def alive(store: Store) -> Iterator[None]:
    """Sweeps, then says that this flow run lives for as long as the block runs.

    A run that no worker started is cancelled from here: Prefect only notes the wish on the server. A run that the
    server took for dead is set to Running again.

    The end of a run waits for a server that is away. One that does not come back hears of it from the next run, to which
    the file of this one is left.

    Raises:
        RunCancelled: that has happened.
        ServerAway: the server does not come back.
    """
    context = FlowRunContext.get()
    assert context and context.flow_run
    run = context.flow_run
    for swept in sweep(store):
        get_run_logger().warning("%s", swept)
    path = store.root / "alive" / f"{run.id}.json"
    said = {"id": str(run.id), "name": run.name, "process": here(os.getpid())}
    write_json(path, said)
    signs = _Signs()
    target = contextvars.copy_context().run
    thread = threading.Thread(target=target, args=(_beat, run, path, signs), daemon=True, name="alive")
    thread.start()
    heard = True
    try:
        yield
        server_away.wait()
        _tell(run.id, Completed)
        with get_client(sync_client=True) as client:
            state = _state(client, run.id)
            # The server would refuse any other end, and leave it so for ever.
            if state and state.type == StateType.CANCELLING:
                raise RunCancelled("cancelled on the server as its last stage ended")
    except ServerAway:
        heard = False
        raise
    except TerminationSignal:
        if BY_WORKER in os.environ:
            _tell_end(run)
        if not signs.cancelled.is_set():
            raise
        raise RunCancelled("cancelled on the server") from None
    except Exception:
        if heard := not server_away.stays_away():
            _tell(run.id, Crashed)
        raise
    finally:
        signs.done.set()
        with signs.ending:  # what is being said of it has been said
            pass
        if heard:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Signs:
    """What a run and the thread that beats for it tell each other."""

    done: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    ending: threading.Lock = field(default_factory=threading.Lock)  # nothing is said of a run that has ended


def _beat(run: FlowRun, path: Path, signs: _Signs) -> None:
    """Shows that a run lives until it is done, and ends it when somebody cancels it."""
    with server_away.at_once():  # the next beat asks again
        client = get_client(sync_client=True)
        while not signs.done.wait(BEAT):
            with suppress(OSError):  # a store that is away for a moment must not end the beating
                path.touch()
            state = _state(client, run.id)
            with signs.ending:
                if lost(state) and not signs.done.is_set():
                    _revive(client, run.id)
            if state and state.name == AGAIN:
                emit(TOLD_TO_END, run)
            if BY_WORKER not in os.environ and state and state.type == StateType.CANCELLING:
                signs.cancelled.set()
                os.kill(os.getpid(), signal.SIGTERM)
                return


def sweep(store: Store) -> list[str]:
    """Closes the runs of this store whose process is gone, and ends what they left running; what was done, in words."""
    done: list[str] = []
    programs = (file for name in ("pid", "node-*") for file in store.root.glob(f"*/*.work/{name}.json"))
    for file in programs:
        with suppress(FileNotFoundError):  # ended by itself meanwhile, or swept by another run
            left = _record(file, (), done)
            if left and runs_here(left) and not runs_here(left.get("owner", {})):
                reap(file)
                done.append(f"{file.parent.name}: the training processes of a killed run are ended")
    for file in sorted((store.root / "alive").glob("*.json")):
        with suppress(FileNotFoundError):
            said = _record(file, ("id", "name", "process"), done)
            if said and not _lives(file, said["process"]):
                done.append(_bury(store, said))
                file.unlink()
    return [line for line in done if line]


def _record(file: Path, fields: tuple[str, ...], done: list[str]) -> dict[str, Any]:
    """What a process wrote about itself; empty, and a line more in `done`, where that cannot be read.

    Such a file stops no run: nobody knows whose it is, so it is left, and every run says so.

    Raises:
        FileNotFoundError: it is gone.
    """
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        said, wrong = {}, str(error)
    else:
        wrong = "" if isinstance(said, dict) else "it is no mapping"
        wrong = wrong or ", ".join(f"it has no {field}" for field in fields if field not in said)
    if wrong:
        done.append(f"{file} cannot be read: {wrong}; delete it when no run of this store is under way")
        return {}
    return dict(said)


def _lives(file: Path, process: dict[str, Any]) -> bool:
    if here(os.getpid())["host"] == process["host"]:
        return runs_here(process)
    return time.time() - file.stat().st_mtime < LEASE


def _bury(store: Store, said: dict[str, Any]) -> str:
    """Closes a run whose process is gone, in the store's record and on the server; what was done.

    Raises:
        httpx.HTTPError: the server does not answer.
    """
    why = f"its process {said['process']['pid']} on {said['process']['host']} is gone"
    _close_record(store, said["id"])
    with get_client(sync_client=True) as client:
        state = close(client, UUID(said["id"]), why)
    return f"run {said['name']} ({said['id']}): {why}; it is {state} now" if state else ""


def close(client: SyncPrefectClient, run: UUID, why: str) -> str | None:
    """Ends a run and its tasks on the server; the state that it was given, None if it had ended.

    Raises:
        httpx.HTTPError: the server does not answer.
    """
    try:
        state = client.read_flow_run(run).state
    except ObjectNotFound:  # of another server, or deleted
        return None
    _end_tasks(client, run, lambda: Crashed(message=why))
    ui_artifacts.close(client, run, why)
    if state is None or state.is_final():
        return None
    final: State[Any] = Cancelled(message=why) if state.type == StateType.CANCELLING else Crashed(message=why)
    client.set_flow_run_state(run, final, force=True)
    return final.name


def _tell(run: UUID, final: Callable[..., State[Any]]) -> None:
    """Ends a run's tasks of whose end a server that was away has not heard: Prefect drops such events after some seconds.

    Args:
        run: at its end.
        final: makes the state of its tasks.
    """
    if not server_away.missed():
        return
    deadline = time.monotonic() + TOLD
    with get_client(sync_client=True) as client:
        while _going(client, run) and time.monotonic() < deadline:  # events that were kept arrive now
            time.sleep(1.0)
        _end_tasks(client, run, lambda: final(message="the server was away when it ended"))


def _going(client: SyncPrefectClient, run: UUID) -> list[TaskRun]:
    """Tasks of a run that the server believes to be under way: a page of them."""
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
    going = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=GOING)))
    return client.read_task_runs(flow_run_filter=of_run, task_run_filter=going)


def _end_tasks(client: SyncPrefectClient, run: UUID, final: Callable[[], State[Any]]) -> None:
    while tasks := _going(client, run):  # in pages
        for task in tasks:
            client.set_task_run_state(task.id, final(), force=True)


def _close_record(store: Store, run: str) -> None:
    """Marks the store's record of a run as crashed, for other machines too, unless the run has ended."""
    path = runs.file(store, run)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):  # whoever reads the records names a damaged one
        return
    if isinstance(record, dict) and record.get("state") == runs.RUNNING:
        # A remote that is away must not keep the next run from starting; that run sends the record when it can.
        with store.sharing(path, strict=False):
            write_json(path, {**record, "state": runs.CRASHED})


def lost(state: State[Any] | None) -> bool:
    """Whether the server closed a run because it did not hear of it. Such a run may still live."""
    return state is not None and state.is_crashed() and state.message in (SILENT, UNBEGUN, UNPLACED)


def _revive(client: SyncPrefectClient, run: UUID) -> None:
    with suppress(httpx.HTTPError, ObjectNotFound):  # tried again at the next beat
        client.set_flow_run_state(
            run, Running(message="It lives: the server had not heard of it."), force=True
        )


def _tell_end(run: FlowRun) -> None:
    """Says of a run that the server starts again that it ends.

    SIGTERM on Kubernetes (infra/run.py) sets the state first. The heartbeats go on until the run has ended, and each lets the
    server expect another: without this it would take a run that waits for a place for dead.
    """
    settings = {"timeout": server_away.ANSWER}
    with server_away.at_once(), get_client(sync_client=True, httpx_settings=settings) as client:
        state = _state(client, run.id)
    if state and state.name == AGAIN:
        emit(TOLD_TO_END, run)


def emit(event: str, run: FlowRun, payload: dict[str, str] | None = None) -> None:
    """Sends the server an event of a run, which automations know by the run's deployment."""
    related = [
        {
            "prefect.resource.id": f"prefect.deployment.{run.deployment_id}",
            "prefect.resource.role": "deployment",
        },
        {"prefect.resource.id": f"prefect.flow.{run.flow_id}", "prefect.resource.role": "flow"},
    ]
    resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name}
    emit_event(event=event, resource=resource, related=related, payload=payload or {})


def _state(client: SyncPrefectClient, run: UUID) -> State[Any] | None:
    """The state on the server; None where it cannot be asked."""
    try:
        return client.read_flow_run(run).state
    except ObjectNotFound:
        return None
    except httpx.HTTPError:  # asked again at the next beat
        server_away.note()
        return None
