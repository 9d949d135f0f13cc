"""Whatever usage or pause an endpoint states, the budget holds, and no run waits without end."""

from __future__ import annotations

import logging
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from sifthinker import llm
from sifthinker.config import Api, Prices
from sifthinker.llm.http import retry_after
from tests import evil, machine
from tests.evil import chat
from tests.llm.test_odd_replies import question, usage


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("sifthinker.llm.patience.Patience.backoff", lambda *_: 0.01)


# --- the budget ------------------------------------------------------------------------------------------------------


def spend(tmp_path: Path, odd: bytes, count: int = 200, **api: object) -> tuple[int, str]:
    """Calls that the server saw under a budget, and what the stop said."""
    settings = Api.model_validate({"concurrency": 8, "retries": 8, **api})
    with (
        evil.serving(lambda *_: (200, {}, odd)) as server,
        llm.Client(settings, tmp_path / "l", server.url) as client,
        pytest.raises(llm.BudgetSpent) as stopped,
    ):
        client.ask_all(question(n) for n in range(count))
    return len(server.asked), str(stopped.value)


@pytest.mark.parametrize(
    ("odd", "most"),
    [
        (chat(usage=None), 15),  # some 150 tokens each, estimated
        (usage(-1_000_000), 15),
        (usage(10**18), 15),
        (b'{"choices": [], "usage": {"prompt_tokens": 200, "completion_tokens": 20}}', 12),
        (b'{"choices": []}', 15),
    ],
)
def test_the_budget_holds_whatever_usage_is_reported(tmp_path, odd, most):
    asked, said = spend(tmp_path, odd, budget_tokens=2000)
    assert 3 <= asked <= most
    assert "the budget of 2,000 tokens is spent" in said
    if b'"prompt_tokens": 200' not in odd:
        assert "of them estimated" in said


def test_calls_in_flight_do_not_overshoot_the_budget(tmp_path):
    asked, said = spend(tmp_path, chat(), budget_tokens=30, concurrency=64)
    assert asked == 2  # of 15 tokens each
    assert "2 calls, 30 tokens" in said


def test_calls_in_flight_do_not_overshoot_a_budget_in_money(tmp_path):
    prices = Prices(prompt=1e5, completion=0)  # one a call
    asked, _ = spend(tmp_path, chat(), budget_money=100, prices=prices, concurrency=64)
    assert 100 <= asked <= 102


def test_a_budget_in_money_needs_prices():
    with pytest.raises(ValueError, match="budget_money cannot be held without prices"):
        Api(budget_money=5)
    assert Api(budget_money=5, prices=Prices(completion=1)).budget_money == 5


def test_estimated_tokens_are_shown_as_such_and_added_up_in_the_ledger(tmp_path):
    with evil.serving(lambda *_: (200, {}, chat(usage=None))) as server:
        for number in range(2):
            with llm.Client(Api(), tmp_path / "l", server.url) as client:
                reply = client.ask(question(number))
                counts = client.progress()
                total = client.engine.ledger.usage(client.engine.account)
            assert counts.estimated_tokens == reply.prompt_tokens + reply.completion_tokens > 100
            assert f"({counts.estimated_tokens:,} estimated)" in counts.line()
    assert total.estimated == total.tokens > counts.estimated_tokens


# --- pauses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "1000000000000000000"},
        {"Retry-After": "inf"},
        {"Retry-After": "86400"},
        {"Retry-After": "Fri, 31 Dec 2099 23:59:59 GMT"},
        {"retry-after-ms": "inf"},
        {"retry-after-ms": "1e18"},
    ],
)
def test_a_pause_beyond_the_limit_is_cut_and_the_next_one_ends_the_stage(tmp_path, caplog, headers):
    with (
        evil.serving(lambda *_: (429, headers, b'{"error": {"message": "quota of the day"}}')) as server,
        llm.Client(Api(max_pause=1.0, concurrency=4), tmp_path / "l", server.url) as client,
    ):
        began = time.monotonic()
        with pytest.raises(llm.Unreachable, match=r"(?s)quota of the day.*longer than max_pause = 1 s"):
            client.ask_all(question(n) for n in range(10))
        assert 1.0 <= time.monotonic() - began < 30


def test_one_odd_pause_is_survived(tmp_path):
    def answer(number: int, _: bytes) -> evil.Answer:
        return (500, {"Retry-After": "86400"}, b"") if number == 0 else (200, {}, chat())

    with (
        evil.serving(answer) as server,
        llm.Client(Api(max_pause=1.0), tmp_path / "l", server.url) as client,
    ):
        assert all(isinstance(r, llm.Reply) for r in client.ask_all(question(n) for n in range(6)))


def test_a_pause_is_said_with_its_reason_and_its_end(tmp_path, caplog):
    with evil.serving(lambda *_: (429, {"Retry-After": "300"}, b"come back later")) as server:
        with llm.Client(Api(concurrency=4), tmp_path / "l", server.url) as client:
            futures = [client.submit(question(n)) for n in range(4)]
            machine.until(lambda: "nothing is sent until" in caplog.text)
            assert "paused until" in client.progress().line()
            began = time.monotonic()
        assert time.monotonic() - began < 60  # nothing is on the wire: closing waits for nothing
        assert all(future.done() for future in futures)
    (warning,) = [r for r in caplog.records if "nothing is sent until" in r.getMessage()]
    assert warning.levelno == logging.WARNING
    assert "HTTP 429: come back later" in warning.getMessage()


def test_a_pause_that_is_asked_for_while_the_client_closes_is_not_waited_for(tmp_path):
    closing = threading.Event()

    def answer(*_: object) -> evil.Answer:
        closing.wait(20)
        time.sleep(0.2)
        return 429, {"Retry-After": "300"}, b"come back later"

    with evil.serving(answer) as server, llm.Client(Api(), tmp_path / "l", server.url) as client:
        future = client.submit(question(0))
        machine.until(lambda: server.asked)
        began = time.monotonic()
        closing.set()
        client.__exit__(None, None, None)
        assert time.monotonic() - began < 10
        assert future.done()
        client.__enter__()


def test_trouble_that_repeats_is_said_at_once(tmp_path, caplog):
    with llm.Client(
        Api(concurrency=4, retries=100), tmp_path / "l", "http://127.0.0.1:9/v1"
    ) as client:  # discard
        for n in range(4):
            client.submit(question(n))
        machine.until(lambda: "no answer to the last" in caplog.text, 5)
        assert "no answer to the last" in client.progress().line()
    assert "Connect" in caplog.text
    assert "4 waiting, next try in" in caplog.text


@pytest.mark.parametrize(
    "value", ["nan", "-5", "soon", formatdate(0, usegmt=True), "Fri, 31 Dec 99999 23:59:59 GMT", "", "1e"]
)
def test_a_pause_that_makes_no_sense_is_none(value):
    assert not retry_after({"retry-after": value})
