"""Prefect's own evaluation of triggers, fed with events of a run at times of our choosing: what an automation answers, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from prefect.automations import AutomationCore
from prefect.server.database import provide_database_interface
from prefect.server.events import triggers
from prefect.server.events.schemas.automations import Automation, Firing, Posture
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings

DEPLOYMENT = f"prefect.deployment.{uuid4()}"
STEP = 5.0  # seconds between two looks of the server
START = datetime(2026, 3, 1, tzinfo=UTC)
Happening = tuple[float, str]  # seconds after START, and the event's name without "prefect.flow-run."


def fired(
    automation: AutomationCore, runs: Mapping[str, Sequence[Happening]], until: float
) -> dict[str, list[float]]:
    """The seconds at which an automation answers the events of runs, by the runs' names.

    Args:
        automation: what is registered; the events are of DEPLOYMENT
        runs: the events of each, in their order
        until: when the server has its last look; it looks every five seconds
    """
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: "sqlite+aiosqlite:///:memory:"}):
        return asyncio.run(_fired(automation, runs, until))


async def _fired(
    automation: AutomationCore, runs: Mapping[str, Sequence[Happening]], until: float
) -> dict[str, list[float]]:
    of = Automation.model_validate(
        {**automation.model_dump(mode="json"), "id": str(uuid4()), "actions": [{"type": "do-nothing"}]}
    )
    [trigger] = of.triggers_of_type(triggers.EventTrigger)
    at: dict[str, list[float]] = {name: [] for name in runs}
    names = {f"prefect.flow-run.{uuid4()}": name for name in runs}
    now = 0.0

    async def act(firing: Firing) -> None:
        at[names[firing.triggering_labels["prefect.resource.id"]]].append(now)

    database = provide_database_interface()
    tables = [table.__table__ for table in (database.Automation, database.AutomationBucket)]
    async with (
        await database.engine()
    ).begin() as connection:  # not `create_db`: its migrations take ten seconds
        await connection.run_sync(database.Base.metadata.create_all, tables=tables)
    waiting = sorted((at, run, event) for run, name in names.items() for at, event in runs[name])
    again = _time(0)  # as the server: not before a trigger's next bucket ends
    with _loaded(of), patch.object(triggers, "act", act):
        async with database.session_context(begin_transaction=True) as session:
            session.add(_row(database, of))
        while now <= until:
            while waiting and waiting[0][0] <= now:
                seconds, run, event = waiting.pop(0)
                await triggers.reactive_evaluation(_event(run, seconds, event))
            if trigger.posture == Posture.Proactive and _time(now) >= again:
                again = await triggers.proactive_evaluation(trigger, _time(now))
            now += STEP
    return at


@contextmanager
def _loaded(automation: Automation) -> Iterator[None]:
    """The server's clock stands: the times are those of the events, and of the looks."""

    async def still() -> float:
        return 0.0

    triggers.load_automation(automation)
    try:
        with patch.object(triggers, "get_events_clock_offset", still):
            yield
    finally:
        triggers.forget_automation(automation.id)


def _row(database: Any, automation: Automation) -> Any:
    fields = automation.model_dump(mode="json", exclude={"id", "created", "updated"})
    return database.Automation(id=automation.id, **fields)


def _time(seconds: float) -> Any:
    return START + timedelta(seconds=seconds)


def _event(run: str, seconds: float, name: str) -> ReceivedEvent:
    return ReceivedEvent.model_validate(
        {
            "id": uuid4(),
            "occurred": _time(seconds),
            "received": _time(seconds),
            "event": name if "." in name else f"prefect.flow-run.{name}",
            "resource": {"prefect.resource.id": run},
            "related": [{"prefect.resource.id": DEPLOYMENT, "prefect.resource.role": "deployment"}],
        }
    )
