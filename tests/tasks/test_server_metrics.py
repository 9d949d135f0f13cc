"""What `sif metrics` says of the Prefect server, alive and dead."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running, Scheduled
from prometheus_client import CollectorRegistry, generate_latest

from sifthinker.store.artifacts import Store
from sifthinker.upkeep import metrics
from tasks.operations import server_metrics
from tasks.operations.schedules import TAG


def told() -> dict[str, float]:
    return {name: value for name, _, value in server_metrics.read()}


@pytest.mark.usefixtures("prefect_server")
def test_a_server_that_answers_says_which_scheduled_runs_no_worker_has_taken() -> None:
    before = told()
    assert before["sif_server_up"] == 1
    assert set(before) == {name for name in metrics.FAMILIES if name.startswith("sif_server_")}
    due = Scheduled(scheduled_time=datetime.now(UTC) - timedelta(hours=2))
    soon = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(hours=2))
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("nightly")
        deployment = client.create_deployment(flow_id=flow, name="of-metrics")
        runs = [
            client.create_flow_run_from_deployment(deployment, state=state, tags=tags)
            for state, tags in (
                (due, [TAG]),
                (soon, [TAG]),
                (due, []),
            )  # the last is a stage that waits in a pool
        ]
        late = told()
        client.set_flow_run_state(runs[0].id, Running(), force=True)
        taken = told()
        client.delete_deployment(deployment)
    assert late["sif_server_late_runs"] == before["sif_server_late_runs"] + 1
    assert late["sif_server_late_seconds"] == pytest.approx(7200, abs=60)
    assert taken["sif_server_late_runs"] == before["sif_server_late_runs"]


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and answers nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/api"


@pytest.fixture
def gone() -> str:
    """An address at which nothing listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}/api"


@pytest.mark.parametrize("state", ["gone", "silent"])
def test_a_dead_server_is_told_of_within_seconds_and_the_store_is_served(
    state: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    registry = CollectorRegistry()
    registry.register(metrics.StoreCollector(Store(tmp_path), {"server": server_metrics.read}))
    with temporary_settings({PREFECT_API_URL: request.getfixturevalue(state)}):
        began = time.monotonic()
        text = generate_latest(registry).decode()
    assert time.monotonic() - began < 3 * server_metrics.ANSWER  # Prometheus waits for 10 s
    assert "\nsif_server_up 0.0" in text and 'sif_part_readable{part="server"} 0.0' in text
    assert 'sif_part_readable{part="runs"} 1.0' in text and "\nsif_server_late_runs" not in text


def test_a_server_that_refuses_the_credentials_is_up_and_its_part_is_not_readable(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        response = httpx.Response(401, request=httpx.Request("POST", prefect_server))
        raise httpx.HTTPStatusError("401 Unauthorized", request=response.request, response=response)

    monkeypatch.setattr(server_metrics, "_late", refused)
    found = server_metrics.read()
    assert next(found) == ("sif_server_up", (), 1.0)
    with pytest.raises(OSError, match="401"):
        next(found)


def test_a_look_starts_no_server_where_none_is_named() -> None:
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(OSError, match="names no Prefect server"),
    ):
        list(server_metrics.read())
