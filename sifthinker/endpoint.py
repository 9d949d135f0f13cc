"""One call to an OpenAI-compatible endpoint, and what its errors mean.

The official client's own connection (on aiohttp) and headers carry it. Its layer of request options above them is left
out: it takes 40 % of a call's processor time, and what it is for, retries and the meaning of errors, is decided here,
where the ledger and the limits know of it.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2

from sifthinker.config import STANDIN, Api, Prices, UserError
from sifthinker.ledger import Failure, Reply, Usage

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
OVERLOADED = {429, 503, 529}
REFUSED = {401, 402, 403, 404}  # the next request would fare no better
_FILTER_WORDS = (
    "content_filter",
    "content_policy",
    "contentfilter",
    "moderation",
    "sensitive",
    "data_inspection",
)
_ACCOUNT_EMPTY = ("insufficient_quota", "billing_hard_limit", "accountoverdue", "insufficient_balance")


class Unauthorized(UserError):
    """The endpoint serves nothing to this account or by this name; asking on would only burn the data set."""


class Transient(Exception):
    """Worth another try."""

    def __init__(self, kind: str, detail: str, after: float | None = None, overload: bool = False) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.overload = kind, detail, overload
        self.after = after  # seconds, of a Retry-After


class Dead(Exception):
    """Refused for good, maybe for money."""

    def __init__(self, failure: Failure, usage: Usage) -> None:
        super().__init__(failure.detail)
        self.failure, self.usage = failure, usage


def address(api: Api, base_url: str | None) -> str:
    """The base URL that is really called.

    Raises:
        UserError: the stand-in is configured and nobody started it.
    """
    if base_url is None and api.base_url == STANDIN:
        raise UserError(
            "base_url is 'standin': start the stand-in (sifthinker.standin.running) and pass its URL"
        )
    return (base_url or api.base_url).rstrip("/")


def key(api: Api, url: str) -> str:
    """The API key from the environment; "" for a server on this machine that needs none.

    Raises:
        UserError: a remote endpoint is configured and the variable is not set.
    """
    value = os.environ.get(api.api_key_env, "").strip()
    if not value and (urlsplit(url).hostname or "") not in ("localhost", "127.0.0.1", "::1"):
        raise UserError(
            f"{url}: no API key: set the environment variable {api.api_key_env}, or name another one in "
            "api_key_env; any value does for a server that asks for none"
        )
    return value


def money(usage: dict[str, Any], prices: Prices, batch: bool) -> Usage:
    """A call's usage as the server reports it, priced; cached prompt tokens have a price of their own."""
    prompt, completion = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    cached = min(prompt, int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0))
    cost = (prompt - cached) * prices.prompt + cached * prices.cached_prompt + completion * prices.completion
    return Usage(1, prompt, cached, completion, cost / 1e6 * (prices.batch_discount if batch else 1.0))


class Endpoint:
    """Online calls: `chat`, and `batch_chat`, which has the same body under another path. Used in one event loop."""

    def __init__(self, api: Api, url: str) -> None:
        self.api, self.url = api, url
        self._key = key(api, url)
        self._path = api.batch_chat_path if api.mode == "batch_chat" else "/chat/completions"
        import openai  # more than a second, which a run without calls need not wait for

        self._http = openai.DefaultAioHttpClient(
            timeout=httpx2.Timeout(api.timeout, connect=min(30.0, api.timeout)),
            # None would mean its default of 100: the engine's own limit is the one that counts.
            limits=httpx2.Limits(max_connections=10_000, max_keepalive_connections=10_000),
        )
        client = openai.AsyncOpenAI(
            api_key=self._key or "none",  # a server on this machine asks for none
            base_url=url,
            http_client=self._http,
        )
        named = {name: value for name, value in client.default_headers.items() if isinstance(value, str)}
        named.pop("Content-Type")  # of the request
        self._headers = {**named, "Authorization": f"Bearer {client.api_key}"}
        self._addresses: dict[str, tuple[httpx2.URL, httpx2.Headers]] = {}  # by path

    async def close(self) -> None:
        await self._http.aclose()

    async def chat(self, request_key: str, body: bytes) -> tuple[Reply, Usage]:
        """Sends the JSON body of one request; `request_key` is its name in the ledger.

        Raises:
            Transient: 408, 409, 429, 5xx, a time-out, a broken connection, an answer that is no JSON.
            Dead: 400 and its like, and whatever the content filter stopped.
            Unauthorized: 401, 402, 403, 404, or the account is empty.
        """
        began = time.monotonic()
        status, headers, raw = await self.send("POST", self._path, body)
        if status != 200:
            raise self.trouble(status, headers, raw)
        try:
            answer = json.loads(raw)
        except ValueError as error:
            raise Transient("unreadable", f"the answer is not JSON: {error}") from error
        return self.read(answer, time.monotonic() - began)

    async def send(
        self, method: str, path: str, body: bytes | None = None, upload: tuple[str, bytes] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers (names in any case) and body of one HTTP exchange.

        Args:
            method: GET or POST.
            path: below the base URL.
            body: JSON to post.
            upload: name and content of a file to post for a batch, in place of a body.

        Raises:
            Transient: a time-out, or no or a broken connection.
        """
        import aiohttp

        try:
            async with asyncio.timeout(
                self.api.timeout
            ):  # for the whole exchange, also of a server that trickles
                if method == "POST" and body is not None:
                    response = await self._http.send(self._posted(path, body))
                else:
                    response = await self._http.request(
                        method,
                        self.url + path,
                        data={"purpose": "batch"} if upload else None,
                        files={"file": upload} if upload else None,
                        headers=self._headers,
                    )
        except (httpx2.RequestError, aiohttp.ClientError, OSError) as error:
            cause = error.__cause__ or error  # the transport calls a server that hung up a time-out too
            if isinstance(error, TimeoutError) or isinstance(cause, TimeoutError):
                raise Transient(
                    "timeout", f"no answer within {self.api.timeout:g} s", overload=True
                ) from error
            # The cause names the host, never a header.
            raise Transient("connection", self.redact(f"{type(cause).__name__}: {cause}")) from error
        return response.status_code, response.headers, response.content

    def _posted(self, path: str, body: bytes) -> httpx2.Request:
        """A request as `self._http.post` would build it.

        Address and headers are read and normalised once and not for every request, which took a third of the
        processor time of a call without pictures.
        """
        if path not in self._addresses:
            address = httpx2.URL(self.url + path)
            constant = httpx2.Headers(self._http.headers)
            constant.update(self._headers)
            constant.update({"Host": address.netloc.decode(), "Content-Type": "application/json"})
            self._addresses[path] = address, constant
        address, constant = self._addresses[path]
        named = constant.copy()
        named["Content-Length"] = str(len(body))
        request = httpx2.Request("POST", address, headers=named, stream=httpx2.ByteStream(body))
        request.read()  # the transport takes it whole
        return request

    def read(self, answer: Any, seconds: float) -> tuple[Reply, Usage]:
        """Reply and usage of a chat completion object.

        Raises:
            Transient: it is none.
            Dead: the content filter stopped it.
        """
        try:
            choice = answer["choices"][0]
            text, reason = choice["message"].get("content") or "", choice.get("finish_reason") or "stop"
            model = str(answer.get("model") or self.api.model)
            usage = money(answer.get("usage") or {}, self.api.prices, self.api.mode != "chat")
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            detail = f"the answer is no chat completion: {type(error).__name__}: {error}"
            raise Transient("unreadable", detail) from error
        if reason == "content_filter":
            raise Dead(Failure("content-filter", f"finish_reason content_filter: {text[:200]}"), usage)
        return Reply(text, reason, model, usage.prompt_tokens, usage.completion_tokens, False, seconds), usage

    def trouble(self, status: int, headers: Mapping[str, str], raw: bytes) -> Exception:
        """What a status other than 200 means."""
        text = self.redact(raw.decode("utf-8", "replace")).strip()[:500]
        lower = text.lower()
        detail = f"HTTP {status}: {text}"
        empty = status == 429 and any(word in lower for word in _ACCOUNT_EMPTY)
        if status in REFUSED or empty:
            todo = {
                401: f"check the key in the environment variable {self.api.api_key_env}",
                403: f"the key in {self.api.api_key_env} may not use the model '{self.api.model}'",
                404: f"check base_url and the model '{self.api.model}'",
            }.get(status, "the account has no credit left; top it up")
            return Unauthorized(f"{self.url}: {detail}\nNothing more was asked: {todo}, then start again.")
        if status in RETRIED or status >= 500:
            kind = "rate-limit" if status == 429 else "server-error"
            return Transient(kind, detail, retry_after(headers), overload=status in OVERLOADED)
        filtered = any(word in lower for word in _FILTER_WORDS)
        return Dead(Failure("content-filter" if filtered else "bad-request", detail), Usage())

    def redact(self, text: str) -> str:
        """The text without the key, should a server echo it."""
        return text.replace(self._key, "***") if self._key else text


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms`, or `Retry-After` as seconds or as a date."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        try:
            return max(0.0, float(value))
        except ValueError:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None  # unreadable: the exponential back-off is right as well
