"""A stage that waits for a pool without a worker says so after a quarter of an hour, once, to whoever gets the alerts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import State, WorkerStatus
from prefect.states import Completed, Pending, Scheduled

from tasks.runtime import placement
from tasks.runtime.liveness import NO_WORKER

PARENT = uuid4()
POOLS = SimpleNamespace(wait=2.0, server_away=2.0)
ORDER = cast(Any, SimpleNamespace(label="evaluate", config=SimpleNamespace(pools=POOLS)))
MINUTE = 60.0


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, Any]]:
    """The events that are sent, with the time of a clock on which only the waits take time."""
    now, sent = [0.0], list[tuple[float, Any]]()
    monkeypatch.setattr(placement.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(placement.time, "sleep", lambda _: now.append(now.pop() + 1.0))
    monkeypatch.setattr(placement, "flow_run", SimpleNamespace(id=str(PARENT)))
    monkeypatch.setattr(placement, "emit", lambda *event: sent.append((now[0], event)))
    return sent


def waits(
    monkeypatch: pytest.MonkeyPatch,
    state: Callable[[float], State[Any]],
    online: Callable[[float], bool],
) -> State[Any] | None:
    """How the wait for a stage ends, by the state of its run and by whether its pool has a worker, at each second."""
    clock = placement.time.monotonic

    class Client:
        def read_flow_run(self, run: UUID) -> Any:
            return SimpleNamespace(id=run, state=state(clock()))

        def read_workers_for_work_pool(self, _: str) -> Any:
            status = WorkerStatus.ONLINE if online(clock()) else WorkerStatus.OFFLINE
            return [SimpleNamespace(status=status)]

    @contextmanager
    def fake(**_: Any) -> Iterator[Any]:
        yield Client()

    monkeypatch.setattr(placement, "get_client", fake)
    started = cast(Any, [SimpleNamespace(id=uuid4())])
    return placement._outcome(ORDER, "gpu-1", started, cast(Any, logging.getLogger(__name__)))[0]


def test_a_pool_without_a_worker_is_told_of_once_after_a_quarter_of_an_hour(
    monkeypatch: pytest.MonkeyPatch, told: list[tuple[float, Any]]
) -> None:
    assert waits(monkeypatch, lambda _: Scheduled(), lambda _: False) is None, "nobody came in two hours"
    [(at, (event, run, said))] = told
    assert 15 * MINUTE <= at <= 18 * MINUTE
    assert event == NO_WORKER and run.id == PARENT, "the run that people know, not that of the stage"
    assert said["message"] == (
        "evaluate waits for pool gpu-1: it has no worker; start one: make worker POOL=gpu-1"
    )


@pytest.mark.parametrize(
    ("state", "online"),
    [
        (lambda _: Scheduled(), lambda _: True),  # its worker has other runs
        (
            lambda _: Pending(),
            lambda _: False,
        ),  # it is taken; another alert tells of a run that does not begin
        (lambda _: Scheduled(), lambda now: now % (14 * MINUTE) > 3 * MINUTE),  # it comes back each time
        (lambda now: Scheduled() if now < 14 * MINUTE else Completed(), lambda _: False),
    ],
    ids=["busy", "taken", "restarts", "in time"],
)
def test_a_pool_whose_worker_is_there_or_comes_back_is_not_told_of(
    monkeypatch: pytest.MonkeyPatch,
    told: list[tuple[float, Any]],
    state: Callable[[float], State[Any]],
    online: Callable[[float], bool],
) -> None:
    waits(monkeypatch, state, online)
    assert not told


def test_a_stage_outside_of_a_run_tells_nobody(
    monkeypatch: pytest.MonkeyPatch, told: list[tuple[float, Any]]
) -> None:
    monkeypatch.setattr(placement, "flow_run", SimpleNamespace(id=None))
    assert waits(monkeypatch, lambda _: Scheduled(), lambda _: False) is None
    assert not told
