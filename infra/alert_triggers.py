"""When people are told of a run (alerts.py sends the messages): it went wrong, is late, has no worker, does not end, is well again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from prefect.automations import EventTrigger
from prefect.events.schemas.automations import Posture

from sifthinker.core.errors import UserError
from tasks.runtime.liveness import NO_WORKER

SCHEDULED = "prefect.tag.auto-scheduled"  # Prefect's tag of runs that a schedule made
# Names of states. From Regressed on they are flows/nightly.py's own; their messages say what fell and by how much.
# Skipped: the night evaluated nothing, which nobody would hear of otherwise where it waited for the night before it.
# UserError: a mistake of the user's ended it (tasks/runtime/end_states.py).
WRONG = (
    *("Failed", "UserError", "Crashed", "TimedOut"),
    *("Regressed", "NotRun", "Inconclusive", "Warned", "Skipped"),
)
WELL = ("Completed",)
REMEMBERED = timedelta(days=30)  # how long after a run went wrong the next good one is told of
WENT_WRONG = "a run went wrong"
# How Prefect begins what it says of a run that it cancels by itself: another run took its place while it waited for a machine.
PLACE_LOST = "Deployment concurrency slot lost"
HOURS = "SIF_ALERT_NIGHT_HOURS"
HALF_A_DAY = (
    12.0  # before the next night is due; a night that waits for one that hangs would never be told of
)
SAID = 'flow_run.state.message or ""'  # a Jinja expression, as all that is rendered by the server


@dataclass(frozen=True)
class Alert:
    """One way in which a run is told of.

    Attributes:
        name: of its automation.
        outcome: a Jinja expression for what happened.
        trigger: when.
        said: a Jinja expression for what is said of it.
    """

    name: str
    outcome: str
    trigger: EventTrigger
    said: str = SAID


def alerts(deployments: Sequence[str], nights: Sequence[str]) -> Iterator[Alert]:
    """All of them.

    Args:
        deployments: whose runs are told of, as `prefect.deployment.<id>`
        nights: those of them that have to end before the next one is due

    Raises:
        UserError: SIF_ALERT_NIGHT_HOURS is no number of hours.
    """
    of_ours = {"prefect.resource.role": "deployment", "prefect.resource.id": list(deployments)}
    by_schedule = {"prefect.resource.role": "tag", "prefect.resource.id": SCHEDULED}
    each_run = {"prefect.resource.id"}
    yield Alert(WENT_WRONG, "flow_run.state.name", _at_once(_states(*WRONG), [of_ours], each_run))
    lost = _at_once(_states("Cancelled"), [of_ours], each_run, {"prefect.state-message": f"{PLACE_LOST}*"})
    yield Alert("a run lost its place", '"Cancelled: another run took its place"', lost)
    late = _at_once(_states("Late"), [of_ours, by_schedule], each_run)
    yield Alert("a scheduled run did not start", '"Late: no worker took it"', late)
    unserved = _at_once({NO_WORKER}, [of_ours], each_run)
    yield Alert(
        "a stage has no worker", '"Waits: no worker takes its stage"', unserved, "event.payload.message"
    )
    yield _unended(nights)
    recovered = EventTrigger(
        after=_states(*WRONG),
        expect=_states(*WELL),
        match_related=of_ours,
        for_each={"related:deployment:prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=REMEMBERED,
    )
    yield Alert("a deployment recovered", '"Recovered"', recovered)


def _unended(nights: Sequence[str]) -> Alert:
    """A night that waits or works for longer than a night should, whatever the reason."""
    wanted = hours()
    started = _states("Pending", "Running")
    trigger = EventTrigger(
        after=started | _states("Late", "AwaitingConcurrencySlot"),
        # A start is among what is expected, too: the time begins anew with it, as for a Retry.
        expect=started | _states(*WRONG, *WELL, "Cancelled"),
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "deployment", "prefect.resource.id": list(nights)},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(hours=wanted),
    )
    said = f"It has been due or under way for {wanted:g} h and has not ended: it stands still, or waits for a worker or a place"
    return Alert("a night does not end", '"Not ended"', trigger, f'"{said}"')


def hours() -> float:
    """Hours within which a night has to end, as SIF_ALERT_NIGHT_HOURS says.

    Raises:
        UserError: it is no number above 0.
    """
    said = os.environ.get(HOURS) or str(HALF_A_DAY)
    try:
        wanted = float(said)
    except ValueError:
        wanted = 0.0
    if not 0 < wanted < float("inf"):
        raise UserError(f"{HOURS}: {said!r} is no number of hours above 0")
    return wanted


def _states(*names: str) -> set[str]:
    return {f"prefect.flow-run.{name}" for name in names}


def _at_once(
    events: set[str], related: list[dict[str, object]], each: set[str], match: Mapping[str, str] = {}
) -> EventTrigger:
    return EventTrigger.model_validate(
        {
            "expect": events,
            "match": dict(match),
            "match_related": related,
            "for_each": each,
            "posture": Posture.Reactive,
            "threshold": 1,
        }
    )
