"""A run that waits for a stage in a pool: it believes the server that the stage is lost, unless the stage says that it lives."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import State
from prefect.states import Completed, Crashed, Running

from tasks.runtime import placement, server_away
from tasks.runtime.liveness import SILENT, UNBEGUN, UNPLACED, lost

POOLS = SimpleNamespace(wait=1.0, server_away=2.0)
ORDER = cast(Any, SimpleNamespace(label="sft", config=SimpleNamespace(pools=POOLS)))


def outcome(monkeypatch: pytest.MonkeyPatch, told: Iterator[State[Any] | None]) -> State[Any] | None:
    """How the wait for a run ends whose states the server tells one after the other; None: it does not answer."""

    def read(_: Any) -> Any:
        if (state := next(told)) is None:
            raise httpx.ConnectError("refused")
        return SimpleNamespace(state=state)

    client = SimpleNamespace(read_flow_run=read)

    @contextmanager
    def fake(**_: Any) -> Iterator[Any]:
        yield client

    monkeypatch.setattr(placement, "get_client", fake)
    monkeypatch.setattr(placement, "EVERY", 0.01)
    monkeypatch.setattr(placement, "REVIVES", 0.1)
    started = cast(Any, [SimpleNamespace(id=uuid4())])
    ended, _ = placement._outcome(ORDER, "gpu-8", started, cast(Any, logging.getLogger(__name__)))
    return ended


def forever(*first: State[Any] | None) -> Iterator[State[Any] | None]:
    yield from first
    while True:
        yield first[-1]


@pytest.mark.parametrize("message", [SILENT, UNBEGUN, UNPLACED])
def test_a_stage_that_lives_is_waited_for_although_it_was_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    told = forever(
        Running(), Crashed(message=message), Running(), Crashed(message=message), Running(), Completed()
    )
    ended = outcome(monkeypatch, told)
    assert ended and ended.is_completed()


@pytest.mark.parametrize("message", [SILENT, UNBEGUN, UNPLACED, "Its worker on a was stopped."])
def test_a_stage_that_is_gone_ends_the_wait(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    ended = outcome(monkeypatch, forever(Running(), Crashed(message=message)))
    assert ended and ended.is_crashed() and ended.message == message


def test_only_what_the_server_could_not_hear_may_still_live() -> None:
    assert lost(Crashed(message=SILENT)) and lost(Crashed(message=UNBEGUN))
    assert (
        not lost(Crashed(message="Its worker on a was stopped.")) and not lost(Completed()) and not lost(None)
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock on which only the waits take time."""
    now = [0.0]
    monkeypatch.setattr(placement.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(placement.time, "sleep", lambda _: now.append(now.pop() + 1.0))
    return now


def test_a_server_that_goes_away_is_told_of_at_once_and_every_minute_until_the_configured_end(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(server_away.ServerAway, match=r"sft: the Prefect server at .* does not answer") as end:
        outcome(monkeypatch, forever(Running(), None))
    assert clock[0] == 1 + POOLS.server_away * 60
    assert "pool gpu-8 may still be at work" in str(end.value) and "run again" in str(end.value)
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == 2, "at once, and a minute later"
    assert "does not answer: ConnectError: refused; the stage goes on in pool gpu-8" in said[0]
    assert "for 2 min at most (pools.server_away), then it fails" in said[0] and "for 1 min" in said[1]


def test_a_server_that_comes_back_has_its_whole_time_again(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    away: list[State[Any] | None] = [None] * 100
    ended = outcome(monkeypatch, iter([Running(), *away, Running(), *away, Completed()]))
    assert ended and ended.is_completed()
    assert [r.getMessage() for r in caplog.records].count("sft: the Prefect server answers again") == 2


def test_the_stage_is_left_at_work_where_the_server_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: list[Any] = []
    gave_up: list[bool] = []
    away = server_away.ServerAway("gone")

    def never(*_: Any) -> None:
        raise away

    monkeypatch.setattr(placement, "get_client", lambda **_: nullcontext())
    monkeypatch.setattr(placement, "no_room", lambda *_: "")
    monkeypatch.setattr(placement, "nodes", lambda *_: 1)
    monkeypatch.setattr(placement, "_start", lambda *_: SimpleNamespace(id=uuid4()))
    monkeypatch.setattr(placement, "_outcome", never)
    monkeypatch.setattr(placement, "cancel", lambda *args: cancelled.append(args))
    monkeypatch.setattr(server_away, "give_up", lambda: gave_up.append(True))
    order = cast(Any, SimpleNamespace(label="sft", config=ORDER.config, stage=SimpleNamespace(name="sft")))
    with pytest.raises(server_away.ServerAway):
        placement.elsewhere(order, "gpu-8", cast(Any, None), logging.getLogger(__name__))
    assert gave_up and not cancelled
