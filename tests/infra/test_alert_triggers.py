"""When people are told of a night that does not end: by Prefect's own evaluation, events in, hours out."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from uuid import uuid4

import pytest
from prefect.automations import AutomationCore
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.utilities.user_templates import render_user_template, validate_user_template

from infra import alert_triggers, alerts
from sifthinker.core.errors import UserError
from tests.infra.evaluation import DEPLOYMENT, START, fired

MINUTE, HOUR = 60.0, 3600.0


def test_a_night_that_waits_or_stands_still_is_told_of_and_one_that_ends_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(alert_triggers.HOURS, "1")
    [night] = [a for a in alert_triggers.alerts([], [DEPLOYMENT]) if a.name == "a night does not end"]
    begins = [(0.0, "Pending"), (10.0, "Running")]
    runs = {
        "good": [*begins, (50 * MINUTE, "Completed")],
        "regressed": [*begins, (50 * MINUTE, "Regressed")],
        "cancelled": [*begins, (50 * MINUTE, "Cancelled")],
        "stands still": begins,
        "waits for the night before": [(t * MINUTE, "AwaitingConcurrencySlot") for t in range(0, 70, 5)],
        "no worker": [(15.0, "Late")],
        "waited, and is good": [(15.0, "Late"), (40 * MINUTE, "Pending"), (41 * MINUTE, "Running"), (90 * MINUTE, "Completed")],
        "tried again, stands still": [*begins, (30 * MINUTE, "Crashed"), (40 * MINUTE, "Pending"), (41 * MINUTE, "Running")],
    }  # fmt: skip
    told = {
        "stands still": [HOUR + 10],
        "waits for the night before": [HOUR],
        "no worker": [HOUR + 15],
        "tried again, stands still": [HOUR + 41 * MINUTE],
    }
    automation = AutomationCore(name=night.name, trigger=night.trigger, actions=[{"type": "do-nothing"}])
    found = fired(automation, runs, 1.9 * HOUR)
    assert found == {name: told.get(name, []) for name in runs}
    assert "1 h and has not ended" in night.said


@pytest.mark.parametrize("shape", sorted(alerts.FORMATS))
def test_every_message_can_be_rendered_by_the_server_and_says_what_happened(shape: str) -> None:
    """In its sandbox, as it does for an event; the message of a stage without a worker comes with the event."""
    state = SimpleNamespace(name="Running", message="at work")
    run = {
        "id": 1,
        "name": "calm",
        "state": state,
        "expected_start_time": "",
        "work_pool_name": "cpu",
        "infrastructure_pid": "",
    }
    happened = {"message": "evaluate waits for pool gpu-1", "pool": "gpu-1"}
    event = ReceivedEvent.model_validate(
        {
            "id": uuid4(),
            "occurred": START,
            "received": START,
            "event": "e",
            "resource": {"prefect.resource.id": "r"},
            "payload": happened,
        }
    )
    context = {
        "deployment": SimpleNamespace(name="nightly"),
        "flow": SimpleNamespace(name="nightly"),
        "flow_run": SimpleNamespace(**run),
    }
    says = {
        "a stage has no worker": "evaluate waits for pool gpu-1",
        "a night does not end": "has not ended: it stands still",
    }
    for alert in alert_triggers.alerts([], []):
        template = alerts.payload(shape, alert.outcome, "http://127.0.0.1/", alert.said)
        validate_user_template(template)
        body = json.loads(asyncio.run(render_user_template(template, {**context, "event": event})))
        assert says.get(alert.name, "at work") in body["text"], alert.name


def test_a_night_has_half_a_day_unless_it_is_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(alert_triggers.HOURS, raising=False)
    assert alert_triggers.hours() == 12.0
    monkeypatch.setenv(alert_triggers.HOURS, "")  # compose: not set
    assert alert_triggers.hours() == 12.0
    monkeypatch.setenv(alert_triggers.HOURS, "7.5")
    assert alert_triggers.hours() == 7.5


@pytest.mark.parametrize("said", ["0", "-1", "nan", "inf", "12h"])
def test_what_is_no_number_of_hours_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(alert_triggers.HOURS, said)
    with pytest.raises(UserError, match=f"SIF_ALERT_NIGHT_HOURS: '{said}' is no number of hours above 0"):
        list(alert_triggers.alerts([], []))
