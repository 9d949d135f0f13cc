"""What endpoints do, and what has to come of it: one table for all who ask.

An answer is given to one request among good ones. `text` is the reply that would be right: a chain for the annotator, a
score for a judge.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate

from sifthinker import llm
from sifthinker.core.errors import UserError
from sifthinker.llm.endpoint_errors import Doubtful, NotFound
from tests.evil import GOOD_USAGE, chat
from tests.llm import wire_acts
from tests.llm.test_odd_replies import READ, UNREAD
from tests.wire import Wire

RETRIES = 2
TIMEOUT = 10.0  # seconds; two acts wait for it three times, and a good answer must arrive within it on a busy machine
TRIES = RETRIES + 1

Act = Callable[[Wire, str], Awaitable[None]]


@dataclass(frozen=True)
class Behaviour:
    """What is answered, and what comes of it."""

    act: Act
    # "accepted": the reply is used. "other": it is read, and says something else. Else the reason of the reject.
    verdict: str
    asked: int = 1  # times
    paid: int = 0  # of these, those that the account shows
    words: str = ""  # of the failure
    unsure: int = 0  # of those that the account shows, those that it may not: what the client saw is a matter of moments


@dataclass(frozen=True)
class Stop:
    """What every request is answered, and how the stage ends: nothing more is asked."""

    act: Act
    error: type[UserError]
    words: str  # a pattern


def good(text: str) -> bytes:
    return chat(text)


def answer(body: bytes | Callable[[str], bytes], status: int = 200, **headers: str) -> Act:
    """The same whole answer each time; a body that is a function gets the text."""

    async def act(wire: Wire, text: str) -> None:
        await wire.send(body if isinstance(body, bytes) else body(text), status, **headers)

    return act


def wrong(status: int, body: object = None, verdict: str = "exhausted", **headers: str) -> Behaviour:
    """A status other than 200, or an error in a 200."""
    raw = json.dumps(body or {"error": {"message": "an odd day"}}).encode()
    asked = TRIES if verdict == "exhausted" else 1
    return Behaviour(
        answer(raw, status, **headers), verdict, asked, words=f"HTTP {status}" if status != 200 else ""
    )


def error(code: object, verdict: str = "exhausted", **more: object) -> Behaviour:
    """An error in an answer with status 200."""
    return wrong(200, {"error": {"message": "an odd day", "code": code, **more}}, verdict)


def accepted(act: Act, asked: int = 1, paid: int = 1) -> Behaviour:
    return Behaviour(act, "accepted", asked, paid)


def unreadable(act: Act, words: str) -> Behaviour:
    """May be paid for each time, so it is tried three times at most."""
    return Behaviour(act, "unreadable", min(3, TRIES), min(3, TRIES), words)


def lost(act: Act, words: str = "") -> Behaviour:
    """Nothing of an answer, each time: not paid."""
    return Behaviour(act, "exhausted", TRIES, 0, words)


def unheard(act: Act, words: str = "", verdict: str = "exhausted", unsure: int = 0) -> Behaviour:
    """An answer that began, or may come late, each time: it may be paid for, so it is tried three times at most."""
    return Behaviour(act, verdict, min(3, TRIES), min(3, TRIES), words, unsure)


def timed_out(act: Act) -> Behaviour:
    return unheard(act, "no answer within", "timeout")


def first(act: Act) -> Act:
    """The first time; then a good answer."""

    async def once(wire: Wire, text: str) -> None:
        await (act(wire, text) if wire.attempt == 0 else wire.send(good(text)))

    return once


def packed(body: bytes) -> bytes:
    return gzip.compress(body)


# --- the table ---------------------------------------------------------------------------------------------------------


def of_odd_replies() -> dict[str, Behaviour]:
    """The bodies of `test_odd_replies`, with the right text where that has "fine"."""

    def body(odd: bytes) -> Callable[[str], bytes]:
        return lambda text: odd.replace(b"fine", json.dumps(text)[1:-1].encode())

    found: dict[str, Behaviour] = {}
    for name, (odd, said) in READ.items():
        whole = said == "fine" and b'"fine"' in odd
        found[name] = Behaviour(answer(body(odd)), "accepted" if whole else "other", 1, 1)
    for name, (odd, words) in UNREAD.items():
        if odd.startswith((b"{", b"[")):
            found[name] = unreadable(answer(odd), words)
        else:  # a page of a gateway, or nothing: not paid
            found[name] = lost(answer(odd), words)
    return found


BEHAVIOURS: dict[str, Behaviour] = {
    **of_odd_replies(),
    # statuses
    "201 with a completion": wrong(201, {"choices": []}, "bad-request"),
    "204": lost(answer(b"", 204, content_length="none"), "HTTP 204"),
    "304": Behaviour(answer(b"", 304, content_length="none"), "bad-request", words="HTTP 304"),
    "204 with a body": lost(answer(b"{}", 204)),  # a broken connection, if the body arrives with the head
    "400": wrong(400, {"error": {"message": "too long a prompt"}}, "bad-request"),
    "400 of a filter": wrong(400, {"error": {"code": "content_policy_violation"}}, "content-filter"),
    "400 in words": Behaviour(answer(b"Bad \x1b[31mRequest", 400), "bad-request", words="Bad [31mRequest"),
    "400 without a body": Behaviour(answer(b"", 400), "bad-request", words="HTTP 400"),
    "400 that names a field": wrong(
        400, {"error": {"message": "max_tokens is not supported"}}, "bad-request"
    ),
    "403 of a filter": wrong(
        403, {"error": {"code": 403, "message": "your input was flagged"}}, "content-filter"
    ),
    "405": wrong(405, None, "bad-request"),
    "408": wrong(408),
    "409": wrong(409),
    "413": wrong(413, None, "bad-request"),
    "418": wrong(418, None, "bad-request"),
    "422": wrong(422, {"detail": [{"loc": ["body"], "msg": "no"}]}, "bad-request"),
    "425": wrong(425),
    "429": wrong(429),
    "500": wrong(500),
    "501": wrong(501),
    "502 with a page": lost(
        answer(b"<html>Bad Gateway</html>", 502, content_type="text/html"), "Bad Gateway"
    ),
    "503": wrong(503),
    "504": wrong(504),
    "520": wrong(520),
    "529": wrong(529),
    "599": wrong(599),
    "500 once": accepted(first(answer(b"oh", 500)), 2),
    "429 once, a pause in ms": accepted(first(answer(b"", 429, retry_after_ms="20")), 2),
    "429 once, a pause of 0": accepted(first(answer(b"", 429, retry_after="0")), 2),
    "429 once, a pause in the past": accepted(
        first(answer(b"", 429, retry_after=formatdate(0, usegmt=True))), 2
    ),
    "503 once, a pause in words": accepted(first(answer(b"", 503, retry_after="soon")), 2),
    "503 once, a negative pause": accepted(first(answer(b"", 503, retry_after="-5")), 2),
    "503 once, no number": accepted(first(answer(b"", 503, retry_after="nan")), 2),
    # errors in a 200
    "error with code 400": error(400, "bad-request"),
    "error with code 429": error(429),
    "error with code 503 as text": error("503"),
    "error rate_limit_exceeded": error("rate_limit_exceeded"),
    "error server_error": error(None, type="server_error"),
    "error content_filter": error("content_filter", "content-filter"),
    "error with code 403 of a filter": error(403, "content-filter", metadata={"reasons": ["violence"]}),
    "error in words": wrong(200, {"error": "just words"}, "bad-request"),
    "error in a list": wrong(200, [{"error": {"code": 503, "message": "as Gemini"}}]),
    # headers
    "no content type": accepted(answer(good, content_type="none")),
    "text/html": accepted(answer(good, content_type="text/html")),
    "a charset that is not": accepted(answer(good, content_type="application/json; charset=latin-1")),
    "a charset that nobody knows": accepted(answer(good, content_type="application/json; charset=klingon")),
    "100 headers": accepted(wire_acts.many_headers),
    "cookies": accepted(answer(good, set_cookie="a=b; Path=/; HttpOnly")),
    "100 Continue and 103 first": accepted(wire_acts.says_continue_first),
    # encodings
    "gzip": accepted(answer(lambda text: packed(good(text)), content_encoding="gzip")),
    "GZIP": accepted(answer(lambda text: packed(good(text)), content_encoding="GZIP")),
    "x-gzip": unreadable(
        answer(lambda text: packed(good(text)), content_encoding="x-gzip"), "packed as 'x-gzip'"
    ),
    "deflate": accepted(answer(lambda text: zlib.compress(good(text)), content_encoding="deflate")),
    "identity": accepted(answer(good, content_encoding="identity")),
    "gzip that is none": unheard(answer(good, content_encoding="gzip")),
    "gzip cut off": unreadable(answer(lambda text: packed(good(text))[:-40], content_encoding="gzip"), ""),
    "gzip twice": unreadable(
        answer(lambda text: packed(packed(good(text))), content_encoding="gzip, gzip"), "packed as"
    ),
    "brotli": unreadable(answer(good, content_encoding="br"), "packed as 'br'"),
    "UTF-8 with a mark": accepted(answer(lambda text: b"\xef\xbb\xbf" + good(text))),
    "UTF-16": accepted(answer(lambda text: good(text).decode().encode("utf-16"))),
    "chunks": accepted(wire_acts.in_chunks),
    "chunks without an end": unheard(wire_acts.in_chunks_without_an_end),
    "chunks of no size": lost(wire_acts.in_chunks_of_no_size),  # seen with the head, which is lost with them
    # bodies
    "white space around": accepted(answer(lambda text: b"\n\n " + good(text) + b" \n")),
    "two objects": unreadable(answer(lambda text: good(text) + good(text)), "not JSON"),
    "events of a stream": unreadable(answer(lambda text: b"data: " + good(text) + b"\n\n"), "not JSON"),
    "two choices": accepted(answer(lambda text: _choices(text, "another"))),
    "choices with nothing in it": unreadable(answer(b'{"choices": [null]}'), "no choices"),
    "a null body": unreadable(answer(b"[null]"), "a list"),
    "reasoning beside the content": accepted(
        answer(lambda text: _message(text, reasoning_content="hm, 0.1"))
    ),
    "a call of a tool": Behaviour(
        answer(lambda _: _message(None, tool_calls=[{"id": "1", "type": "function"}])), "other", 1, 1
    ),
    "a refusal": Behaviour(answer(lambda _: _message(None, refusal="I cannot do that.")), "other", 1, 1),
    "stopped by the filter": Behaviour(
        answer(chat("", reason="content_filter")), "content-filter", 1, 1, "content_filter"
    ),
    "stopped by SAFETY": Behaviour(answer(chat("", reason="SAFETY")), "content-filter", 1, 1),
    "other usage besides": accepted(
        answer(lambda text: chat(text, {**GOOD_USAGE, "total_tokens": -1, "cost": "1e9", "x": None}))
    ),
    "usage in a list": accepted(answer(lambda text: chat(text, [GOOD_USAGE]))),
    # sizes
    "17 MB": unreadable(answer(chat("x" * (17 * 2**20))), "larger than 16 MB"),
    "17 MB, packed": unreadable(
        answer(gzip.compress(chat("x" * (17 * 2**20)), 1), content_encoding="gzip"), "larger than 16 MB"
    ),
    "a megabyte of blanks": accepted(answer(lambda text: b" " * 2**20 + good(text))),
    # connections
    "until it hangs up": accepted(wire_acts.until_it_hangs_up),
    "closes afterwards": accepted(wire_acts.closes_afterwards),
    "closes unannounced": accepted(wire_acts.closes_unannounced),
    "twice on one connection": accepted(wire_acts.says_it_twice),
    "trickles": accepted(wire_acts.trickles),
    "a redirect on the same host": accepted(wire_acts.redirects_once, 2),
    "cut in the middle": unheard(wire_acts.cut_in_the_middle),
    "reset in the middle": unheard(wire_acts.reset_in_the_middle, unsure=TRIES),  # it may overtake the head
    "resets": lost(wire_acts.resets),
    "hangs up": lost(wire_acts.hangs_up),
    "resets once": accepted(first(wire_acts.resets), 2),
    "hangs up once": accepted(first(wire_acts.hangs_up), 2),
    "no HTTP": lost(wire_acts.says_no_http),
    "says nothing": timed_out(wire_acts.says_nothing),
    "says nothing once": accepted(first(wire_acts.says_nothing), 2, 2),
    "stalls in the head": timed_out(wire_acts.stalls_in_the_head),
    "stalls in the body": timed_out(wire_acts.stalls_in_the_body),
    "trickles for ever": timed_out(wire_acts.trickles_for_ever),
    "an error that is cut off": lost(wire_acts.an_error_that_is_cut_off),
}

STOPS: dict[str, Stop] = {
    "401": Stop(answer(b'{"error": {"message": "no such key"}}', 401), llm.Unauthorized, "no such key.*check the key"),
    "402": Stop(answer(b"pay", 402), llm.Unauthorized, "no credit left"),
    "403": Stop(answer(b"", 403), Doubtful, "may not use the model"),
    "404": Stop(answer(b"<html>nginx</html>", 404), NotFound, "check base_url"),
    "407": Stop(answer(b"", 407), llm.Unauthorized, "the proxy .*asks for a user and a password"),
    "429 of an empty account": Stop(
        answer(b'{"error": {"code": "insufficient_quota"}}', 429), llm.Unauthorized, "no credit left"
    ),
    "400 of an empty account": Stop(
        answer(b'{"error": {"type": "Arrearage", "code": "Arrearage"}}', 400), llm.Unauthorized, "no credit left"
    ),
    "200 with code 401": Stop(
        answer(b'{"error": {"message": "no", "code": "invalid_api_key"}}'), llm.Unauthorized, "the answer is an error"
    ),
    "a field that is refused each time": Stop(
        answer(b'{"error": {"message": "Unsupported parameter: \'max_tokens\'"}}', 400),
        Doubtful,
        "token_limit_field: max_completion_tokens",
    ),
    "redirect to another host": Stop(
        answer(b"", 307, location="https://elsewhere.example/v1"), llm.Unauthorized, "elsewhere.example.*not followed"
    ),
    "redirect that forgets the body": Stop(
        answer(b"", 302, location="/login"), llm.Unauthorized, "/login, which is not followed"
    ),
    "redirects in a circle": Stop(
        answer(b"", 308, location="/v1/chat/completions"), llm.Unauthorized, "more than 3 redirects"
    ),
    "a pause of a day": Stop(answer(b"", 429, retry_after="86400"), llm.Unreachable, "longer than max_pause"),
    "a pause for ever": Stop(answer(b"", 503, retry_after="inf"), llm.Unreachable, "longer than max_pause"),
    "500 each time": Stop(answer(b"oh", 500), llm.Unreachable, "requests were given up after 3 tries"),
    "hangs up each time": Stop(wire_acts.hangs_up, llm.Unreachable, "requests were given up after 3 tries"),
}  # fmt: skip


def _message(content: object, **more: object) -> bytes:
    message = {"role": "assistant", "content": content, **more}
    return json.dumps(
        {"choices": [{"finish_reason": "stop", "message": message}], "usage": GOOD_USAGE}
    ).encode()


def _choices(*texts: str) -> bytes:
    choices = [
        {"index": n, "finish_reason": "stop", "message": {"content": text}} for n, text in enumerate(texts)
    ]
    return json.dumps({"choices": choices, "usage": GOOD_USAGE}).encode()
