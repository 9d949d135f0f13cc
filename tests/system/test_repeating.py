"""Something that is done again and again while a block runs."""

from __future__ import annotations

import contextvars
import threading

import pytest

from sifthinker.system.repeating import repeated

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME")


def test_it_is_done_until_the_block_ends_in_the_context_of_the_block() -> None:
    NAME.set("a run")
    seen: list[str] = []
    thrice = threading.Event()

    def action() -> None:
        seen.append(NAME.get())
        if len(seen) == 3:
            thrice.set()

    before = threading.active_count()
    with pytest.raises(KeyError, match="of the block"), repeated(action, lambda: 0.001):
        assert thrice.wait(30)
        raise KeyError("of the block")
    count = len(seen)
    assert set(seen) == {"a run"} and count >= 3
    assert threading.active_count() == before  # nothing is done after the block
    assert len(seen) == count


def test_how_long_is_waited_is_asked_each_time_and_nothing_is_done_at_once() -> None:
    waits = iter([0.001, 600.0])
    twice, seen = threading.Event(), []

    def every() -> float:
        wait = next(waits)
        if wait == 600.0:
            twice.set()
        return wait

    with repeated(lambda: seen.append(1), every):
        assert twice.wait(30)
    assert seen == [1]
