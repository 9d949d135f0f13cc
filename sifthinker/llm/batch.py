"""The OpenAI Batch API behind the same interface as online calls.

Requests gather into a file, which is uploaded and polled; a request's `chat` returns when its batch has come
back. A batch is written into the ledger before it is submitted and carries its name as metadata, so that a run
killed at any moment finds it again, collects it, and submits nothing twice.

What keeps a request from being ordered twice: it is ordered only if this engine has reserved it and no open batch holds
it, and a batch stays open until its answers are in the ledger. Only the engine that owns a batch collects it or orders
it again; where that engine is gone, another one takes the batch up before it orders anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar

from sifthinker.config import Api
from sifthinker.core.errors import UserError
from sifthinker.llm.batch_answers import Answer, Answers
from sifthinker.llm.batch_calls import DAY, BatchCalls, Outcome
from sifthinker.llm.batch_states import (
    METADATA,
    OVER,
    BatchStopped,
    ended_badly,
    queue_full,
    said,
    says_full,
    text,
)
from sifthinker.llm.commits import Commits, Lapsed
from sifthinker.llm.costs import Costs
from sifthinker.llm.endpoint_errors import Dead, Doubtful, NotFound, Transient, Unauthorized
from sifthinker.llm.patience import Patience
from sifthinker.llm.usage import Usage

log = logging.getLogger(__name__)

IN_FLIGHT = 1000  # requests in batches at once, each with its pictures in memory
MOST_REQUESTS = 50_000  # of one file (provider's limit)
MOST_BYTES = 100_000_000  # of one file; the provider's limit is 200 MB
QUIET = 2.0  # seconds without a new request after which a batch is submitted
POLL = 30.0  # seconds between two looks at a batch
FULL = (
    300.0  # seconds until a batch that a full queue refused is ordered again, unless one of ours ends before
)
T = TypeVar("T")


class BatchEndpoint(BatchCalls):
    """Calls through batches. Used in one event loop."""

    def __init__(self, api: Api, url: str) -> None:
        """An endpoint without batches; `open` takes up earlier ones."""
        super().__init__(api, url)
        self._pending: dict[str, bytes] = {}  # lines of the next batch by key
        self._bytes = 0
        self._submitted: set[str] = set()  # keys in batches that are under way
        self._quiet: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._room_made = asyncio.Event()  # a batch of ours has ended

    async def open(
        self,
        commits: Commits,
        costs: Costs,
        patience: Patience,
        stop: Callable[[UserError], object],
        check: Callable[[], None],
    ) -> None:
        """Takes up the batches that an earlier run left.

        Args:
            commits: the ledger.
            costs: what calls cost.
            patience: how long is waited for the provider.
            stop: is told why nothing more may be asked.
            check: raises if nothing more may be asked.
        """
        self._ledger, self._do, self._account = commits.ledger, commits.do, commits.account
        self._answers = Answers(commits, costs)
        self._patience, self._stop, self._check = patience, stop, check
        await self._take_up()

    async def close(self) -> None:
        """Stops waiting for batches; what was submitted stays with the provider."""
        if self._quiet:
            self._quiet.cancel()
        for task in self._tasks:
            task.cancel()
        await super().close()

    async def chat(self, request_key: str, body: bytes) -> Outcome:
        """As `Endpoint.chat`, but the answer comes with the batch.

        Raises:
            Lapsed: the ledger knows more of the request by now: claim it again.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        self._waiting[request_key] = future
        if request_key not in self._submitted:
            line = json.dumps({"custom_id": request_key, "method": "POST", "url": "/v1/chat/completions"})
            self._pending[request_key] = line[:-1].encode() + b', "body": ' + body + b"}\n"
            self._bytes += len(self._pending[request_key])
            if self._quiet:
                self._quiet.cancel()
            if len(self._pending) >= MOST_REQUESTS or self._bytes >= MOST_BYTES:
                self._flush()
            else:
                self._quiet = loop.call_later(QUIET, self._flush)
        try:
            return await future
        finally:
            self._waiting.pop(request_key, None)

    def _flush(self) -> None:
        pending, self._pending, self._bytes = self._pending, {}, 0
        if pending:
            self._submitted.update(pending)
            self._spawn(self._run(pending))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take_up(self) -> set[str]:
        """Takes up the batches whose engines are gone; the requests in them."""
        left = await self._do(partial(self._ledger.take_batches, self._account))
        arrived = {}
        if any(state == "planned" for state, _ in left.values()):
            arrived = await self._arrived()
        taken: set[str] = set()
        for name, (state, keys) in left.items():
            if state == "planned" and name not in arrived:
                await self._do(partial(self._ledger.set_batch, name, "done"))  # never reached the provider
                continue
            batch = arrived[name] if state == "planned" else state.removeprefix("sent ")
            log.info("batch %s of an earlier run: waiting for %d requests", batch, len(keys))
            await self._do(partial(self._ledger.hold, keys))
            taken.update(keys)
            self._submitted.update(keys)
            self._spawn(self._collect(name, batch, keys))
        return taken

    async def _run(self, lines: dict[str, bytes]) -> None:
        """Orders a batch and waits for it; without the requests of which the ledger knows more by now."""
        keys = list(lines)
        try:
            self._check()
            taken = await self._take_up()
            keys = await self._do(partial(self._ledger.to_order, self._account, keys))
            self._give_up(lines.keys() - taken - set(keys), Lapsed())
            if not keys:
                return
            file = await self._uploaded(b"".join(lines[key] for key in keys))
            lines.clear()
            self._check()
            name = uuid.uuid4().hex
            if not await self._do(partial(self._plan, name, keys), Usage()):
                raise Lapsed
            batch = await self._order(name, file)
        except Exception as error:  # noqa: BLE001 - handed to each of those who wait
            self._give_up(keys, error)
            return
        await self._collect(name, batch, keys, file)

    def _plan(self, name: str, keys: list[str]) -> bool:
        """Writes a batch into the ledger, unless one of its requests must not be ordered any more."""
        if self._ledger.to_order(self._account, keys) != keys:
            return False
        self._ledger.plan_batch(name, self._account, keys)
        return True

    async def _order(self, name: str, file: str) -> str:
        """Orders the planned batch `name` of an uploaded file: its id. Nothing is uploaded twice.

        Unless the provider has certainly refused it, it stays planned: the next run finds out whether it arrived.

        Raises:
            Unreachable: there was no answer for an hour.
            Lapsed: another engine has taken it up.
        """
        order = {
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {METADATA: name},
        }
        is_lost = False  # an order may have arrived although its answer did not

        async def once() -> str:
            nonlocal is_lost
            if not await self._do(partial(self._ledger.set_batch, name, "planned"), Usage()):
                raise Lapsed
            try:
                return text(await self._object("POST", "/batches", json.dumps(order).encode()), "id")
            except (Dead, Unauthorized) as error:
                if isinstance(error, Dead) and says_full(error.failure.detail):
                    raise Transient("rate-limit", error.failure.detail, after=FULL) from error
                if not is_lost:
                    await self._do(partial(self._ledger.set_batch, name, "done"))
                raise
            except Transient as error:
                is_lost = is_lost or not (error.unreachable or error.kind == "rate-limit")
                if found := (await self._arrived()).get(name):
                    return found
                raise

        batch = await self._patiently(once, "/batches")
        await self._do(partial(self._ledger.set_batch, name, f"sent {batch}"), Usage())
        return batch

    async def _collect(self, name: str, batch: str, keys: list[str], file: str = "") -> None:
        """Waits for a batch and hands out its answers; `file` is what it was ordered from, as far as that is known."""
        try:
            name, batch, state = await self._last(name, batch, keys, file)
            self._room_made.set()
            lines, usage = await self._lines(batch, state, keys)
            bad = ended_badly(f"{self.url}: batch {batch}", state, len(keys) - len(lines), len(keys))
            words = " ".join(filter(None, (str(state.get("status")), said(state))))
            missing = f"batch {batch}: {words}: no answer to this request"
            given = [key for key in keys if key in lines or not bad]
            await self._hand_out(given, lines, lambda: Transient("server-error", missing, usage=usage))
            await self._do(partial(self._ledger.set_batch, name, "done"))
            if bad:
                raise bad
        except Exception as error:  # noqa: BLE001 - handed to each of those who wait
            if self._waiting.keys().isdisjoint(keys):
                log.warning(
                    "batch %s, for which nobody waits yet: %s", batch, error or "another engine has it"
                )
            self._give_up(keys, error)

    async def _last(
        self, name: str, batch: str, keys: list[str], file: str
    ) -> tuple[str, str, dict[str, Any]]:
        """Name, id and last state of a batch, once it is over; ordered again as long as the queue is full."""
        state = await self._ended(batch)
        end = time.monotonic() + DAY
        while full := queue_full(state):
            given = state.get("input_file_id")
            file = file or (given if isinstance(given, str) else "")
            if not file or time.monotonic() > end:
                break
            await self._room(full, len(keys))
            self._check()
            again = uuid.uuid4().hex
            if not await self._do(partial(self._ledger.replan_batch, name, again), Usage()):
                raise Lapsed
            name, batch = again, await self._order(again, file)
            state = await self._ended(batch)
        return name, batch, state

    async def _ended(self, batch: str) -> dict[str, Any]:
        """The last state of a batch, once it is over; "gone" where the provider has it no more."""
        while state := await self._unless_gone(self._state(batch), f"batch {batch}"):
            if state["status"] in OVER:
                return state
            await asyncio.sleep(POLL)
        return {"status": "gone"}

    async def _unless_gone(self, ask: Awaitable[T], what: str) -> T | None:
        """What the provider answers; None, with a warning, where it has thrown away what is asked for."""
        try:
            return await ask
        except (NotFound, Dead) as error:
            await self._arrived()  # raises where any batch is unknown: then the address is wrong
            why = str(error).partition("\n")[0]
            log.warning("%s is gone (%s): its requests without an answer are asked anew", what, why)
            return None

    async def _lines(
        self, batch: str, state: dict[str, Any], keys: list[str]
    ) -> tuple[dict[str, bytes], Usage | None]:
        """The lines of results by request; and what a request without one cost, None where it may have been paid."""
        wanted = set(keys)
        lines: dict[str, bytes] = {}
        usage: Usage | None = Usage()
        for file in (state.get("output_file_id"), state.get("error_file_id")):
            if isinstance(file, str) and file:
                found = await self._unless_gone(self._results(file, wanted), f"file {file} of batch {batch}")
                lines = (found or {}) | lines
                usage = None if found is None else usage
        return lines, usage

    async def _room(self, full: str, count: int) -> None:
        """Waits until a batch of ours has ended, or for some minutes: others may use the account, too."""
        log.warning(
            "%s: the queue of batches is full: %s: %d requests wait until a batch has ended, or %.0f s",
            self.url,
            full,
            count,
            FULL,
        )
        self._room_made.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._room_made.wait(), FULL)

    async def _hand_out(
        self, keys: list[str], lines: dict[str, bytes], missing: Callable[[], Transient]
    ) -> None:
        """Hands the answers to who waits for them, and into the ledger, where all of them are afterwards."""
        answers: list[Answer] = []
        unasked = []
        for key in keys:
            outcome: Outcome | Exception
            try:
                outcome = self._read_line(lines[key]) if key in lines else missing()
            except Exception as error:  # noqa: BLE001 - handed to the one who waits
                outcome = error
            is_handed = self._tell(key, outcome)
            if is_handed:
                self._submitted.discard(key)
            else:  # bought by an earlier run, and nobody has asked for it again yet
                unasked.append(key)
            # A reply always: who waits may be cancelled before it has recorded it.
            if not is_handed or isinstance(outcome, tuple):
                answers.append(Answer(key, outcome, is_handed))
        await asyncio.sleep(0)  # who waits is first to record its answer
        await self._answers.record(answers)
        self._give_up(unasked, Lapsed())  # to those who have asked meanwhile

    def _give_up(self, keys: Iterable[str], error: Exception) -> None:
        """Tells those who wait for these requests. What is not theirs alone ends the engine, and is told to all."""
        self._submitted.difference_update(keys)
        if isinstance(error, Lapsed):
            for key in keys:
                self._tell(key, error)
            return
        if isinstance(error, Dead):
            told = f"{self.url}: {error}\nNothing more was asked: correct what it names, then start again."
            error = BatchStopped(told)
        if isinstance(error, Doubtful):  # of the batch: no row's
            error = Unauthorized(str(error))
        self._stop(error if isinstance(error, UserError) else UserError(f"{self.url}: {error!r}"))
        for key in list(self._waiting):
            self._tell(key, error)

    def _tell(self, key: str, outcome: Outcome | Exception) -> bool:
        """Whether somebody waits for the request, who has the outcome now."""
        waiting = self._waiting.get(key)
        if waiting is None or waiting.done():
            return False
        if isinstance(outcome, tuple):
            waiting.set_result(outcome)
        else:
            waiting.set_exception(outcome)
        return True
