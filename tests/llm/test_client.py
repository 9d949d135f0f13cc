"""What the client sends and pays for, what makes a request another one, what is asked again, and what stops it."""

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from sifthinker import llm
from sifthinker.config import STANDIN, Api, Prices
from sifthinker.core.errors import UserError
from sifthinker.llm import costs, judge, standin
from sifthinker.llm.completion import Tokens
from sifthinker.llm.http import retry_after
from sifthinker.llm.usage import priced

FAST = {"retries": 3, "timeout": 5.0, "concurrency": 8}


def question(number: int = 0) -> llm.Request:
    return judge.request("q", "a", f"answer {number}")


def completion(text: str = "hello", reason: str = "stop", **usage: object) -> bytes:
    message = {"role": "assistant", "content": text}
    return json.dumps(
        {
            "model": "canned",
            "choices": [{"index": 0, "finish_reason": reason, "message": message}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, **usage},
        }
    ).encode()


class Canned:
    """A server that gives the answers it was told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.asked.append((self.path, dict(self.headers), body))
                last = len(outer.answers) == 1
                status, headers, raw = outer.answers[0] if last else outer.answers.pop(0)
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(raw))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def canned() -> Iterator[Canned]:
    server = Canned()
    yield server
    server.close()


@pytest.fixture
def open_client(tmp_path: Path, canned: Canned) -> Callable[..., llm.Client]:
    def make(scope: str = "", **api: object) -> llm.Client:
        return llm.Client(Api.model_validate({**FAST, **api}), tmp_path / "calls.db", canned.url, scope)

    return make


def test_a_reply_carries_what_the_server_said(canned, open_client):
    canned.answers = [(200, {}, completion("hi", prompt_tokens_details={"cached_tokens": 4}))]
    with open_client() as client:
        first, again = client.ask(question()), client.ask(question())
    assert (first.text, first.finish_reason, first.model) == ("hi", "stop", "canned")
    assert (first.prompt_tokens, first.completion_tokens, first.cached) == (10, 5, False)
    assert again.cached
    assert len(canned.asked) == 1


def test_the_body_is_the_protocols_and_the_key_is_in_the_header(canned, open_client, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-1")
    canned.answers = [(200, {}, completion())]
    request = llm.Request([{"role": "user", "content": "hi"}], 0.5, 99, seed=7, extra={"top_p": 0.9})
    with open_client(model="the-model", api_key_env="MY_KEY") as client:
        client.ask(request)
    path, headers, body = canned.asked[0]
    assert path == "/v1/chat/completions"
    assert {name.lower(): value for name, value in headers.items()}["authorization"] == "Bearer sk-1"
    assert json.loads(body) == {
        "model": "the-model",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "max_tokens": 99,
        "seed": 7,
        "top_p": 0.9,
    }


def test_the_batch_chat_mode_asks_the_same_on_its_own_path_and_shares_the_ledger(canned, open_client):
    canned.answers = [(200, {}, completion())]
    prices = Prices(prompt=1e6, completion=0, batch_discount=0.5)
    with open_client(mode="batch_chat", prices=prices) as client:
        client.ask(question())
        assert client.progress().money == pytest.approx(0.5 * 10)
    with open_client() as client:
        assert client.ask(question()).cached
    assert [path for path, _, _ in canned.asked] == ["/v1/batch/chat/completions"]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"scope": "other weights"},
        {"base_url": "http://elsewhere/v1"},
    ],
)
def test_another_model_endpoint_or_scope_is_another_request(canned, open_client, change):
    canned.answers = [(200, {}, completion())]
    for options in ({}, change, {}, change):
        with open_client(**{"model": "one", **options}) as client:
            client.ask(question())
    assert len(canned.asked) == 2


@pytest.mark.parametrize(
    "request_",
    [
        question(1),
        llm.Request(question().messages, 0.1, 64),  # temperature
        llm.Request(question().messages, 0.0, 65),  # length
        llm.Request(question().messages, 0.0, 64, seed=1),
        llm.Request(question().messages, 0.0, 64, extra={"top_p": 1}),
        judge.request("q", "a", "answer 0", llm.image_url(b"picture")),
    ],
)
def test_whatever_decides_the_answer_is_in_the_key(canned, open_client, request_):
    canned.answers = [(200, {}, completion())]
    with open_client() as client:
        client.ask(question())
        assert not client.ask(request_).cached


def test_pictures_are_in_the_key_and_not_in_the_ledger(canned, open_client, tmp_path):
    canned.answers = [(200, {}, completion())]
    one, two = (judge.request("q", "a", "b", llm.image_url(bytes([n]) * 5000)) for n in (1, 2))
    with open_client() as client:
        client.ask_all([one, two, one])
    assert len(canned.asked) == 2
    written = b"".join(path.read_bytes() for path in tmp_path.glob("calls.db*"))
    assert len(written) < 200_000
    assert llm.image_url(b"\1" * 5000).encode()[:200] not in written


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_retried(canned, open_client, status):
    canned.answers = [(status, {}, b"{}"), (200, {}, completion())]
    with open_client() as client:
        assert isinstance(client.ask(question()), llm.Reply)
    assert len(canned.asked) == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [{"message": null}]}',
        b'"text"',
        b"<html>busy</html>",
        b"\xff",
    ],
)
def test_an_answer_that_is_no_completion_is_retried(canned, open_client, raw):
    canned.answers = [(200, {}, raw), (200, {}, completion())]
    with open_client() as client:
        assert isinstance(client.ask(question()), llm.Reply)


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"code": "invalid_request"}, "bad-request"),
        (413, {"code": "too_large"}, "bad-request"),
        (422, {"code": "bad_field"}, "bad-request"),
        (400, {"code": "content_filter"}, "content-filter"),  # OpenAI, Azure
        (400, {"code": "SensitiveContentDetected"}, "content-filter"),  # Doubao
        (400, {"code": "DataInspectionFailed", "type": "data_inspection_failed"}, "content-filter"),  # Qwen
    ],
)
def test_what_is_refused_for_good_is_not_retried_nor_asked_by_a_later_run(
    canned, open_client, status, error, kind
):
    canned.answers = [(status, {}, json.dumps({"error": error}).encode())]
    for _ in range(2):
        with open_client() as client:
            failure = client.ask(question())
            assert isinstance(failure, llm.Failure)
            assert failure.kind == kind
            assert str(status) in failure.detail
    assert len(canned.asked) == 1


def test_a_filtered_reply_is_a_failure_and_its_tokens_are_counted(canned, open_client):
    canned.answers = [(200, {}, completion("", "content_filter"))]
    with open_client() as client:
        assert client.ask(question()).kind == "content-filter"
        assert client.progress().prompt_tokens == 10
        assert client.progress().failed == 1


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b"bad key", "OPENAI_API_KEY"),
        (402, b"pay", "no credit"),
        (403, b"not for you", "may not use the model"),
        (404, b"no such model", "check base_url and the model"),
        (429, b'{"error": {"code": "insufficient_quota"}}', "no credit"),
    ],
)
def test_a_refusal_of_the_account_stops_at_once(canned, open_client, status, body, message):
    canned.answers = [(status, {}, body)]
    with open_client(concurrency=2) as client, pytest.raises(llm.Unauthorized, match=message):
        client.ask_all(question(n) for n in range(100))
    assert len(canned.asked) <= (3 if status in (403, 404) else 2)  # of those a second witness is waited for
    canned.answers = [(200, {}, completion())]  # a good key goes on
    with open_client() as client:
        assert isinstance(client.ask(question()), llm.Reply)


def test_a_request_that_stays_unanswered_is_a_failure_and_a_later_run_asks_it_again(canned, open_client):
    canned.answers = [(500, {}, b"down")]
    with open_client(retries=1) as client:
        failure = client.ask(question())
    assert failure.kind == "exhausted"
    assert "2 tries" in failure.detail
    assert "HTTP 500: down" in failure.detail
    canned.answers = [(200, {}, completion())]
    with open_client() as client:
        assert isinstance(client.ask(question()), llm.Reply)


def test_an_endpoint_that_answers_nothing_stops_the_stage(open_client, canned):
    canned.answers = [(502, {}, b"gone")]
    with (
        open_client(retries=0) as client,
        pytest.raises(llm.Unreachable, match="the last 10 requests were given up"),
    ):
        client.ask_all(question(n) for n in range(100))
    assert len(canned.asked) < 40


def test_an_endpoint_that_was_given_up_can_be_asked_again_by_all_its_clients(open_client, canned):
    canned.answers = [(502, {}, b"gone")]
    with open_client(retries=0) as client, open_client(retries=0) as other:
        with pytest.raises(llm.Unreachable):
            client.ask_all(question(n) for n in range(100))
        canned.answers = [(200, {}, completion())]
        with pytest.raises(llm.Unreachable):
            other.ask(question(200))
        client.go_on()
        assert isinstance(other.ask(question(200)), llm.Reply)
        canned.answers = [(502, {}, b"gone")]
        assert client.ask(question(300)).kind == "exhausted", "as many are given up again before it is"


def test_a_stall_is_a_timeout_that_is_retried(tmp_path):
    with standin.running(tmp_path / "log", {"stall": 1.0}, stall=20) as url:
        api = Api(timeout=0.2, retries=1)
        with llm.Client(api, tmp_path / "calls.db", url) as client:
            assert client.ask(question()).kind == "timeout"
        assert standin.counts(url)["requests"] == 2


def test_a_slow_start_is_waited_for(tmp_path):
    with (
        standin.running(tmp_path / "log", slow_start=1.0) as url,
        llm.Client(Api(), tmp_path / "calls.db", url) as client,
    ):
        assert isinstance(client.ask(question()), llm.Reply)


def test_retry_after_is_honoured_by_everybody(canned, open_client):
    canned.answers = [(429, {"Retry-After": "1"}, b"{}"), (200, {}, completion())]
    with open_client(concurrency=1) as client:
        began = time.monotonic()
        client.ask_all(question(n) for n in range(3))
    assert 1.0 <= time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": formatdate(time.time() - 100, usegmt=True)}, 0.0),
        ({"retry-after": "soon"}, None),
    ],
)
def test_every_form_of_retry_after_is_read(headers, seconds):
    assert retry_after(headers) == seconds


def test_the_stand_in_must_be_started_and_a_remote_endpoint_needs_a_key(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="start the stand-in"):
        llm.Client(Api(base_url=STANDIN), tmp_path / "calls.db")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with (
        pytest.raises(UserError, match="set the environment variable OPENAI_API_KEY"),
        llm.Client(Api(base_url="https://example.org/v1", model="m"), tmp_path / "calls.db"),
    ):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "vlm"]


def test_money_is_counted_with_the_price_of_cached_tokens_and_the_discount_of_batches():
    prices = Prices(prompt=2.0, cached_prompt=0.5, completion=10.0, batch_discount=0.5)
    used, whole = Tokens(1000, 400, 100), (600 * 2 + 400 * 0.5 + 100 * 10) / 1e6
    assert priced(used, prices, batch=False).money == pytest.approx(whole)
    assert priced(used, prices, batch=True).money == pytest.approx(0.5 * whole)


def test_cached_tokens_cost_what_others_do_unless_they_have_a_price_which_may_be_0():
    used = Tokens(1000, 1000, 0)
    assert priced(used, Prices(prompt=2.0), batch=False).money == pytest.approx(1000 * 2 / 1e6)
    assert priced(used, Prices(prompt=2.0, cached_prompt=0), batch=False).money == 0


def test_a_budget_in_money_stops(canned, open_client):
    canned.answers = [(200, {}, completion())]
    prices = Prices(currency="CNY", prompt=1e6)
    with (
        open_client(concurrency=2, budget_money=55.0, prices=prices) as client,
        pytest.raises(llm.BudgetSpent, match=r"55\.00 CNY is spent"),
    ):
        client.ask_all(question(n) for n in range(50))
    assert 6 <= len(canned.asked) <= 7


def test_the_learned_size_of_prompts_stays_put(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "_IMAGE_TOKENS", 5000.0)  # a bad first guess
    request = [judge.request("q", "a", f"b{n}", llm.image_url(b"x")) for n in range(40)]
    api = Api(tokens_per_minute=10**9, concurrency=4)
    with (
        standin.running(tmp_path / "log") as url,
        llm.Client(api, tmp_path / "calls.db", url) as client,
    ):
        client.ask_all(request)
        _, guessed, prompts, _ = client.engine.costs.seen
        assert prompts / guessed == pytest.approx(450 / 5150, rel=0.05)
