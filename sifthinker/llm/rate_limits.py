"""Limits on what is sent to an endpoint: quotas shared by all processes of a host, concurrency that adapts.

`Quota` is a small memory-mapped file under an advisory lock, so that every process that names the same file
shares one budget per minute and one pause after a 429. The kernel frees the lock when a process is killed, and
what a killed process had reserved leaves the window within a minute by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from sifthinker.system import processes

MINUTE = 60.0  # seconds of the provider's window
_BUCKETS = 128  # ring of window parts; 121 of half a second make the window, 60 to 60.5 s
_PARTS = 120
_BURST = 1.0 / 60  # of the minute's quota that may be sent at once
_PEERS = 32
_ALIVE = 10.0  # seconds after which a process that no longer asks does not count as a peer
# Layout, doubles: next request, next token, paused until; per bucket: number, requests, tokens; per peer: pid, beat;
# of the process that set the pause: pid, when it was created.
_RING, _PEER = 3, 3 + 3 * _BUCKETS
_PAUSER = _PEER + 2 * _PEERS
_SIZE = (_PAUSER + 2) * 8


@dataclass(frozen=True, slots=True)
class Ticket:
    """A place in the quota, reserved before a request is sent."""

    bucket: int
    tokens: float


class Quota:
    """Requests and tokens per minute of one account; none = unlimited.

    Both a sliding window (never more than the quota in any minute) and pacing (evenly spread, no bursts, which
    providers answer with 429 although the minute's quota is not reached).
    """

    def __init__(self, path: Path, requests: int | None = None, tokens: int | None = None) -> None:
        """Opens or makes the file `path`, through which processes share the quota (per minute; None = unlimited)."""
        self.requests, self.tokens = requests, tokens
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
                if self._state[i] > now + 60 * MINUTE:
                    self._state[i] = 0.0
            if self._state[2] > now and not self._is_pauser_alive():
                self._state[2] = 0.0
            costs = [(0, self.requests, 1.0), (1, self.tokens, tokens)]
            limited = [(column, quota, cost) for column, quota, cost in costs if quota is not None]
            wait = max([self._state[2] - now, *(self._wait(*limit, now) for limit in limited)])
            if wait > 0:
                return wait
            for column, quota, cost in limited:
                self._state[column] = max(self._state[column], now) + cost * MINUTE / quota
            bucket = int(now / MINUTE * _PARTS)
            self._add(bucket, 1.0, tokens)
            return Ticket(bucket, tokens)

    def _wait(self, column: int, quota: int, cost: float, now: float) -> float:
        """Seconds until `cost` more requests (column 0) or tokens (1) are in pace and fit into the window."""
        wait = self._state[column] - _BURST * MINUTE - now
        last = int(now / MINUTE * _PARTS)
        live = sorted(
            (self._state[i], self._state[i + 1 + column])
            for i in range(_RING, _PEER, 3)
            if last - _PARTS <= self._state[i] <= last
        )
        # A request that alone exceeds the quota waits for an empty window, not for ever.
        excess = sum(used for _, used in live) + min(cost, quota) - quota
        for bucket, used in live:
            if excess <= 0:
                break
            excess -= used  # when this bucket leaves the window
            wait = max(wait, (bucket + _PARTS + 1) * MINUTE / _PARTS - now)
        return wait

    def settle(self, ticket: Ticket, tokens: float) -> None:
        """Puts the tokens that the server reported in place of the reserved ones."""
        if self.tokens is None:
            return
        with self._locked():
            self._state[1] += (tokens - ticket.tokens) * MINUTE / self.tokens
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
                i for i in slots if self._state[i] not in (0, pid) and 0 <= now - self._state[i + 1] < _ALIVE
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


class Gate:
    """How many requests may be in flight: additive increase, multiplicative decrease.

    Begins at `most`, since that is what the user asked for. An overloaded server (429, 503, 529, a time-out) cuts it
    by 0.7, a median latency over twice the best one seen by 0.9, at most once in two latencies; as many replies as
    are in flight add a sixteenth of `most`. Used within one event loop.
    """

    def __init__(self, most: int) -> None:
        """Allows `most` requests in flight at first, and never more."""
        self.most, self.limit, self.active, self.peers = most, float(most), 0, 1
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._seconds: list[float] = []
        self._best = float("inf")
        self._latency = 0.0
        self._cut_at = 0.0

    async def __aenter__(self) -> None:
        """Waits for a place."""
        if self.active < self._allowed() and not self._waiting:
            self.active += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn  # whoever grants it has counted us in
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                await self.__aexit__()
            raise

    async def __aexit__(self, *_: object) -> None:
        """Gives the place back."""
        self.active -= 1
        self._wake()

    def good(self, seconds: float) -> None:
        """A reply came after so long."""
        self._seconds.append(seconds)
        if len(self._seconds) < max(4, self.limit):
            return
        self._latency = sorted(self._seconds)[len(self._seconds) // 2]
        self._seconds.clear()
        self._best = min(self._best * 1.02, self._latency)  # forgets slowly: servers and prompts change
        if self._latency > 2 * self._best:
            self._cut(0.9)
        else:
            self.limit = min(self.most, self.limit + max(1.0, self.most / 16))
        self._wake()

    def bad(self) -> None:
        """The server was overloaded."""
        self._cut(0.7)

    def _cut(self, factor: float) -> None:
        now = time.monotonic()
        if now - self._cut_at >= max(0.5, 2 * self._latency):
            self._cut_at = now
            self.limit = max(1.0, self.limit * factor)

    def _allowed(self) -> int:
        return max(1, int(min(self.limit, self.most / self.peers)))

    def _wake(self) -> None:
        while self._waiting and self.active < self._allowed():
            turn = self._waiting.popleft()
            if not turn.done():
                self.active += 1
                turn.set_result(None)
