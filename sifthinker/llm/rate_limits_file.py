"""The quota that the processes of a host share.

It is a small memory-mapped file under an advisory lock, so that every process that names the same file shares one budget
per minute and one pause after a 429. The kernel frees the lock when a process is killed, and what a killed process had
reserved leaves the window within a minute by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from sifthinker.llm import rate_limits
from sifthinker.llm.rate_limits import ALIVE, PARTS, Quota, Ticket, pace, to_wait
from sifthinker.system import processes

_BUCKETS = 128  # ring of window parts; 121 of half a second make the window, 60 to 60.5 s
_PEERS = 32
# Layout, doubles: next request, next token, paused until; per bucket: number, requests, tokens; per peer: pid, beat;
# of the process that set the pause: pid, when it was created.
_RING, _PEER = 3, 3 + 3 * _BUCKETS
_PAUSER = _PEER + 2 * _PEERS
_SIZE = (_PAUSER + 2) * 8


class FileQuota(Quota):
    """One account's. Any process that opens the file has its share."""

    def __init__(self, path: Path, requests: int | None = None, tokens: int | None = None) -> None:
        """Opens or makes the file `path`, through which processes share the quota (per minute; None = unlimited)."""
        super().__init__(requests, tokens)
        self._created = psutil.Process().create_time()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        with self._locked():
            if os.fstat(self._file).st_size < _SIZE:
                os.ftruncate(self._file, _SIZE)
        self._map = mmap.mmap(self._file, _SIZE)
        self._state = memoryview(self._map).cast("d")

    def close(self) -> None:
        """Closes the file; reservations stay in it."""
        self._state.release()
        self._map.close()
        os.close(self._file)

    def reserve(self, tokens: float) -> Ticket | float:
        """A ticket for a request of about `tokens`, or the seconds to wait before asking again."""
        if self.requests is None and self.tokens is None and self._state[2] <= time.monotonic():
            return Ticket(0, 0.0)  # nothing to count and no pause: no lock
        with self._locked():
            now = time.monotonic()  # one clock for all processes of a host; starts anew with the host:
            for i in range(_RING):
                if self._state[i] > now + 60 * rate_limits.MINUTE:
                    self._state[i] = 0.0
            if self._state[2] > now and not self._is_pauser_alive():
                self._state[2] = 0.0
            limited = self._limits(tokens)
            waits = [
                to_wait(self._state[column], self._used(column), quota, cost, now)
                for column, quota, cost in limited
            ]
            wait = max([self._state[2] - now, *waits])
            if wait > 0:
                return wait
            for column, quota, cost in limited:
                self._state[column] = pace(self._state[column], quota, cost, now)
            bucket = int(now / rate_limits.MINUTE * PARTS)
            self._add(bucket, 1.0, tokens)
            return Ticket(bucket, tokens)

    def _used(self, column: int) -> Iterator[tuple[float, float]]:
        """Number and requests (column 0) or tokens (1) of every part that the ring holds."""
        return ((self._state[i], self._state[i + 1 + column]) for i in range(_RING, _PEER, 3))

    def settle(self, ticket: Ticket, tokens: float) -> None:
        """Puts the tokens that the server reported in place of the reserved ones."""
        if self.tokens is None:
            return
        with self._locked():
            self._state[1] += (tokens - ticket.tokens) * rate_limits.MINUTE / self.tokens
            if self._state[_RING + ticket.bucket % _BUCKETS * 3] == ticket.bucket:
                self._add(ticket.bucket, 0.0, tokens - ticket.tokens)

    def pause(self, seconds: float) -> None:
        """Nobody sends for so long: what a Retry-After asks for. It ends with this process: who starts again asks again."""
        with self._locked():
            until = time.monotonic() + seconds
            if until > self._state[2] or not self._is_pauser_alive():
                self._state[2] = until
                self._state[_PAUSER], self._state[_PAUSER + 1] = os.getpid(), self._created

    def _is_pauser_alive(self) -> bool:
        return processes.lives(int(self._state[_PAUSER]), self._state[_PAUSER + 1])

    def peers(self) -> int:
        """Processes that use this quota now, this one included."""
        with self._locked():
            now, pid = time.monotonic(), os.getpid()
            slots = range(_PEER, _PEER + 2 * _PEERS, 2)
            others = [
                i for i in slots if self._state[i] not in (0, pid) and 0 <= now - self._state[i + 1] < ALIVE
            ]
            mine = next((i for i in slots if self._state[i] == pid), None)
            free = (i for i in slots if i not in others)
            mine = mine if mine is not None else next(free, None)
            if mine is not None:
                self._state[mine], self._state[mine + 1] = pid, now
            return len(others) + 1

    def leave(self) -> None:
        """This process no longer counts as a peer."""
        with self._locked():
            for i in range(_PEER, _PEER + 2 * _PEERS, 2):
                if self._state[i] == os.getpid():
                    self._state[i] = 0

    def _add(self, bucket: int, requests: float, tokens: float) -> None:
        i = _RING + bucket % _BUCKETS * 3
        if self._state[i] != bucket:
            self._state[i], self._state[i + 1], self._state[i + 2] = bucket, 0.0, 0.0
        self._state[i + 1] += requests
        self._state[i + 2] += tokens

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
