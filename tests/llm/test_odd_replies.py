"""Whatever one reply holds, the five beside it are kept and paid once, and the row of the odd one says what came."""

from __future__ import annotations

import gzip
import json
import sqlite3
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from sifthinker import llm
from sifthinker.config import Api
from sifthinker.llm import batch, completion, judge, standin
from tests import evil
from tests.evil import chat
from tests.ledgers import counts

ODD = 3  # the request that gets the odd reply
NO_JSON = b"<html><body>502 Bad Gateway</body></html>"


def question(number: int = 0) -> llm.Request:
    return judge.request("q", "a", f"answer number {number}.")


def usage(prompt: object, completion_tokens: object = 5) -> bytes:
    return chat(usage={"prompt_tokens": prompt, "completion_tokens": completion_tokens})


def raw_usage(text: bytes) -> bytes:
    """With a number that json.dumps cannot write."""
    return usage("HERE").replace(b'"HERE"', text)


# Read: the reply is kept, with this text.
READ = {
    "list of parts": (chat([{"type": "text", "text": "fi"}, {"type": "text", "text": "ne"}]), "fine"),
    "thinking part": (
        chat([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]),
        "a",
    ),
    "reasoning part": (chat([{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "a"}]), "a"),
    "list of texts": (chat(["fi", "ne"]), "fine"),
    "no content": (chat(None), ""),
    "lone surrogate": (chat("half \ud83d"), "half \ufffd"),
    "surrogate in a part": (chat([{"type": "text", "text": "\udc00x"}]), "\ufffdx"),
    "whole pair": (chat("x").replace(b'"x"', rb'"\ud83d\ude00"'), "\U0001f600"),
    "NUL": (chat("a\0b"), "a\0b"),
    "finish_reason a dict": (chat(reason={"type": "stop"}), "fine"),
    "finish_reason a list": (chat(reason=["stop"]), "fine"),
    "finish_reason a number": (chat(reason=7), "fine"),
    "finish_reason a surrogate": (chat(reason="st\ud83dop"), "fine"),
    "model a surrogate": (chat(model="m\ud83d"), "fine"),
    "model a dict": (chat(model={"name": "m"}), "fine"),
    "usage 1e19": (usage(10**19), "fine"),
    "usage 1e400": (raw_usage(b"1e400"), "fine"),
    "usage Infinity": (raw_usage(b"Infinity"), "fine"),
    "usage NaN": (raw_usage(b"NaN"), "fine"),
    "usage negative": (usage(-100_000, -5), "fine"),
    "usage absurd": (usage(10**18), "fine"),
    "usage words": (usage("many"), "fine"),
    "usage a list": (chat(usage=[1, 2]), "fine"),
    "usage a dict in it": (usage({"a": 1}), "fine"),
    "usage true": (usage(True), "fine"),
    "usage half": (usage(1.5), "fine"),
    "usage of zeros": (usage(0, 0), "fine"),
    "usage null": (chat(usage=None), "fine"),
    "cached negative": (chat(usage={**evil.GOOD_USAGE, "prompt_tokens_details": {"cached_tokens": -5}}), "fine"),
    "cached a list": (chat(usage={**evil.GOOD_USAGE, "prompt_tokens_details": [3]}), "fine"),
    "usage as text": (usage("10", "5"), "fine"),
    "usage as float": (usage(10.0, 5.0), "fine"),
}  # fmt: skip

# Not read: that one request fails, with these words.
UNREAD = {
    "content a number": (chat(7), "content is a number"),
    "content true": (chat(True), "content is a truth value"),
    "content a dict": (chat({"text": "a"}), "content is an object"),
    "part a number": (chat([7]), "a part that is no text"),
    "part a picture": (chat([{"type": "image_url", "image_url": {}}]), "a part that is no text"),
    "part's text a dict": (chat([{"type": "text", "text": {"value": "a"}}]), "a part that is no text"),
    "message a list": (
        b'{"choices": [{"message": []}], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}',
        "message is a list",
    ),
    "no choices": (
        b'{"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}',
        "it has no choices",
    ),
    "choices a dict": (b'{"choices": {"0": 1}}', "it has no choices"),
    "a list": (b"[1, 2]", "the answer is a list"),
    "deep": (b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
    "deep content": (b'{"content": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "nested too deep"),
    "cut off": (chat()[:50], "not JSON"),
    "an integer of 5,000 digits": (raw_usage(b"9" * 5000), "not JSON"),
    "HTML": (NO_JSON, "502 Bad Gateway"),
    "nothing": (b"", "not JSON"),
    "not UTF-8": (b"\xff\xfe\x00\x01", "not JSON"),
    "terminal codes": (b"\x1b[2J\x07 gone", "gone"),
}


def one_odd(odd: bytes, headers: dict[str, str] | None = None, status: int = 200):
    """Five good replies and an odd one."""

    def answer(_: int, body: bytes) -> evil.Answer:
        if f"answer number {ODD}.".encode() in body:
            return status, headers or {}, odd
        return 200, {}, chat()

    return answer


def ask(
    tmp_path: Path, odd: bytes, headers: dict[str, str] | None = None, status: int = 200, **api: object
) -> tuple[list[llm.Reply | llm.Failure], evil.Evil, dict[str, int], tuple[int, ...], llm.Client]:
    """The answers to six requests, asked twice; what the server saw; the ledger's states; the account."""
    ledger = tmp_path / "calls.db"
    settings = Api.model_validate({"retries": 3, "timeout": 10.0, "concurrency": 8, **api})
    with evil.serving(one_odd(odd, headers, status)) as server:
        with llm.Client(settings, ledger, server.url) as client:
            answers = client.ask_all(question(n) for n in range(6))
        good = [n for n in range(6) if n != ODD]
        with llm.Client(settings, ledger, server.url) as again:
            assert all(reply.cached for reply in again.ask_all(question(n) for n in good))
    with sqlite3.connect(ledger) as db:
        states = dict(db.execute("SELECT state, count(*) FROM calls GROUP BY state"))
        account = db.execute("SELECT calls, prompt_tokens, completion_tokens FROM accounts").fetchone()
    for n in good:
        assert isinstance(answers[n], llm.Reply)
        assert answers[n].text == "fine"
        assert sum(f"answer number {n}.".encode() in body for body in server.asked) == 1
    return answers, server, states, account, client


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("sifthinker.llm.patience.Patience.backoff", lambda *_: 0.01)


@pytest.mark.parametrize("name", READ)
def test_a_reply_that_can_be_read_is_brought_into_form(tmp_path, name):
    odd, text = READ[name]
    answers, server, states, account, _ = ask(tmp_path, odd)
    assert answers[ODD].text == text
    assert states == {"ok": 6}
    assert len(server.asked) == 6
    calls, prompt, completed = account
    assert calls == 6
    if name.startswith("usage") and name not in ("usage as text", "usage as float"):
        assert 50 + 50 < prompt < 50 + 500  # estimated of a prompt of some 900 letters
        assert 25 <= completed < 40
    else:
        assert (prompt, completed) == (60, 30)


@pytest.mark.parametrize("name", UNREAD)
def test_a_reply_that_cannot_be_read_fails_alone_and_says_what_came(tmp_path, name):
    odd, words = UNREAD[name]
    answers, server, states, account, _ = ask(tmp_path, odd)
    failure = answers[ODD]
    assert isinstance(failure, llm.Failure)
    assert words in failure.detail
    assert failure.detail.isprintable()
    assert len(failure.detail) < 500
    assert states == {"ok": 5, "failed": 1}
    page = not odd.startswith((b"{", b"["))  # of a gateway: nobody was asked, nothing is paid
    assert failure.kind == ("exhausted" if page else "unreadable")
    assert len(server.asked) == 5 + (4 if page else 3)  # what may be paid for is tried less often
    calls, prompt, _ = account
    assert calls == 5 + (0 if page else 3)
    assert (prompt == 50) if page else (prompt >= 50 + 3 * 10)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": {"message": "Too long a prompt", "code": 400}}, "bad-request"),
        ({"error": {"message": "Odd", "code": "weird"}}, "bad-request"),
        ({"error": "just words"}, "bad-request"),
        ({"error": ["a", "b"]}, "bad-request"),
        ({"error": {"message": "no", "code": "content_filter"}}, "content-filter"),
        ({"error": {"message": "busy", "code": 429}}, "exhausted"),
        ({"error": {"message": "busy", "code": "rate_limit_exceeded"}}, "exhausted"),
        ({"error": {"message": "oh", "type": "server_error"}}, "exhausted"),
        ({"choices": [{"error": {"message": "oh", "code": 502}, "message": {"content": ""}}]}, "exhausted"),
    ],
)
def test_an_error_in_a_200_is_treated_by_its_code_and_its_words_are_shown(tmp_path, body, kind):
    answers, server, states, account, _ = ask(tmp_path, json.dumps(body).encode())
    assert answers[ODD].kind == kind
    said = body.get("error") or body["choices"][0]["error"]
    assert (said["message"] if isinstance(said, dict) else said[0]) in answers[ODD].detail
    assert len(server.asked) == 5 + (4 if kind == "exhausted" else 1)
    assert account == (5, 50, 25)
    assert sum(states.values()) == 6


@pytest.mark.parametrize("said", [None, "", " \n"])
def test_a_judges_empty_reply_is_asked_for_again_and_not_kept(tmp_path, said):
    empty = {0, 1}  # of the calls

    def answer(number: int, _: bytes) -> evil.Answer:
        return 200, {}, chat(said if number in empty else "1")

    with evil.serving(answer) as server:
        with llm.Client(Api(concurrency=1), tmp_path / "l", server.url, scope="judge") as client:
            found = client.ask(question())
            assert isinstance(found, llm.Reply) and found.text == "1"
        empty |= set(range(3, 20))
        with llm.Client(Api(concurrency=1), tmp_path / "l", server.url, scope="judge") as client:
            refused = client.ask(question(1))
        assert isinstance(refused, llm.Failure) and refused.kind == "unreadable"
        assert "the reply is empty" in refused.detail
        assert len(server.asked) == 6, "three each: each may be paid for"
        empty.clear()
        with llm.Client(Api(concurrency=1), tmp_path / "l", server.url, scope="judge") as client:
            assert isinstance(client.ask(question(1)), llm.Reply), "the next run asks again"


def test_a_judges_reply_without_a_word_that_was_cut_off_is_kept_with_its_reason(tmp_path):
    with evil.serving(lambda *_: (200, {}, chat(None, reason="length"))) as server:
        with llm.Client(Api(concurrency=1), tmp_path / "l", server.url, scope="judge") as client:
            found = client.ask(question())
        assert isinstance(found, llm.Reply) and found.finish_reason == "length" and len(server.asked) == 1


def test_a_stream_that_nobody_asked_for_is_booked(tmp_path):
    stream = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: [DONE]\n\n'
    with evil.serving(lambda *_: (200, {"content-type": "text/event-stream"}, stream)) as server:
        with llm.Client(Api(concurrency=1), tmp_path / "l", server.url) as client:
            found = client.ask(question())
            booked = client.progress()
        assert isinstance(found, llm.Failure) and found.kind == "unreadable"
        assert "a stream, which was not asked for" in found.detail
        assert len(server.asked) == 3 and booked.estimated_tokens > 0


@pytest.mark.parametrize("code", [401, "402", 403, "invalid_api_key", "insufficient_quota"])
def test_an_error_of_the_account_in_a_200_stops_at_once(tmp_path, code):
    body = json.dumps({"error": {"message": "Top up, please", "code": code}}).encode()
    with evil.serving(lambda *_: (200, {}, body)) as server:
        client = llm.Client(Api(concurrency=1), tmp_path / "l", server.url)
        with client, pytest.raises(llm.Unauthorized, match="Top up, please"):
            client.ask_all(question(n) for n in range(20))
        assert len(server.asked) == 1


def test_the_providers_words_are_shown_without_the_key(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1234")
    error = {"error": {"message": "余额不足 for sk-secret-1234: 'max_tokens' is not supported", "code": "x"}}
    answers, *_ = ask(tmp_path, json.dumps(error).encode(), status=400)
    assert "余额不足 for ***: 'max_tokens' is not supported (x)" in answers[ODD].detail
    assert "'max_tokens' is not supported" in caplog.text  # at WARNING, once
    assert "sk-secret" not in caplog.text


@pytest.mark.e2e
def test_a_reply_is_given_up_before_it_fills_the_memory(tmp_path, monkeypatch):
    bomb = gzip.compress(b'{"choices": "' + b"0" * (300 * 2**20) + b'"}', 9)
    assert len(bomb) < 2**20
    tracemalloc.start()
    answers, *_ = ask(tmp_path, bomb, {"content-encoding": "gzip"})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "larger than 16 MB" in answers[ODD].detail
    assert peak < 120 * 2**20


def test_a_long_reply_that_is_not_packed_is_given_up_too(tmp_path):
    answers, *_ = ask(tmp_path, chat("x" * (17 * 2**20)))
    assert "larger than 16 MB" in answers[ODD].detail


def test_an_operation_that_fails_in_the_ledger_fails_alone(tmp_path):
    with (
        evil.serving(lambda *_: (200, {}, chat())) as server,
        llm.Client(Api(), tmp_path / "l", server.url) as client,
    ):
        engine = client.engine
        settle, broken = engine.ledger.settle, []

        def breaks(key: str, reply: llm.Reply, cost: object) -> None:
            settle(key, reply, cost)
            if not broken:
                broken.append(key)
                raise ZeroDivisionError

        engine.ledger.settle = breaks
        futures = [client.submit(question(n)) for n in range(6)]
        errors = [future.exception(30) for future in futures]
        assert [type(error) for error in errors if error] == [ZeroDivisionError]
        assert counts(engine.ledger) == {"ok": 5, "failed": 1}
        assert engine.ledger.usage(engine.account).calls == 5  # its cost is undone with it


# --- batches -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def provider(tmp_path_factory) -> Iterator[str]:
    with standin.running(tmp_path_factory.mktemp("standin") / "log") as url:
        yield url


@pytest.mark.parametrize("name", [*READ, *UNREAD])
def test_a_line_of_a_batch_is_read_at_the_same_door(tmp_path, monkeypatch, provider, name):
    monkeypatch.setattr(batch, "QUIET", 0.1)
    monkeypatch.setattr(batch, "POLL", 0.05)
    odd, expected = (READ | UNREAD)[name]
    real, odd_key = batch.BatchEndpoint._raw, b""

    async def raw(self, method: str, path: str, *arguments: object, **named: object) -> bytes:
        content = await real(self, method, path, *arguments, **named)
        if not path.endswith("/content"):
            return content
        lines = content.splitlines()
        target = next((i for i, line in enumerate(lines) if odd_key in line), None)
        if target is not None:
            head = b'{"custom_id": "%s", "response": {"status_code": 200, "body": ' % odd_key
            lines[target] = head + (odd.replace(b"\n", b" ") or b"null") + b"}}"
        return b"\n".join([b"not JSON", b"[]", b'{"custom_id": 7}', *lines, b""])

    monkeypatch.setattr(batch.BatchEndpoint, "_raw", raw)
    api = Api(mode="batch", timeout=10.0, retries=1, model=name)
    with llm.Client(api, tmp_path / "calls.db", provider) as client:
        odd_key = question(ODD).identity(api, "")[0].encode()
        answers = client.ask_all(question(n) for n in range(6))
    good = [answers[n] for n in range(6) if n != ODD]
    assert all(isinstance(reply, llm.Reply) for reply in good)
    if name in READ:
        assert answers[ODD].text == expected
    else:
        assert isinstance(answers[ODD], llm.Failure)


# --- pure ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, True, 7, 1.5, "x", [], {}, [[]], {"choices": [None]}])
def test_nothing_but_a_completion_is_read_as_one(value):
    with pytest.raises(completion.Unreadable):
        completion.read(value)
    assert completion.tokens(value) is None
