"""The calls of the Batch API, repeated until the provider answers.

A batch is paid for, and must not be given up for a bad minute. Only the order of a batch is sent once at a time: whether
one arrived whose answer was lost is for `batch` to find out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from sifthinker.config import Api
from sifthinker.llm import completion, http
from sifthinker.llm.batch_states import METADATA, text
from sifthinker.llm.completion import Unreadable
from sifthinker.llm.endpoint_errors import Transient
from sifthinker.llm.http import Endpoint
from sifthinker.llm.ledger import Reply
from sifthinker.llm.patience import Patience, Unreachable
from sifthinker.llm.usage import Usage

log = logging.getLogger(__name__)

MOST_RESULTS = 512 * 2**20  # bytes of a file of results; the provider's limit of a file
OUTAGE = 3600.0  # seconds without an answer after which the run ends
DAY = 26 * 3600.0  # seconds that a limit of the account is waited for: a batch may take 24 hours
T = TypeVar("T")
Outcome = tuple[Reply, Usage | None]


class BatchCalls(Endpoint):
    """What is asked of the provider about batches. Used in one event loop."""

    _patience: Patience  # set before the first call

    def __init__(self, api: Api, url: str) -> None:
        """Prepares connections to `url`; nothing is sent."""
        super().__init__(api, url)
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}  # for the answers, by request

    async def _uploaded(self, content: bytes) -> str:
        """The provider's id of a file with this content."""
        upload = (f"{uuid.uuid4().hex}.jsonl", content)

        async def once() -> str:
            return text(await self._object("POST", "/files", upload=upload), "id")

        return await self._patiently(once, "/files")

    async def _state(self, batch: str) -> dict[str, Any]:
        """What the provider says of a batch; it has a status."""
        path = f"/batches/{batch}"

        async def once() -> dict[str, Any]:
            state = await self._object("GET", path)
            text(state, "status")
            return state

        return await self._patiently(once, path)

    async def _arrived(self) -> dict[str, str]:
        """Ids of our batches at the provider, by name."""
        found: dict[str, str] = {}
        after: str | None = ""
        while after is not None:
            path = f"/batches?limit=100{after}"
            page, after = await self._patiently(partial(self._page, path), path)
            found |= page
        return found

    async def _page(self, path: str) -> tuple[dict[str, str], str | None]:
        """Ids by name of our batches on a page of the provider's list, and what asks for the next page."""
        page = await self._object("GET", path)
        batches = page.get("data")
        if not isinstance(batches, list):
            raise Transient("unreadable", f"{path}: no list of batches: {str(page)[:200]}")
        found = {}
        for batch in batches:
            metadata = batch.get("metadata") if isinstance(batch, dict) else None
            if isinstance(metadata, dict) and isinstance(name := metadata.get(METADATA), str):
                found[name] = text(batch, "id")
        more = page.get("has_more") and batches
        return found, f"&after={text(batches[-1], 'id')}" if more else None

    async def _results(self, file: str, wanted: set[str]) -> dict[str, bytes]:
        """The lines of a file of results by their request: the first one, should a line come twice."""
        path = f"/files/{file}/content"
        content = await self._patiently(lambda: self._raw("GET", path, most=MOST_RESULTS), path)
        answers: dict[str, bytes] = {}
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
        return answers

    def _read_line(self, line: bytes) -> Outcome:
        """The answer in a line of results. Raises: see `Endpoint.read`."""
        found = completion.parse(line)
        assert isinstance(found, dict), "it has a custom_id"
        response = found.get("response")
        if not isinstance(response, dict):
            response = {"status_code": 500, "body": {"error": found.get("error")}}
        status, body = response.get("status_code"), response.get("body")
        if status == 200:
            return self.read(body, line, {}, 0.0)
        raise self.trouble(status if isinstance(status, int) else 500, {}, json.dumps(body).encode())

    async def _patiently(self, ask: Callable[[], Awaitable[T]], path: str) -> T:
        """Asks until there is an answer.

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
        raw = await self._raw(method, path, body, upload)
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
