"""Automations that close a run whose process is gone, so that it is not "Running" for ever and its slot is free.

A run sends a heartbeat every 30 seconds (PREFECT_FLOWS_HEARTBEAT_FREQUENCY in prefect.yaml). When none has arrived for
90 seconds, the server sets the run to Crashed. That frees the slot of its pool and of its deployment, and a run that
waits for it in another pool (tasks/runtime/placement.py) learns of it. A run that dies before its first heartbeat
is closed too, and so is one that never begins: whose worker died as it started it, or whose pod no node takes.

A run that lives and was silent, because the server was away or its machine stood still, says so within seconds
(tasks/runtime/liveness.py) and is Running again. A run that has ended keeps its state: the server refuses to crash it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from prefect.automations import AutomationCore, EventTrigger
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Posture

from tasks.runtime.liveness import SILENT, TOLD_TO_END, UNBEGUN, UNPLACED

NEVER_BEGAN, NO_POD = "a run never began", "a run's pod never began"
HEARTBEAT = "prefect.flow-run.heartbeat"
SILENCE = timedelta(seconds=90)  # three heartbeats; the server looks every five seconds
# From Pending to Running a process worker prepares the run and imports its flow: about ten seconds. On a busy machine it is
# minutes, and the worker sends heartbeats in the run's place (beginning.py).
START = timedelta(seconds=100)
# A pod waits for a node that has to be started, its volumes, and an image of some GB. Prefect's worker has no limit of its own:
# a pod that no node can take is Pending for ever.
POD_START = timedelta(minutes=45)
PENDING = "prefect.flow-run.Pending"
# States that end the waiting. A name that is missing here does no harm: nothing leaves a final state this way.
ENDS = (
    "Completed",
    "Failed",
    "UserError",
    "Crashed",
    "Cancelled",
    "TimedOut",
    "AwaitingRetry",
    "Paused",
    "Suspended",
)


def automations(
    deployments: Sequence[str], processes: Sequence[str], pods: Sequence[str]
) -> Iterator[AutomationCore]:
    """One for each way in which a run is lost.

    Args:
        deployments: whose runs are watched, as `prefect.deployment.<id>`
        processes: those of them that start on their worker's machine
        pods: those that start as a pod, which may wait long for a node
    """
    ends = {f"prefect.flow-run.{state}" for state in ENDS}
    began = {HEARTBEAT, "prefect.flow-run.Running"}
    # A run of a drained node sends heartbeats while it ends, after its AwaitingRetry: each asks for another sign. Its next start
    # is one, or its own word that it was told to end, where it waits for a place.
    again = {PENDING, "prefect.flow-run.InfrastructurePending", TOLD_TO_END}
    # After Running, too: a run may die in the seconds between that and its first heartbeat.
    yield _lost("a run fell silent", began, {HEARTBEAT, *ends, *again}, SILENCE, SILENT, deployments)
    # Pending is among what is expected, too: else a second start within the time of the first would not be watched.
    starts = {PENDING, *began, *ends}
    if processes:
        yield _lost(NEVER_BEGAN, {PENDING}, starts, START, UNBEGUN, processes)
    if pods:
        yield _lost(NO_POD, {PENDING}, starts, POD_START, UNPLACED, pods)


def _lost(
    name: str,
    after: set[str],
    expect: set[str],
    within: timedelta,
    message: str,
    deployments: Sequence[str],
) -> AutomationCore:
    return AutomationCore(
        name=name,
        description=f"Sets the run to Crashed: {message}",
        trigger=EventTrigger(
            after=after,
            expect=expect,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            # By id: a heartbeat does not carry the deployment's name.
            match_related={"prefect.resource.role": "deployment", "prefect.resource.id": list(deployments)},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )
