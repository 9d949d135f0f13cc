"""Processes that share a loaded model; requests, several at once, go to whichever is free.

Without a GPU there is one a core. They are forked, so that the model is in memory once. A server that let each process
take connections of its own would leave some idle: connections stay with the process that took them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Protocol

from sifthinker.system import processes

logger = logging.getLogger(__name__)

_LOOK = 0.2  # seconds between two looks whether the client has gone
_GLANCE = 0.05  # the same in the process that makes the reply


class Flag(Protocol):
    """Says whether whoever asked has gone."""

    def is_set(self) -> bool:
        """Whether it is so."""


Say = Callable[[str], None]
# What is asked, whether each is still wanted, and who hears the pieces of the only one. It gives a value, or an error, for each.
Make = Callable[[Sequence[Any], Sequence[Flag], Say | None], list[Any]]


class Failed(Exception):
    """A process failed at a request; its log has the traceback."""


def outcomes(count: int, make: Callable[..., list[Any]], *given: Any) -> list[Any]:
    """What `make` gives for so many requests, or its error for each: whoever asked has it, and the process goes on."""
    try:
        return make(*given)
    except Exception as error:  # noqa: BLE001 - handed to each of those who wait
        return [error] * count


class Workers:
    """So many forked processes that do what `make` does. What is asked, said and given must be picklable."""

    def __init__(self, make: Make, count: int, expected: tuple[type[Exception], ...]) -> None:
        """Forks them; call it before this process starts threads.

        Args:
            make: answers requests.
            count: of processes.
            expected: errors that come back as they are; of any other, `Failed` says what it was.
        """
        self._free: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        self._alive = count
        parent = os.getpid()
        here: list[Connection] = []
        for _ in range(count):
            ours, theirs = Pipe()
            if os.fork() == 0:
                for other in (*here, ours):
                    other.close()
                _work(theirs, parent, make, expected)
            theirs.close()
            here.append(ours)
            self._free.put(ours)

    def __call__(self, asked: Sequence[Any], gone: Sequence[Flag], say: Say | None) -> list[Any]:
        """What `make` gives in one of them; waits until one is free. From any thread.

        Raises:
            Failed: the process has ended.
        """
        worker = self._free.get()
        if worker is None:
            self._free.put(None)  # for the next one who asks
            raise Failed("every process of the server has ended: start it again")
        try:
            made = _asked(worker, asked, gone, say)
        except (EOFError, ConnectionError, BrokenPipeError) as error:
            self._alive -= 1
            if not self._alive:
                self._free.put(None)
            raise Failed("a process of the server has ended, killed for its memory perhaps") from error
        self._free.put(worker)
        return made


def _asked(worker: Connection, asked: Sequence[Any], gone: Sequence[Flag], say: Say | None) -> list[Any]:
    worker.send((list(asked), say is not None))
    told: set[int] = set()
    while True:
        if worker.poll(_LOOK):
            kind, value = worker.recv()
            if kind == "made":
                made: list[Any] = value
                return made
            assert say is not None
            say(value)
        for place, one in enumerate(gone):
            if place not in told and one.is_set():
                worker.send(place)
                told.add(place)


class _Told:
    """What the other end sends while requests are made: the places of those that nobody waits for any more."""

    def __init__(self, there: Connection) -> None:
        self._there = there
        self._places: set[int] = set()
        self._next = 0.0

    def places(self) -> set[int]:
        """Asked after every token, it looks now and then: a look costs as much as a small part of a token."""
        now = time.monotonic()
        if now >= self._next:
            while self._there.poll():
                self._places.add(self._there.recv())
            self._next = now + _GLANCE
        return self._places


class _Gone:
    """Set when nobody waits for the request at a place."""

    def __init__(self, told: _Told, place: int) -> None:
        self._told, self._place = told, place

    def is_set(self) -> bool:
        return self._place in self._told.places()


def _work(there: Connection, parent: int, make: Make, expected: tuple[type[Exception], ...]) -> None:
    """The life of a forked process: it ends with the one that forked it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the parent
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    processes.end_with(parent, group=False)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            message = there.recv()
            if isinstance(message, int):  # of a request that was finished by then
                continue
            asked, streamed = message
            told = _Told(there)
            gone = [_Gone(told, place) for place in range(len(asked))]
            made = outcomes(len(asked), make, asked, gone, _sender(there) if streamed else None)
            there.send(("made", [_sendable(one, expected) for one in made]))
    os._exit(0)


def _sendable(made: Any, expected: tuple[type[Exception], ...]) -> Any:
    """A value, or an error that the other end can read."""
    if not isinstance(made, Exception) or isinstance(made, expected):
        return made
    logger.error("a request failed", exc_info=made)
    return Failed(f"{type(made).__name__}: {made}")


def _sender(there: Connection) -> Say:
    return lambda piece: there.send(("piece", piece))
