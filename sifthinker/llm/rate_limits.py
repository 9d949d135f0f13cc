"""Limits on what is sent to an endpoint: quotas that processes share, concurrency that adapts.

What is common to all quotas is here, with what the calls of one event loop need of them. `rate_limits_file` has the quota
of the processes of a host, and `rate_limits_postgres` that of several hosts.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

MINUTE = 60.0  # seconds of the provider's window
PARTS = 120
BURST = 1.0 / 60  # of the minute's quota that may be sent at once
ALIVE = 10.0  # seconds after which a process that no longer asks does not count as a peer
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ticket:
    """A place in the quota, reserved before a request is sent."""

    bucket: int
    tokens: float


class Quota(ABC):
    """Requests and tokens per minute of one account; none = unlimited.

    Both a sliding window (never more than the quota in any minute) and pacing (evenly spread, no bursts, which
    providers answer with 429 although the minute's quota is not reached).
    """

    is_remote = False  # whether a question takes long, and may fail

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        """Of requests and tokens per minute; None = unlimited."""
        self.requests, self.tokens = requests, tokens

    @abstractmethod
    def reserve(self, tokens: float) -> Ticket | float:
        """A ticket for a request of about `tokens`, or the seconds to wait before asking again."""

    @abstractmethod
    def settle(self, ticket: Ticket, tokens: float) -> None:
        """Puts the tokens that the server reported in place of the reserved ones."""

    @abstractmethod
    def pause(self, seconds: float) -> None:
        """Nobody sends for so long: what a Retry-After asks for. It ends with this process: who starts again asks again."""

    @abstractmethod
    def peers(self) -> int:
        """Processes that use this quota now, this one included."""

    @abstractmethod
    def leave(self) -> None:
        """This process no longer counts as a peer."""

    @abstractmethod
    def close(self) -> None:
        """Ends the connection; reservations stay."""

    def _limits(self, tokens: float) -> list[tuple[int, int, float]]:
        """What binds a request of so many tokens: 0 for requests or 1 for tokens, the quota, and what it takes of it."""
        limits = [(0, self.requests, 1.0), (1, self.tokens, tokens)]
        return [(column, quota, cost) for column, quota, cost in limits if quota is not None]


def pace(due: float, quota: int, cost: float, now: float) -> float:
    """When the next request is in pace, after one that takes `cost` of a quota and was due at `due`."""
    return max(due, now) + cost * MINUTE / quota


def to_wait(due: float, used: Iterable[tuple[float, float]], quota: int, cost: float, now: float) -> float:
    """Seconds until `cost` more is in pace and fits into the window.

    Args:
        due: when the next request is in pace.
        used: what the parts of the window hold, by their numbers.
        quota: of a minute.
        cost: of the request.
        now: seconds of the clock that all share.
    """
    wait = due - BURST * MINUTE - now
    last = int(now / MINUTE * PARTS)
    live = sorted((part, spent) for part, spent in used if last - PARTS <= part <= last)
    # A request that alone exceeds the quota waits for an empty window, not for ever.
    excess = sum(spent for _, spent in live) + min(cost, quota) - quota
    for part, spent in live:
        if excess <= 0:
            break
        excess -= spent  # when this part leaves the window
        wait = max(wait, (part + PARTS + 1) * MINUTE / PARTS - now)
    return wait


class Turns:
    """Places in a quota for the calls of one event loop, which a quota that is elsewhere does not hold up."""

    def __init__(self, quota: Quota) -> None:
        """Takes over the quota."""
        self._quota = quota
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "quota")

    async def ticket(self, tokens: Callable[[], float], check: Callable[[], None]) -> Ticket:
        """A place for a request of about so many tokens; `check` raises where it is not wanted any more."""
        async with self._turn:  # one waits for the quota and the others behind it: nothing is reserved ahead
            while True:
                ticket = await self._ask(partial(self._quota.reserve, tokens()))
                if isinstance(ticket, Ticket):
                    return ticket
                await asyncio.sleep(min(ticket, MINUTE / 60))
                check()

    def settle(self, ticket: Ticket, tokens: float) -> None:
        """See `Quota.settle`. Nobody waits for it: a reply that was paid for is recorded first."""
        if self._quota.is_remote:
            asyncio.get_running_loop().run_in_executor(self._thread, self._quota.settle, ticket, tokens)
        else:
            self._quota.settle(ticket, tokens)

    async def pause(self, seconds: float) -> None:
        """See `Quota.pause`."""
        await self._ask(partial(self._quota.pause, seconds))

    async def peers(self) -> int:
        """See `Quota.peers`."""
        return await self._ask(self._quota.peers)

    def close(self) -> None:
        """Ends the quota's connection; this process no longer counts as a peer."""
        self._thread.shutdown()
        self._quota.leave()
        self._quota.close()

    async def _ask(self, ask: Callable[[], T]) -> T:
        if not self._quota.is_remote:
            return ask()
        return await asyncio.get_running_loop().run_in_executor(self._thread, ask)


class Gate:
    """How many requests may be in flight: additive increase, multiplicative decrease.

    Begins at `most`, since that is what the user asked for. An overloaded server (429, 503, 529, a time-out) cuts it
    by 0.7, a median latency over twice the best one seen by 0.9, at most once in two latencies; as many replies as
    are in flight add a sixteenth of `most`. Used within one event loop.
    """

    def __init__(self, most: int, own: bool = False) -> None:
        """Allows `most` requests in flight at first, and never more.

        Args:
            most: requests.
            own: the server works for this process alone (`local_models.is_own`). Its slow replies are long ones, since it makes
                together what waits, and other processes have servers of their own.
        """
        self.most, self.limit, self.active, self.peers = most, float(most), 0, 1
        self._own = own
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
        if not self._own and self._latency > 2 * self._best:
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
        return max(1, int(min(self.limit, self.most / (1 if self._own else self.peers))))

    def _wake(self) -> None:
        while self._waiting and self.active < self._allowed():
            turn = self._waiting.popleft()
            if not turn.done():
                self.active += 1
                turn.set_result(None)
