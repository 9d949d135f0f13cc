"""Processes that share a loaded model, each making one reply at a time; requests go to whichever is free.

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
from collections.abc import Callable
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
Make = Callable[
    [Any, Flag, Say | None], Any
]  # what is asked, whether it is still wanted, who hears the pieces


class Failed(Exception):
    """A process failed at a request; its log has the traceback."""


class Workers:
    """So many forked processes that do what `make` does. What is asked, said and given must be picklable."""

    def __init__(self, make: Make, count: int, expected: tuple[type[Exception], ...]) -> None:
        """Forks them; call it before this process starts threads.

        Args:
            make: answers one request.
            count: of processes.
            expected: errors of `make` that are raised here as they are.
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

    def __call__(self, asked: Any, gone: Flag, say: Say | None) -> Any:
        """What `make` gives in one of them; waits until one is free. From any thread.

        Raises:
            Failed: an error that was not expected, or the process has ended.
        """
        worker = self._free.get()
        if worker is None:
            self._free.put(None)  # for the next one who asks
            raise Failed("every process of the server has ended: start it again")
        try:
            outcome, value = _asked(worker, asked, gone, say)
        except (EOFError, ConnectionError, BrokenPipeError) as error:
            self._alive -= 1
            if not self._alive:
                self._free.put(None)
            raise Failed("a process of the server has ended, killed for its memory perhaps") from error
        self._free.put(worker)
        if outcome == "error":
            raise value
        return value


def _asked(worker: Connection, asked: Any, gone: Flag, say: Say | None) -> tuple[str, Any]:
    worker.send((asked, say is not None))
    told = False
    while True:
        if worker.poll(_LOOK):
            kind, value = worker.recv()
            if kind != "piece":
                return kind, value
            assert say is not None
            say(value)
        elif gone.is_set() and not told:
            worker.send(None)
            told = True


class _Told:
    """Set when the other end has sent something: while a request is made, that can only be that nobody waits for it."""

    def __init__(self, there: Connection) -> None:
        self._there = there
        self._set, self._next = False, 0.0

    def is_set(self) -> bool:
        """Asked after every token, it looks now and then: a look costs as much as a small part of a token."""
        now = time.monotonic()
        if not self._set and now >= self._next:
            self._set, self._next = self._there.poll(), now + _GLANCE
        return self._set


def _work(there: Connection, parent: int, make: Make, expected: tuple[type[Exception], ...]) -> None:
    """The life of a forked process: it ends with the one that forked it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the parent
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    processes.end_with(parent, group=False)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            message = there.recv()
            if message is None:  # of a request that was finished by then
                continue
            asked, streamed = message
            try:
                value = make(asked, _Told(there), _sender(there) if streamed else None)
                there.send(("value", value))
            except expected as error:
                there.send(("error", error))
            except Exception as error:
                logger.exception("a request failed")
                there.send(("error", Failed(f"{type(error).__name__}: {error}")))
    os._exit(0)


def _sender(there: Connection) -> Say:
    return lambda piece: there.send(("piece", piece))
