"""A run that waits for a stage in a pool: it believes the server that the stage is lost, unless the stage says that it lives."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Completed, Crashed, Running

from tasks.runtime import placement
from tasks.runtime.liveness import SILENT, UNBEGUN, lost

ORDER = cast(Any, SimpleNamespace(label="sft", config=SimpleNamespace(pools=SimpleNamespace(wait=1.0))))


def outcome(monkeypatch: pytest.MonkeyPatch, told: Iterator[State[Any]]) -> State[Any] | None:
    """How the wait for a run ends whose states the server tells one after the other."""
    client = SimpleNamespace(read_flow_run=lambda _: SimpleNamespace(state=next(told)))

    @contextmanager
    def fake(**_: Any) -> Iterator[Any]:
        yield client

    monkeypatch.setattr(placement, "get_client", fake)
    monkeypatch.setattr(placement, "EVERY", 0.01)
    monkeypatch.setattr(placement, "REVIVES", 0.1)
    started = cast(Any, [SimpleNamespace(id=uuid4())])
    return placement._outcome(ORDER, "gpu-8", started, cast(Any, logging.getLogger(__name__)))


def forever(*first: State[Any]) -> Iterator[State[Any]]:
    yield from first
    while True:
        yield first[-1]


@pytest.mark.parametrize("message", [SILENT, UNBEGUN])
def test_a_stage_that_lives_is_waited_for_although_it_was_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    told = forever(
        Running(), Crashed(message=message), Running(), Crashed(message=message), Running(), Completed()
    )
    ended = outcome(monkeypatch, told)
    assert ended and ended.is_completed()


@pytest.mark.parametrize("message", [SILENT, UNBEGUN, "Its worker on a was stopped."])
def test_a_stage_that_is_gone_ends_the_wait(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    ended = outcome(monkeypatch, forever(Running(), Crashed(message=message)))
    assert ended and ended.is_crashed() and ended.message == message


def test_only_what_the_server_could_not_hear_may_still_live() -> None:
    assert lost(Crashed(message=SILENT)) and lost(Crashed(message=UNBEGUN))
    assert (
        not lost(Crashed(message="Its worker on a was stopped.")) and not lost(Completed()) and not lost(None)
    )
