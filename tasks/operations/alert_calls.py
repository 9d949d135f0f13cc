"""Whether the alerts of the last days arrived: the part of `sif doctor` that asks the Prefect server.

Prefect counts a webhook's call as done whatever its answer's status is, and does not call again. What it knows of a call is in
its events, for seven days.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter

from sifthinker.upkeep.findings import Finding

DONE = "prefect.automation.action.executed"
FAILED = "prefect.automation.action.failed"
CALL = "call-webhook"
DAYS = 7  # as long as Prefect's server keeps its events
PAGE, PAGES = 50, 10  # the most events that the server answers with at once, and how often it is asked
SHOWN = 200  # characters of a reason
TODO = (
    "see that the address is the webhook's and that the server's machine reaches it without a proxy, set SIF_ALERT_URL, and run "
    "`SIF_ALERT_TEST=always make deploy`, which sends a test message. Look in the UI for what was not told"
)


def alerts() -> Iterator[Finding]:
    """Whether an automation calls a webhook, and how the webhook answered."""
    now = datetime.now(UTC)
    wanted = EventFilter(
        event=EventNameFilter(name=[DONE, FAILED]),
        occurred=EventOccurredFilter(since=now - timedelta(days=DAYS), until=now),
    )
    with get_client(sync_client=True) as client:
        automations = client.read_automations()
        page = client.read_events(wanted, limit=PAGE)
        events: list[Event] = [*page.events]
        for _ in range(PAGES - 1):
            if not page.next_page:
                break
            page = client.read_events_page(str(page.next_page))
            events.extend(page.events)
    calling = [
        one for one in automations if one.enabled and any(action.type == CALL for action in one.actions)
    ]
    if not calling:
        todo = "set SIF_ALERT_URL to the address of a webhook, and run `make deploy`"
        yield Finding(
            "alerts", "warning", "no webhook is registered: nobody is told of runs that go wrong", todo
        )
        return
    yield told([event for event in events if event.payload.get("action_type") == CALL])


def told(calls: Sequence[Event]) -> Finding:
    """What became of the calls of a webhook, the latest first."""
    lost = [call for call in calls if wrong(call)]
    if not lost:
        return Finding("alerts", "ok", f"{len(calls)} in {DAYS} days, all taken by the webhook")
    found = f"{len(lost)} of {len(calls)} in {DAYS} days did not arrive, the last at {lost[0].occurred:%Y-%m-%d %H:%M} UTC: "
    latest = lost[0] is calls[0]  # else the webhook has taken others since
    return Finding("alerts", "error" if latest else "warning", found + wrong(lost[0]), TODO)


def wrong(call: Event) -> str:
    """Why a call did not arrive; empty where it did."""
    if call.event == FAILED:
        return str(call.payload.get("reason", "it failed"))[:SHOWN]
    status = call.payload.get("status_code")
    if isinstance(status, int) and not 200 <= status < 300:
        return f"the webhook answered {status}"
    return ""
