"""What all clients of one endpoint and ledger in a process share: an event loop in a thread of its own,
the connections, the limits, the budget and the ledger.

The way of a request: its key -> joined to the same request in flight -> the ledger (known? reserved?) ->
a place among those in flight -> a place in the quota -> sent, retried -> recorded -> returned.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import orjson

from sifthinker.batch import IN_FLIGHT, BatchEndpoint
from sifthinker.config import Api, UserError
from sifthinker.disk import trouble
from sifthinker.endpoint import Dead, Endpoint, Transient, Unauthorized
from sifthinker.ledger import LEASE, Budget, Failure, Ledger, Reply, Usage
from sifthinker.limits import MINUTE, Gate, Quota, Ticket
from sifthinker.progress import Counts

log = logging.getLogger(__name__)
T = TypeVar("T")

_IMAGE_TOKENS = 1000.0  # first guess of an image's tokens; the server's reports correct it
_GATHER = 0.002  # seconds in which the ledger's operations gather for one commit
_UNREACHABLE = 10  # requests in a row that exhausted their retries, without one success between them


class BudgetSpent(UserError):
    """The hard stop. What was bought is in the ledger, and a higher budget continues from there."""


class Unreachable(UserError):
    """The endpoint answers nothing any more."""


@dataclass(frozen=True)
class Request:
    """One question to a model; equal requests are the same request and are paid once."""

    messages: list[dict[str, Any]]  # OpenAI form, images as data URLs
    temperature: float
    max_tokens: int
    seed: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # more parameters of the body


class Engine:
    """One event loop in a thread, with everything that the clients of one endpoint and ledger share."""

    def __init__(self, api: Api, ledger: Path, url: str) -> None:
        self.api, self.url = api, url
        self.account = f"{api.base_url} {api.model}"
        self.budget = Budget(api.budget_tokens, api.budget_money)
        self.ledger = Ledger(ledger)
        self.ledger_seconds = 0.0  # spent in the ledger, for the benchmark
        self.spent = self.ledger.usage(self.account)
        name = hashlib.sha256(self.account.encode()).hexdigest()[:16]
        self.quota = Quota(
            ledger.with_name(f"{ledger.name}.{name}.quota"), api.requests_per_minute, api.tokens_per_minute
        )
        self.stopped: UserError | None = None
        self.rows_total = self._kept = self._rejected = 0
        self._calls = self._cached = self._failed = self._in_flight = self._exhausted = 0
        self._received = self._bought = Usage()  # paid for by this process; of that, what the ledger holds
        self._finished: deque[float] = deque(maxlen=10_000)  # when rows, or calls, were done
        self._flying: dict[str, asyncio.Task[Reply | Failure]] = {}
        self._queue: list[tuple[Callable[[], Any], Usage | None, asyncio.Future[Any]]] = []
        self._committing = False
        self._seen = [
            0.0,
            0.0,
            0.0,
            0.0,
        ]  # calls, prompts as guessed, prompts, completions: fading sums of tokens
        self._ledger_thread = ThreadPoolExecutor(1, "ledger")
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="vlm", daemon=True)
        self._thread.start()
        try:
            self.submit(self._open()).result()
        except BaseException:
            self._end()
            raise

    async def _open(self) -> None:
        most = max(self.api.concurrency, IN_FLIGHT) if self.api.mode == "batch" else self.api.concurrency
        self.gate = Gate(most)
        self.rows = asyncio.Semaphore(most + most // 4 + 1)
        self._turn = asyncio.Lock()
        kind = BatchEndpoint if self.api.mode == "batch" else Endpoint
        self.endpoint = kind(self.api, self.url)
        if isinstance(self.endpoint, BatchEndpoint):
            await self.endpoint.open(self.ledger, self.ledger_do, self.account)
        self._beat = asyncio.create_task(self._beats())

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def close(self) -> None:
        """Lets what is on the wire arrive, since it is paid for, and drops what is not yet sent."""
        self.stopped = self.stopped or UserError("the client was closed")
        try:
            self.submit(self._close()).result()
        finally:
            self._end()

    async def _close(self) -> None:
        if self._flying:
            # A batch goes on without us and is collected by the next run.
            grace = 0.0 if self.api.mode == "batch" else self.api.timeout
            _, late = await asyncio.wait(self._flying.values(), timeout=grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        self._beat.cancel()
        await self.endpoint.close()
        await self.loop.shutdown_default_executor()

    def _end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self._ledger_thread.shutdown()
        self.loop.close()
        self.ledger.close()
        self.quota.leave()
        self.quota.close()

    async def reply(self, request: Request, scope: str) -> Reply | Failure:
        """The answer: of the same request in flight, of the ledger, or of the server."""
        key, record = self._identity(request, scope)
        joined = key in self._flying
        if not joined:
            task = asyncio.create_task(self._outcome(key, record, request))
            self._flying[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        # Shielded: a caller who no longer waits does not stop what others wait for, or what is on the wire.
        outcome = await asyncio.shield(self._flying[key])
        if joined:
            self._cached += 1
        return replace(outcome, cached=True) if joined and isinstance(outcome, Reply) else outcome

    def _landed(self, key: str, task: asyncio.Task[Reply | Failure]) -> None:
        del self._flying[key]
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits any more

    def _identity(self, request: Request, scope: str) -> tuple[str, bytes]:
        """Key and canonical form of a request: everything that decides the answer, pictures by digest."""
        messages = [
            {**message, "content": [_by_digest(part) for part in message["content"]]}
            if isinstance(message["content"], list)
            else message
            for message in request.messages
        ]
        asked = {
            "endpoint": self.api.base_url,
            "model": self.api.model,
            "scope": scope,
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            "extra": request.extra,
            "messages": messages,
        }
        record = orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(record).hexdigest(), record

    async def _outcome(self, key: str, record: bytes, request: Request) -> Reply | Failure:
        wait = 0.05
        while True:
            claim = await self.ledger_do(lambda: self.ledger.claim(key, self.account, record, self.budget))
            if isinstance(claim, (Reply, Failure)):
                self._cached += 1
                return claim
            if claim == "mine":
                break
            if claim == "spent":
                raise self._budget_spent()
            self._check()
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # another process asks it right now
            wait = min(1.0, 1.5 * wait)
        try:
            return await self._buy(key, request)
        except BaseException:
            await asyncio.shield(self.ledger_do(partial(self.ledger.release, key)))
            raise

    async def _buy(self, key: str, request: Request) -> Reply | Failure:
        """Sends a reserved request until it is answered, refused or given up, and records which."""
        trouble = Transient("exhausted", "never sent")
        for attempt in range(self.api.retries + 1):
            if attempt:
                backoff = min(60.0, 0.5 * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5)
                await asyncio.sleep(max(trouble.after or 0.0, backoff))
            try:
                reply, usage = await self._send(key, request)
            except Transient as error:
                trouble = error
                continue
            except Dead as error:
                self._failed += 1
                await self.ledger_do(
                    partial(self.ledger.fail, key, error.failure, True, error.usage), error.usage
                )
                return error.failure
            await self.ledger_do(partial(self.ledger.settle, key, reply, usage), usage)
            self._calls += 1
            if not self.rows_total:
                self._finished.append(time.monotonic())
            return reply
        kind = "timeout" if trouble.kind == "timeout" else "exhausted"
        failure = Failure(kind, f"given up after {self.api.retries + 1} tries; the last: {trouble.detail}")
        self._failed += 1
        await self.ledger_do(partial(self.ledger.fail, key, failure, False))
        self._exhausted += 1
        if self._exhausted >= _UNREACHABLE:
            self.stopped = self.stopped or Unreachable(
                f"{self.url}: the last {self._exhausted} requests were given up after {self.api.retries + 1} tries "
                f"each, the last one with: {trouble.detail}\nWhat was bought is kept; start again when it answers."
            )
        return failure

    async def _send(self, key: str, request: Request) -> tuple[Reply, Usage]:
        """One try, within the limits."""
        async with self.gate:
            self._check()
            guess = self._guess(request)
            ticket = await self._ticket(guess, request.max_tokens)
            self._check()
            self._in_flight += 1
            began = time.monotonic()
            try:
                reply, usage = await self.endpoint.chat(key, self._body(request))
            except Transient as error:
                self._trouble(error, ticket)
                raise
            except Dead as error:
                self.quota.settle(ticket, error.usage.tokens)
                raise
            except Unauthorized as error:
                self.stopped = self.stopped or error
                raise
            finally:
                self._in_flight -= 1
            self._exhausted = 0
            self._learn(guess, usage)
            self.gate.good(time.monotonic() - began)
            self.quota.settle(ticket, usage.tokens)
            return reply, usage

    def _trouble(self, error: Transient, ticket: Ticket) -> None:
        log.debug("retried: %s", error.detail)
        if error.kind in ("rate-limit", "connection"):
            self.quota.settle(ticket, 0)  # not served, so not counted; a time-out may well be
        if error.after:
            self.quota.pause(error.after)
        if error.overload:
            self.gate.bad()

    async def _ticket(self, prompt: float, most: int) -> Ticket:
        """A place in the quota for a prompt guessed at so many tokens and an answer of `most` at most."""
        async with self._turn:  # one waits for the quota and the others behind it: nothing is reserved ahead
            while True:
                calls, guessed, prompts, completions = self._seen
                tokens = prompt * prompts / guessed + completions / calls if guessed else prompt + most
                ticket = self.quota.reserve(tokens)
                if isinstance(ticket, Ticket):
                    return ticket
                await asyncio.sleep(min(ticket, MINUTE / 60))
                self._check()

    def _check(self) -> None:
        if self.stopped is not None:
            raise self.stopped
        if self.budget.spent(self.spent + self._received - self._bought):
            raise self._budget_spent()

    def _budget_spent(self) -> UserError:
        if self.stopped is None:
            limits = [
                f"{self.budget.tokens:,} tokens" if self.budget.tokens is not None else "",
                f"{self.budget.money:,.2f} {self.api.prices.currency}"
                if self.budget.money is not None
                else "",
            ]
            self.stopped = BudgetSpent(
                f"{self.account}: the budget of {' and '.join(filter(None, limits))} is spent: {self.spent.calls:,} "
                f"calls, {self.spent.tokens:,} tokens, {self.spent.money:,.2f} {self.api.prices.currency}. Everything "
                "bought is kept in the ledger; raise budget_tokens or budget_money to continue from there."
            )
        return self.stopped

    async def ledger_do(self, operation: Callable[[], T], usage: Usage | None = None) -> T:
        """Runs `operation` in the ledger's thread; all that wait together share one commit.

        With a `usage` it records something paid for, and the commit waits for the disk.
        """
        done: asyncio.Future[T] = self.loop.create_future()
        self._queue.append((operation, usage, done))
        if usage is not None:
            self._received += usage
        if not self._committing:
            self._committing = True
            self.loop.create_task(self._commits())
        return await done

    async def _commits(self) -> None:
        while self._queue:
            await asyncio.sleep(_GATHER)
            queue, self._queue = self._queue, []
            operations = [operation for operation, _, _ in queue]
            paid = [usage for _, usage, _ in queue if usage is not None]
            try:
                results, self.spent = await self.loop.run_in_executor(
                    self._ledger_thread, self._commit, operations, bool(paid)
                )
            except Exception as error:  # noqa: BLE001 - to each of those who wait
                told: Exception = error
                if said := trouble(error):  # what is bought now could not be recorded: nothing more is asked
                    told = UserError(f"{self.ledger.path.name}: {said}. What was recorded before is kept")
                    told.__cause__ = error
                    self.stopped = self.stopped or told
                for _, _, done in queue:
                    if not done.done():
                        done.set_exception(told)
                continue
            for usage in paid:
                self._bought += usage
            for (_, _, done), result in zip(queue, results, strict=True):
                if not done.done():
                    done.set_result(result)
        self._committing = False

    def _commit(self, operations: list[Callable[[], Any]], durable: bool) -> tuple[list[Any], Usage]:
        began = time.perf_counter()
        with self.ledger.transaction(durable):
            results = [operation() for operation in operations]
            spent = self.ledger.usage(self.account)  # with what other processes bought
        self.ledger_seconds += time.perf_counter() - began
        return results, spent

    async def _beats(self) -> None:
        last = 0.0
        while True:
            if time.monotonic() - last > LEASE / 6:
                last = time.monotonic()
                await self.ledger_do(self.ledger.beat)
            self.gate.peers = self.quota.peers()
            await asyncio.sleep(1.0)

    def _body(self, request: Request) -> bytes:
        body = {
            "model": self.api.model,
            "messages": request.messages,
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            **({} if request.seed is None else {"seed": request.seed}),
            **request.extra,
        }
        return orjson.dumps(body)  # ten times as fast as json with pictures in it

    def _guess(self, request: Request) -> float:
        """Tokens that a prompt probably has; `_ticket` corrects it by what the server reported so far."""
        if self.api.tokens_per_minute is None:
            return 0.0
        prompt = 0.0
        for message in request.messages:
            content = message["content"]
            for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
                prompt += _IMAGE_TOKENS if part["type"] == "image_url" else len(part["text"]) / 4
        return prompt

    def _learn(self, guess: float, usage: Usage) -> None:
        news = (1.0, guess, usage.prompt_tokens, usage.completion_tokens)
        self._seen = [0.99 * old + new for old, new in zip(self._seen, news, strict=True)]

    def row_done(self, kept: bool) -> None:
        if kept:
            self._kept += 1
        else:
            self._rejected += 1
        self._finished.append(time.monotonic())

    def progress(self) -> Counts:
        recent = [at for at in tuple(self._finished) if at > time.monotonic() - 120]
        span = time.monotonic() - recent[0] if recent else 0.0
        per_second = len(recent) / span if span > 0 else 0.0
        left = max(0, self.rows_total - self._kept - self._rejected)
        return Counts(
            rows_total=self.rows_total,
            rows_kept=self._kept,
            rows_rejected=self._rejected,
            calls=self._calls,
            cached=self._cached,
            failed=self._failed,
            in_flight=self._in_flight,
            prompt_tokens=self._bought.prompt_tokens,
            completion_tokens=self._bought.completion_tokens,
            money=self._bought.money,
            currency=self.api.prices.currency,
            per_minute=60 * per_second,
            seconds_left=left / per_second if self.rows_total and per_second else None,
        )


def _by_digest(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") != "image_url":
        return part
    image = part["image_url"]
    return {"type": "image_url", "image_url": {**image, "url": _digest(image["url"])}}


@lru_cache(maxsize=16)  # a benchmark's questions about one picture follow each other, and share its text
def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()
