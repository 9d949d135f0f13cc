"""One call to an OpenAI-compatible endpoint, and what its errors mean.

The official client's own connection (on aiohttp) and headers carry it. Its layer of request options above them is left
out: it takes 40 % of a call's processor time, and what it is for, retries and the meaning of errors, is decided here,
where the ledger and the limits know of it.
"""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Mapping

import httpx2

from sifthinker.config import LOCAL, SERVED, STANDIN, UNNAMED, Api
from sifthinker.config.presets import throttles
from sifthinker.core.errors import UserError
from sifthinker.llm import completion, network, parameters
from sifthinker.llm.completion import Unreadable
from sifthinker.llm.endpoint_errors import Dead, Doubtful, Dropped, NotFound, Transient, Unauthorized
from sifthinker.llm.keys import key
from sifthinker.llm.ledger import Failure, Reply
from sifthinker.llm.usage import Usage, priced
from sifthinker.system import loopback

RETRIED = {204, 408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
OVERLOADED = {429, 503, 529}
MOST_BYTES = 16 * 2**20  # of an answer, on the wire and unpacked
_STREAMED = (b"data:", b"event:")  # begin server-sent events
REFUSED = {401, 402, 403, 404}  # the next request would fare no better
_FILTER_WORDS = (
    "content_filter",
    "content_policy",
    "contentfilter",
    "moderation",
    "sensitive",
    "data_inspection",
)
_ACCOUNT_EMPTY = (
    "insufficient_quota",
    "billing_hard_limit",
    "accountoverdue",
    "insufficient_balance",
    "arrearage",
)


def address(api: Api, base_url: str | None) -> str:
    """The base URL that is really called.

    Raises:
        UserError: no endpoint is named; or the stand-in or a local model is configured, and nobody started it.
    """
    if base_url is None and api.base_url == UNNAMED:
        raise UserError("base_url is not given: name an endpoint, or pass its URL")
    if base_url is None and api.base_url == STANDIN:
        raise UserError(
            "base_url is 'standin': start the stand-in (sifthinker.llm.standin.running) and pass its URL"
        )
    if base_url is None and api.base_url == LOCAL:
        raise UserError("base_url is 'local': start a server of the model and pass its URL")
    return (base_url or api.base_url).rstrip("/")


class Endpoint:
    """Online calls: `chat`, and `batch_chat`, which has the same body under another path. Used in one event loop."""

    def __init__(self, api: Api, url: str) -> None:
        """Prepares connections to `url`; nothing is sent."""
        self.api, self.url = api, url
        self._key = key(api, url)
        self._empty = set(_ACCOUNT_EMPTY) - set(throttles(url))  # words of an account without credit
        self._path = api.batch_chat_path if api.mode == "batch_chat" else "/chat/completions"
        loopback.direct()
        # openai takes more than a second to import: a run without calls need not wait for it.
        import openai

        from sifthinker.llm import connections

        self._http = openai.DefaultAioHttpClient(
            timeout=httpx2.Timeout(api.timeout, connect=min(30.0, api.timeout)),
            # None would mean its default of 100: the engine's own limit is the one that counts.
            limits=httpx2.Limits(max_connections=10_000, max_keepalive_connections=10_000),
            follow_redirects=False,  # `send` does, to the same host
            verify=connections.trusted(),
        )
        connections.guard(self._http)
        client = openai.AsyncOpenAI(
            api_key=self._key or "none",  # a server on this machine asks for none
            base_url=url,
            http_client=self._http,
        )
        named = {name: value for name, value in client.default_headers.items() if isinstance(value, str)}
        named.pop("Content-Type")  # of the request
        self._headers = {**named, "Authorization": f"Bearer {client.api_key}", "Accept-Encoding": "gzip"}
        self._addresses: dict[str, tuple[httpx2.URL, httpx2.Headers]] = {}  # by URL

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def chat(self, request_key: str, body: bytes) -> tuple[Reply, Usage | None]:
        """Sends the JSON body of one request; `request_key` is its name in the ledger.

        The usage is None where the endpoint reports none that can be true.

        Raises:
            Transient: 204, 408, 409, 425, 429, 5xx, a time-out, a broken connection, an answer that cannot be read.
            Dead: 400 and its like, and whatever the content filter stopped.
            Unauthorized: 401, 402, 403 (but for a filter's), 404, or the account is empty.
        """
        began = time.monotonic()
        status, headers, raw = await self.send("POST", self._path, body)
        if status != 200:
            raise self.trouble(status, headers, raw)
        try:
            answer = completion.parse(raw)
        except Unreadable as error:
            raise self.unreadable(error, raw) from error
        return self.read(answer, raw, headers, time.monotonic() - began)

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        upload: tuple[str, bytes] | None = None,
        most: int = MOST_BYTES,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers (names in any case) and body of one HTTP exchange.

        Args:
            method: GET or POST.
            path: below the base URL.
            body: JSON to post.
            upload: name and content of a file to post for a batch, in place of a body.
            most: bytes of the answer.

        Raises:
            Transient: a time-out, no or a broken connection, or an answer that is too large.
            Unauthorized: the way there is barred for every request: by a certificate, a proxy, a redirect.
        """
        url = self.url + path
        for _ in range(network.HOPS):
            status, headers, content = await self._exchange(method, url, body, upload, most)
            if not 300 <= status < 400 or not (location := headers.get("location")):
                return status, headers, content
            try:
                url = network.redirected(status, location, url, method)
            except UserError as error:
                raise Unauthorized(str(error)) from None
        raise Unauthorized(f"{self.url}{path}: more than {network.HOPS} redirects; correct base_url")

    async def _exchange(
        self, method: str, url: str, body: bytes | None, upload: tuple[str, bytes] | None, most: int
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request and its answer, see `send`."""
        import aiohttp

        from sifthinker.llm import connections

        way, response = connections.way(), None
        try:
            async with asyncio.timeout(
                self.api.timeout
            ):  # for the whole exchange, also of a server that trickles
                if method == "POST" and body is not None:
                    request = self._posted(url, body)
                else:
                    request = self._http.build_request(
                        method,
                        url,
                        data={"purpose": "batch"} if upload else None,
                        files={"file": upload} if upload else None,
                        headers=self._headers,
                    )
                response = await self._http.send(request, stream=True)
                try:
                    content = await self._content(response, most)
                finally:
                    await response.aclose()
        except asyncio.CancelledError as cancelled:
            if way.is_open and self.api.base_url not in (SERVED, LOCAL):
                raise Dropped from cancelled
            raise
        except (httpx2.RequestError, aiohttp.ClientError, OSError) as error:
            cause = error.__cause__ or error  # the transport calls a server that hung up a time-out too
            late = isinstance(error, TimeoutError) or isinstance(cause, TimeoutError)
            lost = way.is_open and (late if response is None else response.status_code == 200)
            lost = lost and self.api.base_url not in (SERVED, LOCAL)  # a server of ours costs nothing
            usage = None if lost else Usage()  # a provider charges for what it has answered, whoever heard it
            if late:
                detail = f"no answer within {self.api.timeout:g} s"
                raise Transient("timeout", detail, overload=True, usage=usage, lost=lost) from error
            try:  # the cause names the host, never a header
                detail = self.redact(network.trouble(cause, url))
            except UserError as barred:
                raise Unauthorized(str(barred)) from error
            unreachable = network.is_unreachable(cause)
            raise Transient("connection", detail, unreachable=unreachable, usage=usage, lost=lost) from error
        return response.status_code, response.headers, content

    async def _content(self, response: httpx2.Response, most: int) -> bytes:
        """The body, unpacked; a packed one is given up before it fills the memory.

        Raises:
            Transient: it is larger than `most`.
        """
        parts: list[bytes] = []
        size = 0
        if network.is_packed_oddly(packed := response.headers.get("content-encoding", "")):
            raise Transient(
                "unreadable", f"the answer is packed as {packed[:50]!r}, which is not read", usage=None
            )
        async for part in response.aiter_bytes():
            parts.append(part)
            size += len(part)
            if size > most or response.num_bytes_downloaded > most:
                begins = completion.excerpt(self.safe(parts[0]))
                detail = f"the answer is larger than {most / 2**20:.0f} MB; it begins: {begins}"
                raise Transient("unreadable", detail, usage=None, size=size)
        return b"".join(parts)

    def _posted(self, url: str, body: bytes) -> httpx2.Request:
        """A request as `self._http.post` would build it.

        Address and headers are read and normalised once and not for every request, which took a third of the
        processor time of a call without pictures.
        """
        if url not in self._addresses:
            address = httpx2.URL(url)
            constant = httpx2.Headers(self._http.headers)
            constant.update(self._headers)
            constant.update({"Host": address.netloc.decode(), "Content-Type": "application/json"})
            self._addresses[url] = address, constant
        address, constant = self._addresses[url]
        named = constant.copy()
        named["Content-Length"] = str(len(body))
        request = httpx2.Request("POST", address, headers=named, stream=httpx2.ByteStream(body))
        request.read()  # the transport takes it whole
        return request

    def read(
        self, answer: object, raw: bytes, headers: Mapping[str, str], seconds: float
    ) -> tuple[Reply, Usage | None]:
        """Reply and usage of a chat completion object; `raw` is its JSON.

        Raises:
            Transient: it is none, or an error that may pass.
            Dead: the content filter stopped it, or it is an error that will not pass.
            Unauthorized: it is an error of the account.
        """
        found = completion.tokens(answer)
        usage = priced(found, self.api.prices, self.api.mode != "chat") if found else None
        if (status := completion.fault(answer)) is not None:
            error = self.trouble(status, headers, raw, "the answer is an error: ")
            if isinstance(error, (Dead, Doubtful, Transient)) and usage is not None:
                error.usage = usage
            raise error
        try:
            said = completion.read(answer)
        except Unreadable as error:
            raise self.unreadable(error, raw, usage) from error
        if said.finish_reason == "content_filter":
            detail = f"finish_reason content_filter: {self.redact(said.text)[:200]}"
            raise Dead(Failure("content-filter", detail), usage)
        prompt, completed = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        model = said.model or self.api.model
        return Reply(said.text, said.finish_reason, model, prompt, completed, False, seconds), usage

    def unreadable(self, error: Unreadable, raw: bytes, usage: Usage | None = None) -> Transient:
        """An answer of status 200 that is no chat completion.

        It may have been paid for, unless it is a page of a gateway before the model, or nothing. A stream was.
        """
        begins = raw.lstrip()
        if usage is None and not begins.startswith((b"{", b"[", *_STREAMED)):
            usage = Usage()
        asked = " (a stream, which was not asked for)" if begins.startswith(_STREAMED) else ""
        detail = f"{error}{asked}; it begins: {completion.excerpt(self.safe(raw[:2000]))}"
        return Transient("unreadable", detail, usage=usage, size=len(raw))

    def trouble(self, status: int, headers: Mapping[str, str], raw: bytes, where: str = "") -> Exception:
        """What a status other than 200 means, or an error in an answer with 200."""
        lower = raw[:10_000].decode("utf-8", "replace").lower()
        try:
            between = network.refusal(status, raw, self.url)
        except UserError as barred:
            return Unauthorized(str(barred))
        detail = f"{where}HTTP {status}: {completion.words(self.safe(raw))}{between}"
        if status == 403 and completion.flagged(raw):
            return Dead(Failure("content-filter", detail), Usage())
        named = lower if status == 429 else completion.names(raw)  # a 400 may quote the question
        empty = status in (400, 403, 429) and any(word in named for word in self._empty)
        if status in REFUSED or empty:
            name = self.api.api_key_env
            of = f"in the environment variable {name}" if name else "(none was sent: api_key_env is empty)"
            todo = {
                401: f"check the key {of}",
                403: f"the key {of} may not use the model '{self.api.model}'",
                404: f"check base_url and the model '{self.api.model}'",
            }.get(0 if empty else status, "the account has no credit left; top it up")
            told = f"{self.url}: {detail}\nNothing more was asked: {todo}, then start again."
            if status in (401, 402) or empty:
                return Unauthorized(told)
            return (NotFound if status == 404 else Doubtful)(told, Failure("bad-request", detail))
        if status in RETRIED or status >= 500:
            kind = "rate-limit" if status == 429 else "server-error"
            return Transient(kind, detail, retry_after(headers), overload=status in OVERLOADED)
        if status in (400, 422) and (mend := parameters.advice(self.safe(raw), self.api)):
            told = f"{self.url}: {detail}\nNothing more was asked, since every request has this field: {mend} in the "
            told = f"{told}endpoint's section, then start again."
            return Doubtful(told, Failure("bad-request", detail), final=True)
        filtered = any(word in lower for word in _FILTER_WORDS)
        return Dead(Failure("content-filter" if filtered else "bad-request", detail), Usage())

    def redact(self, text: str) -> str:
        """The text without the key, should a server echo it."""
        return text.replace(self._key, "***") if self._key else text

    def safe(self, raw: bytes) -> bytes:
        """The same of a body."""
        return raw.replace(self._key.encode(), b"***") if self._key else raw


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
    except (ValueError, OverflowError, TypeError):  # TypeError: a date without a zone, in some versions
        return None  # unreadable: the exponential back-off is right as well
