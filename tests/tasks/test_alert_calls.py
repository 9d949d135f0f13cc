"""`sif doctor`, its line `alerts`: calls of the webhook that Prefect counts as done and that nobody received."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.events import Event, Resource

from sifthinker.upkeep.findings import Finding
from tasks.operations import alert_calls
from tasks.operations.alert_calls import CALL, DONE, FAILED

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def call(event: str, hours: float, **payload: Any) -> Any:
    resource = Resource({"prefect.resource.id": "prefect.automation.1"})
    said = {"action_type": CALL, **payload}
    return Event(event=event, occurred=NOW - timedelta(hours=hours), resource=resource, payload=said)


GOOD = call(DONE, 1, status_code=200)
ACCEPTED = call(DONE, 2, status_code=204)
REFUSED = call(DONE, 3, status_code=404)
AWAY = call(FAILED, 0.5, reason="Webhook call failed: ConnectError('...')")
OTHER = call(FAILED, 0.1, reason="the run is gone", action_type="change-flow-run-state")


@pytest.mark.parametrize(
    ("calls", "verdict", "says"),
    [
        ([], "ok", "0 in 7 days"),  # nothing went wrong
        ([GOOD, ACCEPTED], "ok", "2 in 7 days, all taken"),
        ([REFUSED], "error", "1 of 1 in 7 days did not arrive, the last at 2026-03-01 09:00 UTC: the webhook answered 404"),
        ([AWAY, GOOD], "error", "ConnectError"),
        ([GOOD, REFUSED], "warning", "1 of 2"),  # it takes them again
        ([OTHER, GOOD], "ok", "1 in 7 days"),  # of another kind of action
    ],
)  # fmt: skip
def test_a_call_that_was_refused_or_not_answered_is_told_of(
    calls: Sequence[Event], verdict: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = SimpleNamespace(type=CALL)
    found = look(monkeypatch, calls, [SimpleNamespace(enabled=True, actions=[action])])
    assert (found.check, found.verdict) == ("alerts", verdict) and says in found.found
    assert ("SIF_ALERT_TEST=always make deploy" in found.todo) == (verdict != "ok")


@pytest.mark.parametrize(
    "automation",
    [
        SimpleNamespace(enabled=False, actions=[SimpleNamespace(type=CALL)]),
        SimpleNamespace(enabled=True, actions=[SimpleNamespace(type="change-flow-run-state")]),
    ],
)
def test_a_server_without_a_webhook_is_warned_of(automation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(monkeypatch, [], [automation])
    assert found.verdict == "warning" and "nobody is told" in found.found and "SIF_ALERT_URL" in found.todo


def look(monkeypatch: pytest.MonkeyPatch, calls: Sequence[Event], automations: Sequence[Any]) -> Finding:
    class Client:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...

        def read_automations(self) -> Sequence[Any]:
            return automations

        def read_events(self, *_: Any, limit: int) -> Any:
            assert limit <= 50, "the server refuses more"
            return SimpleNamespace(events=calls[:1], next_page="http://next" if calls[1:] else None)

        def read_events_page(self, _: str) -> Any:
            return SimpleNamespace(events=calls[1:], next_page=None)

    monkeypatch.setattr(alert_calls, "get_client", lambda **_: Client())
    [found] = alert_calls.alerts()
    return found
