"""The engine that all clients of one endpoint and ledger in a process share.

It has an event loop in a thread of its own, the connections, the limits, the budget and the ledger.

The way of a request: its key -> joined to the same request in flight -> the ledger (known? reserved?) ->
a place among those in flight -> a place in the quota -> sent, retried -> recorded -> returned.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Collection, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from sifthinker.config import Api
from sifthinker.core.errors import UserError
from sifthinker.llm import bookkeeping, local_models
from sifthinker.llm.batch import IN_FLIGHT, BatchEndpoint
from sifthinker.llm.call_counts import Counts, pace
from sifthinker.llm.commits import Commits, Lapsed
from sifthinker.llm.costs import BudgetSpent, Costs
from sifthinker.llm.endpoint_errors import Dead, Doubtful, Dropped, Transient, Unauthorized
from sifthinker.llm.http import Endpoint
from sifthinker.llm.ledger import LEASE, Failure, Reply
from sifthinker.llm.patience import Patience, Unreachable
from sifthinker.llm.rate_limits import Gate, Ticket, Turns
from sifthinker.llm.request import Request
from sifthinker.llm.usage import Usage
from sifthinker.llm.witnesses import Witnesses
from sifthinker.system.waiting import outcome

log = logging.getLogger(__name__)
T = TypeVar("T")

_PAID_TRIES = 3  # of a request whose replies cannot be used or are lost, since each may be paid for
_GRACE = 3.0  # seconds that a call on the wire is given when the run is told to end


class Interrupted(UserError):
    """The run was told to end."""


class Engine:
    """One event loop in a thread, with everything that the clients of one endpoint and ledger share."""

    def __init__(self, api: Api, ledger: bookkeeping.Place, url: str) -> None:
        """Starts the thread, opens the ledger and takes up the batches of an earlier run."""
        self.api, self.url = api, url
        self.account = bookkeeping.account(api)
        self.ledger = bookkeeping.open_account(ledger, api)
        self.costs = Costs(api, self.ledger.usage(self.account))
        self.commits = Commits(self.ledger, self.account, self.costs, self._stop)
        self.patience = Patience(url, api.max_pause)
        self._witnesses = Witnesses()
        # What is in a batch does not count against the limits of a minute: providers limit the queue of batches.
        limits = (None, None) if api.mode == "batch" else (api.requests_per_minute, api.tokens_per_minute)
        self.turns = Turns(bookkeeping.open_quota(ledger, self.account, *limits))
        self.stopped: UserError | None = None
        self.rows_total = self._kept = self._rejected = 0
        self._calls = self._cached = self._failed = self._in_flight = 0
        self._finished = deque[float](maxlen=10_000)  # when rows, or calls, were done
        self._flying: dict[str, asyncio.Task[Reply | Failure]] = {}
        self._wire: set[asyncio.Task[Any] | None] = set()  # of those, the ones whose call is on the wire
        self._warned: set[str] = set()  # kinds of failures
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="vlm", daemon=True)
        self._thread.start()
        try:
            outcome(self.submit(self._open()))
        except BaseException:
            self._end()
            raise

    async def _open(self) -> None:
        most = max(self.api.concurrency, IN_FLIGHT) if self.api.mode == "batch" else self.api.concurrency
        self.gate = Gate(most, local_models.is_own(self.api, self.url))
        self.rows = asyncio.Semaphore(most + most // 4 + 1)
        kind = BatchEndpoint if self.api.mode == "batch" else Endpoint
        self.endpoint = kind(self.api, self.url)
        self._beat = asyncio.create_task(self._beats())
        if isinstance(self.endpoint, BatchEndpoint):
            try:
                await self.endpoint.open(self.commits, self.costs, self.patience, self._stop, self._check)
            except BaseException:
                self._beat.cancel()
                raise

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Runs a coroutine in the engine's loop; the future has its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def interrupt(self) -> None:
        """Ends everything within seconds: a run that was told to end does not wait for its endpoint.

        What is on the wire has a moment to arrive, since it is paid for.
        """
        self.loop.call_soon_threadsafe(self._interrupt)

    def _interrupt(self) -> None:
        self.ledger.hurry()
        self._stop(Interrupted(f"{self.url}: interrupted; what was bought is kept"))
        self._drop()
        self.loop.call_later(_GRACE, self._drop, True)

    def check_interrupted(self) -> None:
        """Raises the interruption of a run that was told to end.

        Raises:
            Interrupted: it was.
        """
        if isinstance(self.stopped, Interrupted):
            raise self.stopped

    def _drop(self, all_: bool = False) -> None:
        """Cancels the requests that wait for something else than an answer, or all of them."""
        late = [task for task in self._flying.values() if all_ or task not in self._wire]
        if lost := sum(task in self._wire for task in late):
            log.warning("%s: %d calls without an answer are dropped; they are asked again", self.url, lost)
        for task in late:
            task.cancel()

    def _stop(self, why: UserError) -> UserError:
        """Nothing more is asked; the first reason counts."""
        self.stopped = self.stopped or why
        return self.stopped

    def go_on(self) -> None:
        """Asks an endpoint again that was given up because it did not answer. Any other reason to stop stays."""
        outcome(self.submit(self._go_on()))

    async def _go_on(self) -> None:
        if isinstance(self.stopped, Unreachable):
            self.stopped = None
            self.patience.renew()

    def close(self) -> None:
        """Lets what is on the wire arrive, since it is paid for, and drops what is not yet sent."""
        self._stop(UserError("the client was closed"))
        try:
            outcome(self.submit(self._close()))
        finally:
            self._end()

    async def _close(self) -> None:
        self._drop()
        if self._flying:  # a batch goes on without us and is collected by the next run
            grace = 0.0 if self.api.mode == "batch" else self.api.timeout
            await asyncio.wait(list(self._flying.values()), timeout=grace)
        self._drop(all_=True)
        if self._flying:
            await asyncio.wait(list(self._flying.values()))
        self._beat.cancel()
        await self.commits.drained()
        await self.endpoint.close()
        await self.loop.shutdown_default_executor()

    def _end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.commits.shut_down()
        self.loop.close()
        self.ledger.close()
        self.turns.close()

    async def reply(self, request: Request, scope: str, again: Collection[str] = ()) -> Reply | Failure:
        """The answer: of the same request in flight, of the ledger but for refusals `again`, or of the server."""
        self.check_interrupted()
        key, record = request.identity(self.api, scope)
        joined = key in self._flying
        if not joined:
            task = asyncio.create_task(self._outcome(key, record, request, again))
            self._flying[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        # Shielded: a caller who no longer waits does not stop what others wait for, or what is on the wire.
        flying = self._flying[key]
        try:
            answer = await asyncio.shield(flying)
        except asyncio.CancelledError:
            if flying.cancelled() and self.stopped is not None:
                raise self.stopped from None
            raise
        if joined:
            self._cached += 1
        return replace(answer, cached=True) if joined and isinstance(answer, Reply) else answer

    def _landed(self, key: str, task: asyncio.Task[Reply | Failure]) -> None:
        del self._flying[key]
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits any more

    async def _outcome(
        self, key: str, record: bytes, request: Request, again: Collection[str]
    ) -> Reply | Failure:
        wait = 0.05
        while True:
            claim = await self.commits.do(
                lambda: self.ledger.claim(key, self.account, record, self.costs.budget, again)
            )
            if isinstance(claim, (Reply, Failure)):
                self._cached += 1
                return claim
            if claim == "spent":
                raise self._budget_spent()
            if claim == "mine":
                with suppress(Lapsed):
                    return await self._bought(key, request)
            self._check()
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # another process asks it right now
            wait = min(1.0, 1.5 * wait)

    async def _bought(self, key: str, request: Request) -> Reply | Failure:
        """`_buy`; a reservation that is not used is given back, and an answer that nobody waits for is booked."""
        try:
            return await self._buy(key, request)
        except BaseException as error:
            if isinstance(error, Dropped):
                cost = self.costs.of(request, error)
                await asyncio.shield(self.commits.do(partial(self.ledger.charge, key, cost), cost))
            await asyncio.shield(self.commits.do(partial(self.ledger.release, key)))
            raise

    async def _buy(self, key: str, request: Request) -> Reply | Failure:
        """Sends a reserved request until it is answered, refused or given up, and records which."""
        tries = paid = 0
        lapses = self.ledger.lapses
        while True:
            try:
                reply, usage = await self._send(key, request, lapses)
            except (Dead, Doubtful) as error:
                counts = (lambda: self.patience.answers), (lambda: self._in_flight)
                if isinstance(error, Doubtful) and await self._witnesses.agree(*counts):
                    raise self._stop(error) from None
                return await self._refused(key, request, error)
            except Transient as error:
                trouble = error
            else:
                await self.commits.do(partial(self.ledger.settle, key, reply, usage), usage)
                self._calls += 1
                if not self.rows_total:
                    self._finished.append(time.monotonic())
                return reply
            tries += 1
            if trouble.is_paid:
                paid += 1
                cost = self.costs.of(request, trouble)
                await self.commits.do(partial(self.ledger.charge, key, cost), cost)
            if tries > self.api.retries or paid >= _PAID_TRIES:
                return await self._given_up(key, trouble, tries)
            await self._pause(trouble, tries)

    async def _pause(self, trouble: Transient, tries: int) -> None:
        """Waits before the next try, as long as the server asks for; so do all others then."""
        try:
            pause = self.patience.pause(trouble)
        except Unreachable as error:
            raise self._stop(error) from None
        if pause:
            await self.turns.pause(pause)
        wait = max(pause, self.patience.backoff(tries))
        self.patience.say(trouble, pause, wait, len(self._flying))
        self._check()  # closed meanwhile: it would wait for this pause
        await asyncio.sleep(wait)

    async def _refused(self, key: str, request: Request, error: Dead | Doubtful) -> Failure:
        self._warn(error.failure)
        cost = self.costs.of(request, error)
        await self.commits.do(partial(self.ledger.fail, key, error.failure, error.final, cost), cost)
        return error.failure

    async def _given_up(self, key: str, trouble: Transient, tries: int) -> Failure:
        named = trouble.kind == "timeout" or (trouble.kind == "unreadable" and trouble.is_paid)
        failure = Failure(
            trouble.kind if named else "exhausted",
            f"given up after {tries} tries; the last: {trouble.detail}",
        )
        self._warn(failure)
        await self.commits.do(partial(self.ledger.fail, key, failure, False))
        if unreachable := self.patience.given_up(trouble, tries):
            self._stop(unreachable)
        return failure

    def _warn(self, failure: Failure) -> None:
        """Counts a failure, and says what a provider refuses, once a kind; every row's own words are in its reject."""
        self._failed += 1
        if failure.kind not in self._warned:
            self._warned.add(failure.kind)
            log.warning("%s: the first request that fails as %s: %s", self.url, failure.kind, failure.detail)

    async def _send(self, key: str, request: Request, lapses: int) -> tuple[Reply, Usage]:
        """One try, within the limits."""
        async with self.gate:
            self._check()
            guess = self.costs.guess(request.messages)
            ticket = await self.turns.ticket(
                lambda: self.costs.expected(guess, request.max_tokens).tokens, self._check
            )
            expected = self.costs.expected(guess, request.max_tokens)
            await self.commits.held(lapses, self._check)
            if not await self.costs.room(expected):
                raise self._budget_spent()
            task = asyncio.current_task()
            self._in_flight += 1
            self._wire.add(task)
            began = time.monotonic()
            try:
                self._check()
                reply, usage = await self.endpoint.chat(key, request.body(self.api))
                request.check(reply, usage)
            except Transient as error:
                self._trouble(error, ticket)
                raise
            except (Dead, Doubtful) as error:
                self.turns.settle(ticket, error.usage.tokens if error.usage else ticket.tokens)
                raise
            except Unauthorized as error:
                self._stop(error)
                raise
            finally:
                self._in_flight -= 1
                self._wire.discard(task)
                self.costs.landed(expected)
            self.patience.answered()
            if usage is None:
                usage = self.costs.estimated(request.messages, len(reply.text.encode()), request.max_tokens)
                reply = replace(
                    reply, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens
                )
            else:
                self.costs.learn(guess, usage)
            self.gate.good(time.monotonic() - began)
            self.turns.settle(ticket, usage.tokens)
            return reply, usage

    def _trouble(self, error: Transient, ticket: Ticket) -> None:
        log.debug("retried: %s", error.detail)
        if error.kind in ("rate-limit", "connection") and not error.is_paid:  # not served, so not counted
            self.turns.settle(ticket, 0)
        if error.overload:
            self.gate.bad()

    def _check(self) -> None:
        if self.stopped is not None:
            raise self.stopped
        if self.costs.is_spent:
            raise self._budget_spent()

    def _budget_spent(self) -> UserError:
        return self._stop(BudgetSpent(f"{self.account}: {self.costs.line()}"))

    async def _beats(self) -> None:
        last = 0.0
        while True:
            if time.monotonic() - last > LEASE / 6:
                last = time.monotonic()
                await self.commits.do(self.ledger.beat)
            self.gate.peers = await self.turns.peers()
            await asyncio.sleep(1.0)

    def row_done(self, kept: bool) -> None:
        """Counts a finished row."""
        self._kept, self._rejected = self._kept + kept, self._rejected + (not kept)
        self._finished.append(time.monotonic())

    def progress(self) -> Counts:
        """What the engine has done since it started."""
        left = max(0, self.rows_total - self._kept - self._rejected) if self.rows_total else None
        per_minute, seconds_left = pace(tuple(self._finished), left)
        bought = self.costs.bought
        return Counts(
            rows_total=self.rows_total,
            rows_kept=self._kept,
            rows_rejected=self._rejected,
            calls=self._calls,
            cached=self._cached,
            failed=self._failed,
            in_flight=self._in_flight,
            prompt_tokens=bought.prompt_tokens,
            completion_tokens=bought.completion_tokens,
            estimated_tokens=bought.estimated,
            money=bought.money,
            currency=self.api.prices.currency,
            per_minute=per_minute,
            seconds_left=seconds_left,
            waiting=self.patience.state(),
        )
