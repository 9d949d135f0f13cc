"""Answers that were asked for and never read: a provider charges for them, so they are booked, and asked for three times."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from sifthinker import llm
from sifthinker.config import LOCAL, SERVED, Api
from sifthinker.core.errors import UserError
from sifthinker.llm import dispatcher, judge
from sifthinker.llm.ledger_sqlite import SqliteLedger
from sifthinker.llm.patience import Patience
from sifthinker.llm.usage import Usage
from tests import wire
from tests.llm import wire_acts
from tests.llm.behaviours import Act

RETRIES = 5


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Patience, "backoff", lambda *_: 0.01)


def question(number: int = 0) -> llm.Request:
    return judge.request("q", "a", f"answer {number}", max_tokens=100)


def asked(folder: Path, act: Act, **api: object) -> tuple[llm.Failure, int, Usage]:
    """What became of a question, how often it was sent, and what was booked."""
    section = Api.model_validate({"retries": RETRIES, "timeout": 0.3, "api_key_env": "", **api})
    with (
        wire.serving(lambda _: 0, lambda connection, _: act(connection, "0.5")) as seen,
        llm.Client(section, folder / "calls.db", seen.url) as client,
    ):
        failure = client.ask(question())
        assert isinstance(failure, llm.Failure)
        return failure, seen.asked.total(), client.engine.costs.known


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (wire_acts.says_nothing, "timeout"),
        (wire_acts.stalls_in_the_body, "timeout"),
        (wire_acts.cut_in_the_middle, "exhausted"),
    ],
)
def test_an_answer_that_is_lost_is_booked_each_time_and_asked_for_three_times(tmp_path, act, kind):
    failure, times, booked = asked(tmp_path, act)
    assert (failure.kind, times) == (kind, 3)
    assert "given up after 3 tries" in failure.detail
    assert (booked.calls, booked.completion_tokens) == (3, 3 * 100)  # as long as a reply may be
    assert booked.estimated == booked.tokens > 3 * 100  # and the prompts


@pytest.mark.parametrize("act", [wire_acts.hangs_up, wire_acts.an_error_that_is_cut_off])
def test_a_connection_that_ends_before_an_answer_costs_nothing_and_has_all_its_tries(tmp_path, act):
    failure, times, booked = asked(tmp_path, act)
    assert (failure.kind, times, booked) == ("exhausted", RETRIES + 1, Usage())


@pytest.mark.parametrize("base_url", [SERVED, LOCAL])
def test_a_slow_server_of_our_own_costs_nothing_and_has_all_its_tries(tmp_path, base_url):
    (tmp_path / "config.json").write_text("{}")
    failure, times, booked = asked(tmp_path, wire_acts.says_nothing, base_url=base_url, model=str(tmp_path))
    assert (failure.kind, times, booked) == ("timeout", RETRIES + 1, Usage())


async def _no_way(*_: object) -> None:
    await asyncio.sleep(600)


def test_a_connection_that_is_not_made_in_time_costs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(aiohttp.TCPConnector, "_create_connection", _no_way)
    failure, times, booked = asked(tmp_path, wire_acts.says_nothing)
    assert (failure.kind, times, booked) == ("timeout", 0, Usage())
    assert f"given up after {RETRIES + 1} tries" in failure.detail


def test_a_place_where_nothing_listens_costs_nothing(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with llm.Client(Api(retries=1, api_key_env=""), tmp_path / "calls.db", url) as client:
            assert isinstance(client.ask(question()), llm.Failure)
            assert client.engine.costs.known == Usage()


@pytest.mark.parametrize("act", [wire_acts.says_nothing, wire_acts.cut_in_the_middle])
def test_lost_answers_reach_the_budget(tmp_path: Path, act: Callable[..., object]) -> None:
    api = Api(retries=RETRIES, timeout=0.3, api_key_env="", budget_tokens=500, concurrency=2)
    with (
        wire.serving(lambda _: 0, lambda connection, _: act(connection, "0.5")) as seen,
        llm.Client(api, tmp_path / "calls.db", seen.url) as client,
        pytest.raises(llm.BudgetSpent, match=r"the budget of 500 tokens is spent: .* of them estimated"),
    ):
        client.ask_all(question(n) for n in range(20))
    assert seen.asked.total() <= 5  # of some 150 tokens each


def dropped(folder: Path, arrives: bool = True, **api: object) -> tuple[Usage, list[str]]:
    """What is booked of two calls that are in flight when their run is told to end, and the states that they are left in."""
    section = Api.model_validate({"timeout": 600, "api_key_env": "", "concurrency": 2, **api})
    file = folder / "calls.db"
    with wire.serving(lambda _: 0, lambda connection, _: wire_acts.says_nothing(connection, "0.5")) as seen:
        with llm.Client(section, file, seen.url) as client:
            waiting = [client.submit(question(number)) for number in range(3)]  # the last waits for its turn
            deadline = time.monotonic() + 60
            while client.progress().in_flight < 2 or (arrives and seen.asked.total() < 2):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            client.engine.interrupt()
            for one in waiting:
                with pytest.raises(UserError, match="interrupted"):
                    one.result(60)
            account = client.engine.account
        with closing(SqliteLedger(file)) as ledger, closing(sqlite3.connect(file)) as db:
            return ledger.usage(account), [state for (state,) in db.execute("SELECT state FROM calls")]


def test_calls_in_flight_are_booked_when_their_run_is_told_to_end_and_may_be_asked_again(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(dispatcher, "_GRACE", 0.1)
    booked, states = dropped(tmp_path)
    assert (booked.calls, booked.completion_tokens) == (2, 2 * 100)  # as long as a reply may be
    assert booked.estimated == booked.tokens > 2 * 100
    assert states == ["failed"] * 3, "none is reserved"


def test_calls_that_never_left_cost_nothing_when_their_run_is_told_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatcher, "_GRACE", 0.1)
    monkeypatch.setattr(aiohttp.TCPConnector, "_create_connection", _no_way)
    assert dropped(tmp_path, arrives=False) == (Usage(), ["failed"] * 3)


def test_calls_to_a_server_of_our_own_cost_nothing_when_their_run_is_told_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatcher, "_GRACE", 0.1)
    assert dropped(tmp_path, base_url=SERVED) == (Usage(), ["failed"] * 3)
