"""A stand-in for the annotator and the judge: an HTTP server that speaks their protocol. It is no model.

`python -m sifthinker.llm.standin --port 0 --port-file F` serves chat completions, the Batch API and an online batch
path, close enough for the official client. It writes chains from the regions in the prompt with the answer
that the prompt gives, and scores answers by the similarity of the letters. Equal requests get equal replies in
any order, and every reply names a model that begins with "standin".

It can be told to fail (`--fault KIND=RATE`, kinds in `FAULTS`), to be slow, and to keep a quota, and it counts
what it was asked (`counts`), so that a test can hold a client to it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import email.parser
import email.policy
import hashlib
import json
import logging
import math
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sifthinker.llm import standin_replies
from sifthinker.llm.standin_replies import CONTENT, MODEL
from sifthinker.system import processes

log = logging.getLogger(__name__)

# Drawn anew for every try of a request.
TRANSPORT = ("429", "429-retry-after", "500", "502", "stall", "reset", "malformed-json")
FAULTS = TRANSPORT + CONTENT  # the latter drawn once for a request, like a model's own mistakes


@dataclasses.dataclass
class Settings:
    """How the server behaves; the options of the command line."""

    faults: dict[str, float] = dataclasses.field(default_factory=dict)  # kind -> share of requests, 0..1
    seed: int = 0  # of the faults
    latency: float = 0.0  # seconds before an answer
    jitter: float = 0.0  # share by which the latency differs from request to request
    stall: float = 3600.0  # seconds of a "stall", which ends without an answer
    retry_after: float = 0.2  # seconds, of "429-retry-after"
    slow_start: float = 0.0  # seconds of 503 after the start
    requests_per_minute: int = 0  # quota; 0 = none
    tokens_per_minute: int = 0
    minute: float = 60.0  # seconds of the quota's window
    batch_seconds: float = 0.2  # until a batch is completed
    key: str = ""  # the API key that is asked for; "" = none


class Server:
    """State of one stand-in; used in one event loop."""

    def __init__(self, settings: Settings) -> None:
        unknown = set(settings.faults) - set(FAULTS)
        if unknown:
            raise ValueError(f"unknown faults {sorted(unknown)}; known: {', '.join(FAULTS)}")
        self.settings = settings
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

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One HTTP/1.1 connection, kept alive."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ", 2)
                headers = {
                    name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                answer = await self.answer(method, path, headers, body)
                if answer is None:
                    break  # a stall: closed without an answer
                status, more, raw = answer
                lines = [
                    f"HTTP/1.1 {status} -",
                    "content-type: application/json",
                    f"content-length: {len(raw)}",
                ]
                lines += [f"{name}: {value}" for name, value in more.items() if name != "cut"]
                message = "\r\n".join(lines).encode() + b"\r\n\r\n" + raw
                if "cut" in more:
                    writer.write(message[: len(message) - len(raw) // 2])
                    await writer.drain()
                    writer.transport.abort()
                    break
                writer.write(message)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away
        finally:
            writer.close()

    async def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes] | None:
        """Status, headers and body; none for no answer at all. A header "cut" breaks the connection half way."""
        route, _, query = path.partition("?")
        if route == "/standin/counts":
            return _json(200, self.counts())
        offered = headers.get("authorization", "").removeprefix("Bearer ")
        if self.settings.key and offered != self.settings.key:
            self._counts["401"] += 1
            # Echoes the key, as careless servers do: a client must not pass it on.
            return _error(401, f"Incorrect API key provided: {offered}", "invalid_api_key")
        if time.monotonic() - self._started < self.settings.slow_start:
            self._counts["503"] += 1
            return _error(503, "the stand-in is starting", "starting")
        if method == "POST" and route in ("/v1/chat/completions", "/v1/batch/chat/completions"):
            return await self._online(body)
        if route == "/v1/models":
            return _json(
                200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "standin"}]}
            )
        if route.startswith(("/v1/files", "/v1/batches")):
            return self._batch_api(method, route, query, headers, body)
        return _error(404, f"the stand-in has no {route}", "not_found")

    async def _online(self, body: bytes) -> tuple[int, dict[str, str], bytes] | None:
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)
        try:
            name = hashlib.sha256(body).digest()
            self._asked[name] += 1
            self._counts["requests"] += 1
            latency = self.settings.latency * (
                1 + self.settings.jitter * (2 * self._draw(b"latency", name) - 1)
            )
            fault = self._fault(TRANSPORT, name + self._asked[name].to_bytes(4, "big"))
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
                return _error(429, "too many requests", "rate_limit_exceeded", wait)
            if fault in ("500", "502"):
                return _error(int(fault), "the stand-in was told to fail", "server_error")
            await asyncio.sleep(latency)
            answer = _json(status, reply)
            if fault == "reset":
                return answer[0], {"cut": ""}, answer[2]
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
        fault = self._fault(CONTENT, name)
        try:
            reply = standin_replies.reply(json.loads(body), name, fault)
        except ValueError as error:
            return 400, _error_body(f"no request of ours: {error}", "invalid_request")
        if fault is not None:
            self._counts[fault] += 1
        return 200, reply

    def _over_quota(self, tokens: int) -> tuple[int, dict[str, str], bytes] | None:
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
            return _error(429, "quota exceeded", "rate_limit_exceeded", after)
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
    ) -> tuple[int, dict[str, str], bytes]:
        parts = route.split("/")[2:]
        if (method, parts) == ("POST", ["files"]):
            content = _form(headers.get("content-type", ""), body).get("file")
            if content is None:
                return _error(400, "no file in the form", "invalid_request")
            name = f"file-{len(self._files)}"
            self._files[name] = content
            return _json(200, {"id": name, "object": "file", "bytes": len(content), "purpose": "batch"})
        if parts[0] == "files" and parts[1] in self._files:
            return 200, {}, self._files[parts[1]]
        if (method, parts) == ("POST", ["batches"]):
            order = json.loads(body)
            if order.get("input_file_id") not in self._files:
                return _error(400, "no such input file", "invalid_request")
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
            return _json(200, self._batches[name])
        if parts == ["batches"]:
            names = list(self._batches)
            after = re.search(r"after=([^&]+)", query)
            rest = names[names.index(after[1]) + 1 :] if after else names
            return _json(
                200,
                {
                    "object": "list",
                    "data": [self._batches[n] for n in rest[:100]],
                    "has_more": len(rest) > 100,
                },
            )
        if parts[0] == "batches" and parts[1] in self._batches:
            return _json(200, self._batches[parts[1]])
        return _error(404, f"the stand-in has no {route}", "not_found")

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
            fault = self._fault(("500", "duplicate"), digest + self._asked[digest].to_bytes(4, "big"))
            if fault == "500":
                status, reply = 500, _error_body("the stand-in was told to fail", "server_error")
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

    def _draw(self, purpose: bytes, name: bytes) -> float:
        """A number in 0..1 that depends on the request and the seed alone."""
        digest = hashlib.sha256(b"%d %s %s" % (self.settings.seed, purpose, name)).digest()
        return int.from_bytes(digest[:7], "big") / 2**56

    def _fault(self, kinds: tuple[str, ...], name: bytes) -> str | None:
        draw = self._draw(kinds[0].encode(), name)
        for kind in kinds:
            draw -= self.settings.faults.get(kind, 0.0)
            if draw < 0:
                return kind
        return None


def _json(
    status: int, value: Any, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    return status, headers or {}, json.dumps(value).encode()


def _error_body(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": code, "param": None, "code": code}}


def _error(
    status: int, message: str, code: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    return _json(status, _error_body(message, code), headers)


def _form(content_type: str, body: bytes) -> dict[str, bytes]:
    """The fields of a multipart form."""
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        f"Content-Type: {content_type}\r\n\r\n".encode() + body
    )
    fields = {}
    for part in message.iter_parts():
        payload = part.get_payload(decode=True)
        if isinstance(payload, bytes):
            fields[str(part.get_param("name", header="content-disposition"))] = payload
    return fields


@contextlib.contextmanager
def running(log: Path, faults: Mapping[str, float] | None = None, **settings: float | str) -> Iterator[str]:
    """Runs a stand-in as a child of its own and yields its base URL; it ends with the block, and with us.

    `settings` are fields of `Settings`; `log` receives what it prints.

    Raises:
        RuntimeError: it did not come up; the end of its log is in the message.
    """
    port_file = log.with_name(f"{log.name}.{os.getpid()}.{time.monotonic_ns()}.port")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    options += [f"--fault={kind}={rate}" for kind, rate in (faults or {}).items()]
    command = [
        sys.executable,
        "-m",
        "sifthinker.llm.standin",
        "--port=0",
        f"--port-file={port_file}",
        *options,
    ]
    with log.open("ab") as out:
        child = subprocess.Popen(
            [*command, f"--parent={os.getpid()}"],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while not port_file.exists():
            if child.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise RuntimeError(f"the stand-in server did not come up:\n{tail}")
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port_file.read_text()}/v1"
    finally:
        processes.end(child.pid, grace=0)
        child.wait()
        port_file.unlink(missing_ok=True)


def counts(base_url: str) -> dict[str, Any]:
    """`Server.counts` of a running stand-in."""
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/standin/counts", timeout=30) as response:
        value: dict[str, Any] = json.load(response)
        return value


async def _serve(settings: Settings, port: int, port_file: Path | None, parent: int) -> None:
    server = await asyncio.start_server(
        Server(settings).connection, "127.0.0.1", port, limit=2**20, backlog=4096
    )
    bound = server.sockets[0].getsockname()[1]
    log.info("the stand-in serves http://127.0.0.1:%d/v1", bound)
    if port_file is not None:
        part = port_file.with_suffix(".part")
        part.write_text(str(bound))
        part.rename(port_file)
    async with server:
        while not parent or os.getppid() == parent:  # else: who started us was killed
            await asyncio.sleep(0.5)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m sifthinker.llm.standin", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument("--port-file", type=Path, help="written with the port when the server listens")
    parser.add_argument(
        "--parent", type=int, default=0, help="process id; the server ends when it is no longer ours"
    )
    parser.add_argument("--fault", action="append", default=[], metavar="KIND=RATE", help=", ".join(FAULTS))
    plain = [field for field in dataclasses.fields(Settings) if field.name != "faults"]
    for field in plain:
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default
        )
    options = parser.parse_args()
    faults = {}
    for fault in options.fault:
        kind, _, rate = fault.partition("=")
        if kind not in FAULTS:
            parser.error(f"unknown fault {kind!r}; known: {', '.join(FAULTS)}")
        faults[kind] = float(rate or 1.0)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = Settings(faults, **{field.name: getattr(options, field.name) for field in plain})
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(settings, options.port, options.port_file, options.parent))


if __name__ == "__main__":
    main()
