"""Signs of life of runs that have not begun: on an overloaded machine a run may need minutes to load its code.

A run sends heartbeats from its first second on. Before that the server hears nothing of it, and the automation
"a run never began" (lost_runs.py) would take it for dead. So the worker's first process sends heartbeats in its place, for
as long as the run's process is there and the server has not heard that it runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from uuid import UUID

import psutil

logger = logging.getLogger(__name__)
RUN = "PREFECT__FLOW_RUN_ID"  # in the environment of a run's processes
AFTER = 30.0  # seconds that a run takes to begin where nothing is wrong
UNTIL = 900.0  # seconds after which a run that has not begun hangs
LOOK = 20.0  # seconds between two looks; three fit into the silence that the server bears


def runs() -> dict[str, float]:
    """The flow runs that our descendants make, with the time at which the first process of each was started."""
    found: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if run := process.environ().get(RUN):
                found[run] = min(process.create_time(), found.get(run, float("inf")))
    return found


def due(started: Iterable[tuple[str, float]], now: float) -> Iterator[tuple[str, float]]:
    """Those of the runs that should have begun, and may still do so."""
    return ((run, since) for run, since in started if AFTER <= now - since <= UNTIL)


def watch(stop: threading.Event) -> None:
    """Sends the heartbeats until it is told to stop."""
    # Loaded before it is needed: where a run needs minutes to begin, so does this.
    from prefect.client.orchestration import get_client  # noqa: F401
    from prefect.events import emit_event  # noqa: F401

    begun: set[tuple[str, float]] = set()  # with its start: a Retry is the same run in another process
    while not stop.wait(LOOK):
        if waiting := set(due(runs().items(), time.time())) - begun:
            begun |= tell(waiting)


def tell(waiting: Collection[tuple[str, float]]) -> set[tuple[str, float]]:
    """Sends a heartbeat for each run that the server does not know to run; the others."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events import emit_event
    from prefect.exceptions import ObjectNotFound

    begun = set()
    for run, since in waiting:
        try:
            with get_client(sync_client=True) as client:
                found = client.read_flow_run(UUID(run))
        except ObjectNotFound:  # deleted
            begun.add((run, since))
        except httpx.HTTPError as error:
            logger.warning("run %s: whether it has begun is not known: %s", run, error)
        else:
            if found.state is None or found.state.type != StateType.PENDING:
                begun.add((run, since))
                continue
            deployment = f"prefect.deployment.{found.deployment_id}"
            emit_event(
                event="prefect.flow-run.heartbeat",
                resource={
                    "prefect.resource.id": f"prefect.flow-run.{run}",
                    "prefect.resource.name": found.name,
                },
                related=[{"prefect.resource.id": deployment, "prefect.resource.role": "deployment"}],
            )
            logger.info(
                "run %s: its process is there and has not begun after %.0f s", run, time.time() - since
            )
    return begun
