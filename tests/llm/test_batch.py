import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sifthinker import llm
from sifthinker.config import Api, Prices
from sifthinker.llm import batch, batch_calls, judge, standin
from sifthinker.llm.endpoint_errors import Transient
from sifthinker.llm.ledger_sqlite import SqliteLedger

pytestmark = pytest.mark.e2e  # the stand-in is a program
API = Api(
    mode="batch", timeout=10.0, retries=3, prices=Prices(prompt=10.0, completion=10.0, batch_discount=0.5)
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(batch, "QUIET", 0.4)  # a busy machine is that long between two requests
    monkeypatch.setattr(batch, "POLL", 0.05)


def questions(count: int) -> list[llm.Request]:
    return [judge.request("q", "a", f"answer {n}") for n in range(count)]


def test_requests_go_out_in_one_batch_at_the_lower_price_and_come_back_in_order(tmp_path):
    with standin.running(tmp_path / "log") as url:
        with llm.Client(API, tmp_path / "calls.db", url) as client:
            replies = client.ask_all(questions(30))
            counts = client.progress()
        with llm.Client(Api(), tmp_path / "calls.db", url) as online:  # through the same ledger
            again = online.ask_all(questions(30))
        seen = standin.counts(url)
    assert (seen["batches"], seen["answered"], seen["repeated"]) == (1, 30, 0)
    assert [reply.text for reply in replies] == [reply.text for reply in again]
    assert len({reply.text for reply in replies}) > 1
    assert counts.money == pytest.approx(0.5 * 10 * (counts.prompt_tokens + counts.completion_tokens) / 1e6)


def test_lines_that_failed_go_into_a_next_batch_and_doubled_lines_count_once(tmp_path):
    with standin.running(tmp_path / "log", {"500": 0.3, "duplicate": 0.3}) as url:
        with llm.Client(API, tmp_path / "calls.db", url) as client:
            replies = client.ask_all(questions(30))
        seen = standin.counts(url)
    assert all(isinstance(reply, llm.Reply) for reply in replies)
    assert seen["batches"] > 1
    assert seen["repeated"] == 0


def test_a_full_file_is_submitted_without_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "MOST_REQUESTS", 10)
    with (
        standin.running(tmp_path / "log") as url,
        llm.Client(API, tmp_path / "calls.db", url) as client,
    ):
        client.ask_all(questions(30))
        assert standin.counts(url)["batches"] == 3


PROGRAM = """
import sys
from pathlib import Path
from sifthinker import llm
from sifthinker.llm import batch
from tests.llm.test_batch import API, questions
batch.QUIET, batch.POLL = 0.1, 0.05
with llm.Client(API, Path(sys.argv[1]), sys.argv[2]) as client:
    client.ask_all(questions(20))
"""


def killed_when(state: str, ledger: Path, url: str) -> None:
    """Runs the program until the ledger's batch is in `state`, and kills it there."""
    root = Path(__file__).resolve().parents[2]
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(ledger), url], cwd=root)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if ledger.exists() and any(s.startswith(state) for s, _ in batches(ledger)):
                return
            time.sleep(0.01)
        raise AssertionError(f"no batch was {state}")
    finally:
        os.kill(program.pid, signal.SIGKILL)
        program.wait()


def batches(path: Path) -> list[tuple[str, list[str]]]:
    ledger = SqliteLedger(path)
    try:
        return list(ledger.open_batches(f"{API.base_url} {API.model}").values())
    finally:
        ledger.close()


@pytest.mark.e2e
def test_a_killed_run_collects_its_batch_and_submits_nothing_twice(tmp_path):
    with standin.running(tmp_path / "log", batch_seconds=1.5) as url:
        killed_when("sent", tmp_path / "calls.db", url)
        with llm.Client(API, tmp_path / "calls.db", url) as client:
            replies = client.ask_all(questions(20))
        seen = standin.counts(url)
    assert all(isinstance(reply, llm.Reply) for reply in replies)
    assert (seen["batches"], seen["answered"], seen["repeated"]) == (1, 20, 0)
    assert batches(tmp_path / "calls.db") == []


@pytest.mark.e2e
def test_a_batch_that_was_sent_but_not_noted_is_found_at_the_provider(tmp_path):
    with standin.running(tmp_path / "log", batch_seconds=1.5) as url:
        killed_when("sent", tmp_path / "calls.db", url)
        ledger = SqliteLedger(tmp_path / "calls.db")
        (name,) = ledger.take_batches(f"{API.base_url} {API.model}")
        assert ledger.set_batch(name, "planned")  # as if it had been killed a moment earlier
        ledger.close()
        with llm.Client(API, tmp_path / "calls.db", url) as client:
            client.ask_all(questions(20))
        assert standin.counts(url)["batches"] == 1


def test_a_batch_that_never_arrived_is_submitted(tmp_path):
    with standin.running(tmp_path / "log") as url:
        ledger = SqliteLedger(tmp_path / "calls.db")
        ledger.plan_batch("lost", f"{API.base_url} {API.model}", ["some key"])
        ledger.close()
        with llm.Client(API, tmp_path / "calls.db", url) as client:
            assert all(isinstance(reply, llm.Reply) for reply in client.ask_all(questions(3)))
        assert standin.counts(url)["batches"] == 1
    assert batches(tmp_path / "calls.db") == []


@pytest.mark.e2e
def test_what_an_earlier_run_bought_is_kept_although_nobody_asks_for_it(tmp_path):
    with standin.running(tmp_path / "log", batch_seconds=0.5) as url:
        killed_when("sent", tmp_path / "calls.db", url)
        with llm.Client(API, tmp_path / "calls.db", url):
            deadline = time.monotonic() + 20
            while batches(tmp_path / "calls.db") and time.monotonic() < deadline:
                time.sleep(0.05)
        with llm.Client(Api(), tmp_path / "calls.db", url) as online:
            assert all(reply.cached for reply in online.ask_all(questions(20)))
        assert standin.counts(url)["answered"] == 20


def failing(monkeypatch, times: int) -> None:
    """The provider answers no look at a batch, so many times."""
    real, left = batch.BatchEndpoint._raw, [times]

    async def raw(self, method: str, path: str, *arguments, **named) -> bytes:
        if path.startswith("/batches/") and left[0]:
            left[0] -= 1
            raise Transient("server-error", "HTTP 502: gone for a moment")
        return await real(self, method, path, *arguments, **named)

    monkeypatch.setattr(batch.BatchEndpoint, "_raw", raw)
    monkeypatch.setattr("sifthinker.llm.patience.Patience.backoff", lambda *_: 0.01)


def test_a_batch_is_looked_at_again_more_often_than_a_call_is_retried_and_is_not_bought_twice(
    tmp_path, monkeypatch
):
    failing(monkeypatch, 20)
    with (
        standin.running(tmp_path / "log") as url,
        llm.Client(API, tmp_path / "calls.db", url) as client,
    ):
        assert all(isinstance(reply, llm.Reply) for reply in client.ask_all(questions(5)))
        assert standin.counts(url)["batches"] == 1


def test_a_provider_that_stays_away_ends_the_run_and_the_next_one_collects_the_batch(tmp_path, monkeypatch):
    failing(monkeypatch, 3)
    monkeypatch.setattr(batch_calls, "OUTAGE", 0.0)
    with standin.running(tmp_path / "log") as url:
        with (
            llm.Client(API, tmp_path / "calls.db", url) as client,
            pytest.raises(llm.Unreachable, match="gone for a moment"),
        ):
            client.ask_all(questions(5))
        monkeypatch.setattr(batch_calls, "OUTAGE", 60.0)
        with llm.Client(API, tmp_path / "calls.db", url) as client:
            assert all(isinstance(reply, llm.Reply) for reply in client.ask_all(questions(5)))
        assert standin.counts(url)["batches"] == 1


def test_a_refused_key_stops_a_batch_too(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    with (
        standin.running(tmp_path / "log", key="right") as url,
        llm.Client(API, tmp_path / "calls.db", url) as client,
        pytest.raises(llm.Unauthorized),
    ):
        client.ask_all(questions(3))
