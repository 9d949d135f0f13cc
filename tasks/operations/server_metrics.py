"""What the Prefect server says of itself, for Prometheus: the part `server` of `sif metrics`.

The server sends the alerts of runs. Nobody hears of a server that is dead, or whose scheduler stands still, unless something else
asks it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterTags,
)
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL

from sifthinker.upkeep.metrics import Found
from tasks.operations.schedules import TAG, scheduled
from tasks.runtime import server_away

ANSWER = 3.0  # seconds that the server has for each answer; Prometheus waits 10 for all metrics
LATE = timedelta(minutes=1)  # a worker looks for runs every few seconds
# States of a run that no worker has taken. A night that waits for the night before it has another one.
UNTAKEN = ("Scheduled", "Late")


def read() -> Iterator[Found]:
    """Whether the server answers, the runs that are due, and the schedules of which it has made no runs.

    Raises:
        OSError: the server does not answer, or not as it should.
    """
    if not PREFECT_API_URL.value():  # Prefect's client would start a server of its own, which answers
        raise OSError("PREFECT_API_URL names no Prefect server")
    with server_away.at_once(), get_client(sync_client=True, httpx_settings={"timeout": ANSWER}) as client:
        up = _is_ready(client)
        yield "sif_server_up", (), float(up)
        if not up:
            raise OSError(f"no Prefect server is ready at {client.api_url}")
        try:
            found = [*_late(client), *_unscheduled(client)]
        except httpx.HTTPError as error:  # other credentials, or it went away meanwhile
            raise OSError(f"the Prefect server at {client.api_url}: {error!r}") from error
    yield from found


def _is_ready(client: SyncPrefectClient) -> bool:
    """Whether the server and its database answer. It is asked without credentials."""
    try:
        return client.request("GET", "/ready").is_success
    except httpx.HTTPError:
        return False


def _late(client: SyncPrefectClient) -> Iterator[Found]:
    now = datetime.now(UTC)
    due = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[TAG]),
        state=FlowRunFilterState(name=FlowRunFilterStateName(any_=list(UNTAKEN))),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=now - LATE),
    )
    yield "sif_server_late_runs", (), client.count_flow_runs(flow_run_filter=due)
    oldest = client.read_flow_runs(flow_run_filter=due, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=1)
    since = oldest[0].expected_start_time if oldest else None
    yield "sif_server_late_seconds", (), (now - since).total_seconds() if since else 0.0


def _unscheduled(client: SyncPrefectClient) -> Iterator[Found]:
    without = sum(one.standing == "without runs" for one in scheduled(client))
    yield "sif_server_unscheduled_deployments", (), without
