"""The OpenAI Batch API behind the same interface as online calls.

Requests gather into a file, which is uploaded and polled; a request's `chat` returns when its batch has come
back. A batch is written into the ledger before it is submitted and carries its name as metadata, so that a run
killed at any moment finds it again, collects it, and submits nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from sifthinker.config import Api
from sifthinker.llm import completion, http
from sifthinker.llm.batch_states import METADATA, OVER, queue_full, says_full, text
from sifthinker.llm.commits import Commits
from sifthinker.llm.completion import Unreadable
from sifthinker.llm.costs import Costs
from sifthinker.llm.http import Dead, Endpoint, Transient
from sifthinker.llm.ledger import Failure, Ledger, Reply
from sifthinker.llm.patience import Patience, Unreachable
from sifthinker.llm.usage import Usage

log = logging.getLogger(__name__)

IN_FLIGHT = 1000  # requests in batches at once, each with its pictures in memory
MOST_REQUESTS = 50_000  # of one file (provider's limit)
MOST_BYTES = 100_000_000  # of one file; the provider's limit is 200 MB
QUIET = 2.0  # seconds without a new request after which a batch is submitted
MOST_RESULTS = 512 * 2**20  # bytes of a file of results; the provider's limit of a file
OUTAGE = 3600.0  # seconds without an answer after which the run ends
POLL = 30.0  # seconds between two looks at a batch
FULL = (
    300.0  # seconds until a batch that a full queue refused is ordered again, unless one of ours ends before
)
DAY = 26 * 3600.0  # seconds that a full queue is waited for: a batch may take 24 hours
T = TypeVar("T")
Outcome = tuple[Reply, Usage | None]


class BatchEndpoint(Endpoint):
    """Calls through batches. Used in one event loop."""

    def __init__(self, api: Api, url: str) -> None:
        """An endpoint without batches; `open` takes up earlier ones."""
        super().__init__(api, url)
        self._pending: dict[str, bytes] = {}  # lines of the next batch by key
        self._bytes = 0
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}
        self._submitted: set[str] = set()  # keys in batches that are under way
        self._quiet: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._room_made = asyncio.Event()  # a batch of ours has ended

    async def open(
        self, ledger: Ledger, commits: Commits, account: str, costs: Costs, patience: Patience
    ) -> None:
        """Takes up the batches that an earlier run left."""
        self._ledger, self._do, self._account = ledger, commits.do, account
        self._costs, self._patience = costs, patience
        left = await self._do(partial(ledger.open_batches, account))
        if any(state == "planned" for state, _ in left.values()):
            arrived = await self._arrived()
        for name, (state, keys) in left.items():
            if state == "planned" and name not in arrived:
                await self._do(partial(ledger.set_batch, name, "done"))  # never reached the provider
                continue
            batch = arrived[name] if state == "planned" else state.removeprefix("sent ")
            log.info("batch %s of an earlier run: waiting for %d requests", batch, len(keys))
            self._submitted.update(keys)
            self._spawn(self._collect(name, batch, keys))

    async def close(self) -> None:
        """Stops waiting for batches; what was submitted stays with the provider."""
        if self._quiet:
            self._quiet.cancel()
        for task in self._tasks:
            task.cancel()
        await super().close()

    async def chat(self, request_key: str, body: bytes) -> Outcome:
        """As `Endpoint.chat`, but the answer comes with the batch."""
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

    async def _run(self, lines: dict[str, bytes]) -> None:
        keys = list(lines)
        try:
            file = await self._uploaded(b"".join(lines.values()))
            lines.clear()
            name, batch = await self._ordered(file, keys)
        except Exception as error:  # noqa: BLE001 - handed to each of those who wait
            self._give_up(keys, error)
            return
        await self._collect(name, batch, keys, file)

    async def _uploaded(self, content: bytes) -> str:
        upload = (f"{uuid.uuid4().hex}.jsonl", content)
        made = await self._patiently(lambda: self._object("POST", "/files", upload=upload), "/files")
        return text(made, "id")

    async def _ordered(self, file: str, keys: list[str]) -> tuple[str, str]:
        """Orders a batch of an uploaded file: its name and its id. Nothing is uploaded twice.

        Raises:
            Unreachable: there was no answer for an hour.
        """
        name = uuid.uuid4().hex
        await self._do(partial(self._ledger.plan_batch, name, self._account, keys), Usage())
        order = {
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {METADATA: name},
        }

        async def once() -> str:
            try:
                return text(await self._object("POST", "/batches", json.dumps(order).encode()), "id")
            except Dead as error:
                if says_full(error.failure.detail):
                    raise Transient("rate-limit", error.failure.detail, after=FULL) from error
                raise
            except Transient:  # its answer may have been lost after it was accepted
                if found := (await self._arrived()).get(name):
                    return found
                raise

        try:
            batch = await self._patiently(once, "/batches")
        except Exception:
            await self._do(partial(self._ledger.set_batch, name, "done"))
            raise
        await self._do(partial(self._ledger.set_batch, name, f"sent {batch}"), Usage())
        return name, batch

    async def _collect(self, name: str, batch: str, keys: list[str], file: str = "") -> None:
        """Waits for a batch and hands out its answers; `file` is what it was ordered from, as far as that is known."""
        try:
            state = await self._ended(batch)
            end = time.monotonic() + DAY
            while full := queue_full(state):
                given = state.get("input_file_id")
                file = file or (given if isinstance(given, str) else "")
                if not file or time.monotonic() > end:
                    break
                await self._room(full, len(keys))
                await self._do(partial(self._ledger.set_batch, name, "done"))
                name, batch = await self._ordered(file, keys)
                state = await self._ended(batch)
            self._room_made.set()
            wanted, answers = set(keys), dict[str, bytes]()
            for results in (state.get("output_file_id"), state.get("error_file_id")):
                if isinstance(results, str) and results:
                    await self._results(results, wanted, answers)
            errors = completion.excerpt(json.dumps(state.get("errors") or "").encode())
            missing = f"batch {batch}: {state.get('status')} {errors}"
            for key in keys:
                await self._deliver(key, answers.pop(key, None), missing)
            await self._do(partial(self._ledger.set_batch, name, "done"))
        except Exception as error:  # noqa: BLE001 - handed to each of those who wait
            self._give_up(keys, error)

    async def _ended(self, batch: str) -> dict[str, Any]:
        """The last state of a batch, once it is over."""
        state = await self._patient("GET", f"/batches/{batch}")
        while text(state, "status") not in OVER:
            await asyncio.sleep(POLL)
            state = await self._patient("GET", f"/batches/{batch}")
        return state

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

    async def _results(self, file: str, wanted: set[str], answers: dict[str, bytes]) -> None:
        """Adds the lines of a file of results by their request: the first one, should a line come twice."""
        path = f"/files/{file}/content"
        content = await self._patiently(lambda: self._raw("GET", path, most=MOST_RESULTS), path)
        odd = b""
        for line in content.splitlines():
            try:
                found = completion.parse(line) if line.strip() else None
            except Unreadable:
                found = line
            key = found.get("custom_id") if isinstance(found, dict) else None
            if isinstance(key, str) and key in wanted:
                answers.setdefault(key, line)
            elif found is not None:
                odd = odd or line
        if odd:
            log.warning(
                "file %s of a batch has lines that answer no request of it; the first one begins: %s",
                file,
                completion.excerpt(self.safe(odd)),
            )

    async def _deliver(self, key: str, line: bytes | None, missing: str) -> None:
        """Hands the answer of one request to who waits for it, or into the ledger."""
        self._submitted.discard(key)
        waiting = self._waiting.get(key)
        try:
            outcome = self._answer(line, missing)
        except Exception as error:  # noqa: BLE001 - handed to the one who waits
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)
            elif isinstance(error, (Dead, Transient)):
                await self._keep(key, error, error.usage, error.size if isinstance(error, Transient) else 0)
            return
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)
        else:  # bought by an earlier run, which nobody has asked for again yet
            reply, usage = outcome
            await self._keep(key, reply, usage, len(reply.text.encode()))

    def _answer(self, line: bytes | None, missing: str) -> Outcome:
        """Raises: see `Endpoint.read`."""
        if line is None:
            raise Transient("server-error", f"{missing}: no answer to this request")
        found = completion.parse(line)
        assert isinstance(found, dict), "it has a custom_id"
        response = found.get("response")
        if not isinstance(response, dict):
            response = {"status_code": 500, "body": {"error": found.get("error")}}
        status, body = response.get("status_code"), response.get("body")
        if status == 200:
            return self.read(body, line, {}, 0.0)
        raise self.trouble(status if isinstance(status, int) else 500, {}, json.dumps(body).encode())

    async def _keep(
        self, key: str, outcome: Reply | Dead | Transient, usage: Usage | None, size: int
    ) -> None:
        """Records what an earlier run asked; `size` is the answer's, in bytes."""
        if usage is None:
            record = json.loads(await self._do(partial(self._ledger.asked, key)) or b"{}")
            most = record.get("max_tokens") or record.get("max_completion_tokens") or completion.MOST_TOKENS
            usage = self._costs.estimated(record.get("messages", ()), size, most)
            if isinstance(outcome, Reply):
                prompt, completed = usage.prompt_tokens, usage.completion_tokens
                outcome = replace(outcome, prompt_tokens=prompt, completion_tokens=completed)
        if isinstance(outcome, Transient) and not usage.calls:  # not paid for; asked again by who wants it
            return
        await self._do(partial(self._record, key, outcome, usage), usage)

    def _record(self, key: str, outcome: Reply | Dead | Transient, usage: Usage) -> None:
        if self._ledger.claim(key, self._account, b"") != "mine":
            return
        if isinstance(outcome, Reply):
            self._ledger.settle(key, outcome, usage)
        elif isinstance(outcome, Dead):
            self._ledger.fail(key, outcome.failure, True, usage)
        else:
            self._ledger.fail(key, Failure(outcome.kind, outcome.detail), False, usage)

    def _give_up(self, keys: list[str], error: Exception) -> None:
        for key in keys:
            self._submitted.discard(key)
            waiting = self._waiting.get(key)
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)

    async def _arrived(self) -> dict[str, str]:
        """Ids of our batches at the provider, by name."""
        found: dict[str, str] = {}
        after = ""
        while True:
            page = await self._patient("GET", f"/batches?limit=100{after}")
            batches = page.get("data")
            if not isinstance(batches, list):
                raise Transient("unreadable", f"/batches: no list of batches: {str(page)[:200]}")
            for batch in batches:
                metadata = batch.get("metadata") if isinstance(batch, dict) else None
                if isinstance(metadata, dict) and isinstance(name := metadata.get(METADATA), str):
                    found[name] = text(batch, "id")
            if not page.get("has_more") or not batches:
                return found
            after = f"&after={text(batches[-1], 'id')}"

    async def _patient(self, method: str, path: str) -> dict[str, Any]:
        """`_object`, asked patiently."""
        return await self._patiently(lambda: self._object(method, path), path)

    async def _patiently(self, ask: Callable[[], Awaitable[T]], path: str) -> T:
        """Asks until there is an answer: a batch is paid for, and must not be given up for a bad minute.

        Raises:
            Unreachable: there was none for an hour; a limit of the account (429) is waited for as long as a batch may take.
        """
        tries, began = 0, time.monotonic()
        while True:
            try:
                return await ask()
            except Transient as error:
                tries += 1
                most = DAY if error.kind == "rate-limit" else OUTAGE
                if time.monotonic() > began + most:
                    raise Unreachable(
                        f"{self.url}{path}: no answer for {most / 60:.0f} minutes: {error.detail}\nWhat is in a "
                        "batch goes on at the provider, and the next run collects it; start again when it answers."
                    ) from error
                pause = self._patience.pause(error)
                wait = max(pause, self._patience.backoff(tries))
                self._patience.say(error, pause, wait, len(self._waiting))
                await asyncio.sleep(wait)

    async def _object(
        self, method: str, path: str, body: bytes | None = None, upload: tuple[str, bytes] | None = None
    ) -> dict[str, Any]:
        """The object that the provider answers; asked once, since a second time might order twice."""
        return self._read(path, await self._raw(method, path, body, upload))

    def _read(self, path: str, raw: bytes) -> dict[str, Any]:
        try:
            answer = completion.parse(raw)
        except Unreadable as error:
            raise Transient("unreadable", f"{path}: {error}") from error
        if not isinstance(answer, dict):
            raise Transient("unreadable", f"{path}: no object: {completion.excerpt(self.safe(raw))}")
        return answer

    async def _raw(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        upload: tuple[str, bytes] | None = None,
        most: int = http.MOST_BYTES,
    ) -> bytes:
        try:
            status, headers, raw = await self.send(method, path, body, upload, most)
        except Transient as error:
            error.usage = Usage()  # no completion: nothing to pay for
            raise
        if status != 200:
            raise self.trouble(status, headers, raw)
        self._patience.answered()
        return raw
