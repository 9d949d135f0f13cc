"""The OpenAI Batch API behind the same interface as online calls.

Requests gather into a file, which is uploaded and polled; a request's `chat` returns when its batch has come
back. A batch is written into the ledger before it is submitted and carries its name as metadata, so that a run
killed at any moment finds it again, collects it, and submits nothing twice.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from sifthinker.config import Api
from sifthinker.endpoint import Dead, Endpoint, Transient
from sifthinker.ledger import Ledger, Reply, Usage

log = logging.getLogger(__name__)

IN_FLIGHT = 1000  # requests in batches at once, each with its pictures in memory
MOST_REQUESTS = 50_000  # of one file (provider's limit)
MOST_BYTES = 100_000_000  # of one file; the provider's limit is 200 MB
QUIET = 2.0  # seconds without a new request after which a batch is submitted
POLL = 30.0  # seconds between two looks at a batch
_OVER = {"completed", "failed", "expired", "cancelled"}
_METADATA = "sifthinker_batch"

Do = Callable[
    ..., Awaitable[Any]
]  # Engine.ledger_do: an operation in the ledger's thread; with a usage, durably
Outcome = tuple[Reply, Usage]


class BatchEndpoint(Endpoint):
    """Calls through batches. Used in one event loop."""

    def __init__(self, api: Api, url: str) -> None:
        super().__init__(api, url)
        self._pending: dict[str, bytes] = {}  # lines of the next batch by key
        self._bytes = 0
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}
        self._submitted: set[str] = set()  # keys in batches that are under way
        self._quiet: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, ledger: Ledger, do: Do, account: str) -> None:
        """Takes up the batches that an earlier run left."""
        self._ledger, self._do, self._account = ledger, do, account
        left: dict[str, tuple[str, list[str]]] = await do(partial(ledger.open_batches, account))
        if any(state == "planned" for state, _ in left.values()):
            arrived = await self._arrived()
        for name, (state, keys) in left.items():
            if state == "planned" and name not in arrived:
                await do(partial(ledger.set_batch, name, "done"))  # never reached the provider
                continue
            batch = arrived[name] if state == "planned" else state.removeprefix("sent ")
            log.info("batch %s of an earlier run: waiting for %d requests", batch, len(keys))
            self._submitted.update(keys)
            self._spawn(self._collect(name, batch, keys))

    async def close(self) -> None:
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

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, lines: dict[str, bytes]) -> None:
        name, keys = uuid.uuid4().hex, list(lines)
        try:
            content = b"".join(lines.values())
            lines.clear()
            file = await self._json("POST", "/files", upload=(f"{name}.jsonl", content))
            await self._do(partial(self._ledger.plan_batch, name, self._account, keys), Usage())
            order = {
                "input_file_id": file["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
                "metadata": {_METADATA: name},
            }
            try:
                batch = (await self._json("POST", "/batches", json.dumps(order).encode()))["id"]
            except Transient:  # its answer may have been lost after it was accepted
                batch = (await self._arrived()).get(name)
                if batch is None:
                    await self._do(partial(self._ledger.set_batch, name, "done"))
                    raise
            await self._do(partial(self._ledger.set_batch, name, f"sent {batch}"), Usage())
        except Exception as error:  # noqa: BLE001 - handed to each of those who wait
            self._give_up(keys, error)
            return
        await self._collect(name, batch, keys)

    async def _collect(self, name: str, batch: str, keys: list[str]) -> None:
        """Waits for a batch and hands out its answers."""
        try:
            while (state := await self._patient("GET", f"/batches/{batch}"))["status"] not in _OVER:
                await asyncio.sleep(POLL)
            answers: dict[str, Any] = {}
            for file in filter(None, (state.get("output_file_id"), state.get("error_file_id"))):
                for line in await self._patient("GET", f"/files/{file}/content", lines=True):
                    answers.setdefault(line["custom_id"], line)  # the first one, should a line come twice
            for key in keys:
                await self._deliver(
                    key, answers.get(key), f"batch {batch}: {state['status']} {state.get('errors') or ''}"
                )
            await self._do(partial(self._ledger.set_batch, name, "done"))
        except Exception as error:  # noqa: BLE001 - handed to each of those who wait
            self._give_up(keys, error)

    async def _deliver(self, key: str, line: Any, missing: str) -> None:
        self._submitted.discard(key)
        waiting = self._waiting.get(key)
        try:
            if line is None:
                raise Transient("server-error", f"{missing}: no answer to this request")
            response = line.get("response") or {"status_code": 500, "body": line.get("error")}
            if response["status_code"] != 200:
                raise self.trouble(response["status_code"], {}, json.dumps(response["body"]).encode())
            outcome = self.read(response["body"], 0.0)
        except Exception as error:  # noqa: BLE001 - handed to the one who waits
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)
            elif isinstance(error, Dead):
                await self._do(partial(self._keep, key, error), error.usage)
            return
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)
        else:  # bought by an earlier run, which nobody has asked for again yet
            await self._do(partial(self._keep, key, outcome), outcome[1])

    def _keep(self, key: str, outcome: Outcome | Dead) -> None:
        if self._ledger.claim(key, self._account, b"") != "mine":
            return
        if isinstance(outcome, Dead):
            self._ledger.fail(key, outcome.failure, True, outcome.usage)
        else:
            self._ledger.settle(key, *outcome)

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
            for batch in page["data"]:
                if name := (batch.get("metadata") or {}).get(_METADATA):
                    found[name] = batch["id"]
            if not page.get("has_more"):
                return found
            after = f"&after={page['data'][-1]['id']}"

    async def _patient(self, method: str, path: str, lines: bool = False) -> Any:
        """`_json`, tried again: polling for a day must survive a bad minute."""
        for attempt in range(self.api.retries):
            try:
                return await self._json(method, path, lines=lines)
            except Transient as error:
                log.info("batch: %s", error.detail)
                await asyncio.sleep(error.after or min(60.0, 2.0**attempt))
        return await self._json(method, path, lines=lines)

    async def _json(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        upload: tuple[str, bytes] | None = None,
        lines: bool = False,
    ) -> Any:
        status, headers, raw = await self.send(method, path, body, upload)
        if status != 200:
            raise self.trouble(status, headers, raw)
        try:
            return (
                [json.loads(line) for line in raw.splitlines() if line.strip()] if lines else json.loads(raw)
            )
        except ValueError as error:
            raise Transient("unreadable", f"{path}: not JSON: {error}") from error
