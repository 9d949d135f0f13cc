"""What the stand-in answers: chat completions, the Batch API, its quota, and the counts of what it was asked."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from sifthinker.llm.standin import replies
from sifthinker.llm.standin.faults import TRANSPORT, Settings
from sifthinker.llm.standin.replies import CONTENT, MODEL
from sifthinker.llm.standin.seeing import Eyes
from sifthinker.llm.standin.wire import CUT, Answer, error, error_body, form_fields, json_answer


class Server:
    """State of one stand-in; used in one event loop."""

    def __init__(self, settings: Settings, eyes: Eyes | None = None) -> None:
        """A server that was asked nothing yet; `eyes` see what is in the annotator's pictures."""
        self.settings, self.eyes = settings, eyes
        self._started = time.monotonic()
        self._first: float | None = None
        self._asked: Counter[bytes] = Counter()  # tries by request
        self._answered: Counter[bytes] = Counter()  # complete, successful answers by request
        self._counts = Counter({"requests": 0, "prompt_tokens": 0, "completion_tokens": 0})
        self._minutes: dict[int, Counter[str]] = {}
        self._window: deque[tuple[float, int]] = deque()  # arrivals and their tokens, for the quota
        self._in_flight = self._most_in_flight = 0
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, dict[str, Any]] = {}

    def counts(self) -> dict[str, Any]:
        """What was asked and answered so far.

        `answered` counts successful answers (what a provider bills), `repeated` those of them beyond the first to
        the same request, `minutes` requests, answers, refusals by quota and tokens per minute since the first.
        """
        answered = sum(self._answered.values())
        return {
            **self._counts,
            "answered": answered,
            "distinct": len(self._answered),
            "repeated": answered - len(self._answered),
            "most_in_flight": self._most_in_flight,
            "batches": len(self._batches),
            "minutes": [dict(self._minutes[i]) for i in sorted(self._minutes)],
        }

    async def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer | None:
        """The answer to one request; None for no answer at all."""
        route, _, query = path.partition("?")
        if route == "/standin/counts":
            return json_answer(200, self.counts())
        offered = headers.get("authorization", "").removeprefix("Bearer ")
        if self.settings.key and offered != self.settings.key:
            self._counts["401"] += 1
            # Echoes the key, as careless servers do: a client must not pass it on.
            return error(401, f"Incorrect API key provided: {offered}", "invalid_api_key")
        if time.monotonic() - self._started < self.settings.slow_start:
            self._counts["503"] += 1
            return error(503, "the stand-in is starting", "starting")
        if method == "POST" and route in ("/v1/chat/completions", "/v1/batch/chat/completions"):
            return await self._online(body)
        if route == "/v1/models":
            return json_answer(
                200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "standin"}]}
            )
        if route.startswith(("/v1/files", "/v1/batches")):
            return self._batch_api(method, route, query, headers, body)
        return error(404, f"the stand-in has no {route}", "not_found")

    async def _online(self, body: bytes) -> Answer | None:
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)
        try:
            name = hashlib.sha256(body).digest()
            self._asked[name] += 1
            self._counts["requests"] += 1
            latency = self.settings.latency * (
                1 + self.settings.jitter * (2 * self.settings.draw(b"latency", name) - 1)
            )
            fault = self.settings.fault(TRANSPORT, name + self._asked[name].to_bytes(4, "big"))
            status, reply = self._completion(body, name)
            refusal = self._over_quota(reply.get("usage", {}).get("total_tokens", 0))
            if refusal is not None:
                return refusal
            if fault is not None:
                self._counts[fault] += 1
            if fault == "stall":
                await asyncio.sleep(self.settings.stall)
                return None
            if fault in ("429", "429-retry-after"):
                wait = {"retry-after": f"{self.settings.retry_after:g}"} if fault == "429-retry-after" else {}
                return error(429, "too many requests", "rate_limit_exceeded", wait)
            if fault in ("500", "502"):
                return error(int(fault), "the stand-in was told to fail", "server_error")
            await asyncio.sleep(latency)
            answer = json_answer(status, reply)
            if fault == "reset":
                return answer[0], {CUT: ""}, answer[2]
            if fault == "malformed-json":
                return answer[0], {}, answer[2][: len(answer[2]) // 2]
            if status == 200:
                self._count_answer(name, reply["usage"])
            else:
                self._counts[str(status)] += 1
            return answer
        finally:
            self._in_flight -= 1

    def _completion(self, body: bytes, name: bytes) -> tuple[int, dict[str, Any]]:
        """Status and body of a request that meets no fault of the transport."""
        fault = self.settings.fault(CONTENT, name)
        try:
            reply = replies.reply(json.loads(body), name, fault, self.eyes)
        except ValueError as error:
            return 400, error_body(f"no request of ours: {error}", "invalid_request")
        if fault is not None:
            self._counts[fault] += 1
        return 200, reply

    def _over_quota(self, tokens: int) -> Answer | None:
        now = time.monotonic()
        self._first = self._first if self._first is not None else now
        minute = self._minutes.setdefault(int((now - self._first) / self.settings.minute), Counter())
        minute["requests"] += 1
        while self._window and self._window[0][0] <= now - self.settings.minute:
            self._window.popleft()
        requests, most = self.settings.requests_per_minute, self.settings.tokens_per_minute
        if (requests and len(self._window) >= requests) or (
            most and sum(cost for _, cost in self._window) + tokens > most
        ):
            self._counts["over-quota"] += 1
            minute["refused"] += 1
            wait = self._window[0][0] + self.settings.minute - now if self._window else self.settings.minute
            after = {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(1000 * wait))}
            return error(429, "quota exceeded", "rate_limit_exceeded", after)
        self._window.append((now, tokens))
        minute["accepted"] += 1
        minute["tokens"] += tokens
        return None

    def _count_answer(self, name: bytes, usage: Mapping[str, int]) -> None:
        self._answered[name] += 1
        self._counts["prompt_tokens"] += usage["prompt_tokens"]
        self._counts["completion_tokens"] += usage["completion_tokens"]

    def _batch_api(
        self, method: str, route: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        parts = route.split("/")[2:]
        if (method, parts) == ("POST", ["files"]):
            content = form_fields(headers.get("content-type", ""), body).get("file")
            if content is None:
                return error(400, "no file in the form", "invalid_request")
            name = f"file-{len(self._files)}"
            self._files[name] = content
            return json_answer(200, {"id": name, "object": "file", "bytes": len(content), "purpose": "batch"})
        if parts[0] == "files" and parts[1] in self._files:
            return 200, {}, self._files[parts[1]]
        if (method, parts) == ("POST", ["batches"]):
            order = json.loads(body)
            if order.get("input_file_id") not in self._files:
                return error(400, "no such input file", "invalid_request")
            name = f"batch-{len(self._batches)}"
            self._batches[name] = {
                **order,
                "id": name,
                "object": "batch",
                "status": "in_progress",
                "output_file_id": None,
                "error_file_id": None,
            }
            asyncio.get_running_loop().call_later(self.settings.batch_seconds, self._complete, name)
            return json_answer(200, self._batches[name])
        if parts == ["batches"]:
            names = list(self._batches)
            after = re.search(r"after=([^&]+)", query)
            rest = names[names.index(after[1]) + 1 :] if after else names
            return json_answer(
                200,
                {
                    "object": "list",
                    "data": [self._batches[n] for n in rest[:100]],
                    "has_more": len(rest) > 100,
                },
            )
        if parts[0] == "batches" and parts[1] in self._batches:
            return json_answer(200, self._batches[parts[1]])
        return error(404, f"the stand-in has no {route}", "not_found")

    def _complete(self, name: str) -> None:
        """Answers a batch; "500" and "duplicate" strike single lines."""
        batch, lines = self._batches[name], []
        for line in self._files[batch["input_file_id"]].splitlines():
            order = json.loads(line)
            body = json.dumps(order["body"]).encode()
            digest = hashlib.sha256(body).digest()
            self._asked[digest] += 1
            self._counts["requests"] += 1
            status, reply = self._completion(body, digest)
            fault = self.settings.fault(("500", "duplicate"), digest + self._asked[digest].to_bytes(4, "big"))
            if fault == "500":
                status, reply = 500, error_body("the stand-in was told to fail", "server_error")
            if status == 200:
                self._count_answer(digest, reply["usage"])
            out = {
                "custom_id": order["custom_id"],
                "response": {"status_code": status, "body": reply},
                "error": None,
            }
            lines += [json.dumps(out)] * (2 if fault == "duplicate" else 1)
        output = f"file-{len(self._files)}"
        self._files[output] = "\n".join(lines).encode()
        batch.update(status="completed", output_file_id=output)
