"""Many requests at once: equal ones are asked once, answers come in order, counts add up, and nothing is left running."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sifthinker import llm
from sifthinker.config import STANDIN, Api
from sifthinker.llm import call_counts, judge, standin
from sifthinker.llm.client import tallied
from tests.llm.test_client import FAST, question


def test_the_same_request_in_flight_is_joined_over_threads_and_clients(tmp_path):
    with standin.running(tmp_path / "log", latency=0.3) as url:
        with ThreadPoolExecutor(4) as pool:

            def shard(_: int) -> list:
                with llm.Client(Api(), tmp_path / "calls.db", url) as client:
                    return client.ask_all([question(n) for n in (0, 1, 0, 1)])

            answers = list(pool.map(shard, range(4)))
        assert standin.counts(url)["requests"] == 2
    assert len({reply.text for replies in answers for reply in replies[::2]}) == 1


def test_answers_come_in_order_and_requests_are_taken_as_needed(tmp_path):
    taken = []

    def requests() -> Iterator[llm.Request]:
        for number in range(60):
            taken.append(number)
            yield question(number)

    with (
        standin.running(tmp_path / "log", latency=0.05, jitter=1.0) as url,
        llm.Client(Api(concurrency=4), tmp_path / "calls.db", url) as client,
    ):
        source = requests()
        watched = []

        def watch() -> Iterator[llm.Request]:
            for request in source:
                watched.append(len(taken) - client.progress().calls)
                yield request

        answers = client.ask_all(watch())
        assert standin.counts(url)["most_in_flight"] <= 4
    again = [judge.score(reply.text) for reply in answers]
    with (
        standin.running(tmp_path / "log2") as url,
        llm.Client(Api(), tmp_path / "other.db", url) as client,
    ):
        assert again == [judge.score(client.ask(question(n)).text) for n in range(60)]
    assert max(watched) < 30


def test_no_loop_thread_or_task_is_left_after_the_last_client(tmp_path):
    with standin.running(tmp_path / "log") as url:
        with llm.Client(Api(), tmp_path / "calls.db", url) as one:
            with llm.Client(Api(), tmp_path / "calls.db", url) as two:
                assert one.engine is two.engine
            assert isinstance(one.ask(question()), llm.Reply)
            loop = one.engine.loop
        assert loop.is_closed()
    assert not [thread for thread in threading.enumerate() if thread.name in ("vlm", "ledger_0")]


def test_what_is_on_the_wire_when_the_client_closes_is_kept(tmp_path):
    with standin.running(tmp_path / "log", latency=0.5) as url:
        with llm.Client(Api(), tmp_path / "calls.db", url) as client:
            client.submit(question())
            while not client.progress().in_flight:
                time.sleep(0.01)
        with llm.Client(Api(), tmp_path / "calls.db", url) as client:
            assert client.ask(question()).cached
        assert standin.counts(url)["requests"] == 1


def test_work_started_on_the_loop_holds_few_rows_at_once(tmp_path):
    inside = most = 0

    async def work() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.01)
        inside -= 1

    with (
        standin.running(tmp_path / "log") as url,
        llm.Client(Api(concurrency=4), tmp_path / "calls.db", url) as client,
    ):
        for future in [client.start(work) for _ in range(50)]:
            future.result()
    assert most == 6


def test_progress_says_what_is_left(tmp_path, capsys):
    with (
        standin.running(tmp_path / "log", latency=0.02) as url,
        llm.Client(Api(concurrency=2), tmp_path / "calls.db", url) as client,
    ):
        client.expect(20)
        with call_counts.bar(client.progress, "annotate", every=0.05):
            for number in range(10):
                client.ask(question(number))
                client.row_done(kept=number % 2 == 0)
        counts = client.progress()
    assert (counts.rows_done, counts.rows_rejected, counts.calls) == (10, 5, 10)
    assert counts.seconds_left == pytest.approx(60 * 10 / counts.per_minute)
    assert "10/20 rows, 5 rejected, 10 calls" in counts.line()
    shown = " ".join(capsys.readouterr().out.split())
    assert "annotate" in shown
    assert "5 rejected" in shown


def test_tallies_of_threads_that_share_an_engine_are_together_what_was_asked(tmp_path):
    def ask(numbers: range) -> list[call_counts.Counts]:
        with tallied() as tally, llm.Client(API, tmp_path / "calls.sqlite", url) as client:
            client.ask_all(question(number) for number in numbers)
        return tally

    API = Api(base_url=STANDIN, model="standin-judge", **FAST)
    with standin.running(tmp_path / "log") as url:
        with ThreadPoolExecutor(3) as threads, llm.Client(API, tmp_path / "calls.sqlite", url) as shared:
            found = [
                one for tally in threads.map(ask, [range(6), range(4, 10), range(10, 20)]) for one in tally
            ]
            counts = shared.progress()
        alone = ask(range(20, 22))
    assert len(found) == 3
    assert sum(one.calls for one in found) == counts.calls == 20
    assert sum(one.cached for one in found) == counts.cached == 2
    assert sum(one.prompt_tokens for one in found) == counts.prompt_tokens > 0
    assert [one.calls for one in alone] == [2], "another engine begins anew"
