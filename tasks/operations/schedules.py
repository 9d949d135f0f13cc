"""The schedules of the server's deployments: whether the server has made the runs that they ask for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort

TAG = "auto-scheduled"  # Prefect's, of runs that a schedule made
# After this time a new or changed schedule has runs: the scheduler looks every minute.
SETTLES = timedelta(minutes=2)


@dataclass(frozen=True)
class Scheduled:
    """A deployment that has schedules and is not paused.

    Attributes:
        deployment: its name.
        standing: "off" where none of its schedules is active, "new" where one has just been made.
        begins: when its next run begins.
    """

    deployment: str
    standing: Literal["well", "without runs", "new", "off"]
    begins: datetime | None = None


def scheduled(client: SyncPrefectClient) -> Iterator[Scheduled]:
    """All deployments with schedules that are not paused.

    A scheduler at work has made at least three runs of each ahead of time, and those of the next 100 days at most.
    """
    now = datetime.now(UTC)
    for deployment in client.read_deployments():
        if not deployment.schedules or deployment.paused:
            continue
        active = [schedule for schedule in deployment.schedules if schedule.active]
        if not active:
            yield Scheduled(deployment.name, "off")
        elif (begins := _next(client, deployment, now)) is not None:
            yield Scheduled(deployment.name, "well", begins)
        elif any(schedule.updated and now - schedule.updated < SETTLES for schedule in active):
            yield Scheduled(deployment.name, "new")
        else:
            yield Scheduled(deployment.name, "without runs")


def _next(client: SyncPrefectClient, deployment: DeploymentResponse, now: datetime) -> datetime | None:
    """When the first run begins that the server has made for a deployment's schedule."""
    ahead = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[TAG]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime(after_=now),
    )
    found = client.read_flow_runs(
        flow_run_filter=ahead,
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=1,
    )
    return found[0].expected_start_time if found else None
