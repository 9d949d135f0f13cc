"""Whatever an endpoint does, each row ends as accepted, as a named reject, or with a clear error, and is paid once.

Each behaviour of `behaviours` answers one row among good ones, of annotate, of GRPO's judge and of evaluation's judge.
All rows of one of them are asked together; then the endpoint is mended, and they are asked again.
"""

from __future__ import annotations

import ast
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sifthinker import config, llm
from sifthinker.annotation import annotate
from sifthinker.config import Annotate, Api
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.evaluation.asking import Asked, NotAnswered, judged
from sifthinker.evaluation.benchmarks import BENCHMARKS
from sifthinker.evaluation.benchmarks.question import Answer, Question
from sifthinker.evaluation.benchmarks.selection import Selection
from sifthinker.llm import judge, patience
from sifthinker.llm.http import Endpoint
from sifthinker.llm.ledger_sqlite import SqliteLedger
from sifthinker.llm.patience import Patience
from sifthinker.llm.standin import replies
from sifthinker.llm.usage import Usage
from tests import annotation_rows as rows
from tests import evil, wire
from tests.llm import wire_acts
from tests.llm.behaviours import BEHAVIOURS, RETRIES, STOPS, TIMEOUT, Act, good

pytestmark = pytest.mark.e2e  # a server with stalls, and its long list: a minute
NAMES = list(BEHAVIOURS)
PLAIN = 16  # rows that get good answers
COUNT = len(NAMES) + PLAIN
THREADS = 48  # of evaluation's judge, which asks one question in each
SCORE = '{"score": 0.8}'
_QUESTION = re.compile(rb"number (\d+)\?")

Outcome = tuple[str, str]  # "accepted", "other", or the reason of a reject; and its words


@dataclass(frozen=True)
class Consumer:
    """One that asks: what a right answer is, and what comes of each of `COUNT` rows."""

    ask: Callable[[llm.Client, Path, list[int]], dict[int, Outcome]]
    text: Callable[[bytes], str]
    requests: int = 1  # a row
    at_once: int = 16  # requests that are asked, or asked for ahead, with four in flight


def annotated(client: llm.Client, folder: Path, numbers: list[int]) -> dict[int, Outcome]:
    pictures = rows.pictures(folder, 8)
    samples = [row for n, row in enumerate(rows.samples(pictures, COUNT)) if n in set(numbers)]
    settings = Annotate(api=client.api, attempts=1, give_up_after=0)
    found = annotate.annotate(
        samples, map(rows.focus, samples), rows.maps(pictures), rows.library(folder), client, settings
    )
    return dict(zip(numbers, map(_of_row, found), strict=True))


def _of_row(row: object) -> Outcome:
    if not isinstance(row, Reject):
        return "accepted", ""
    [attempt] = json.loads(row.detail)
    is_failure = attempt["reason"].startswith(f"{row.reason}: ")
    return (row.reason if is_failure else "other"), attempt["reason"]


def scored(client: llm.Client, folder: Path, numbers: list[int]) -> dict[int, Outcome]:
    """As a training step asks that does not wait; the reasons of missing scores are in its log."""
    from sifthinker.training.scoring import Scorer

    said: list[llm.Reply | llm.Failure] = []

    def answers(requests: Any) -> Iterator[llm.Reply | llm.Failure]:
        for reply in client.answers(requests):
            said.append(reply)
            yield reply

    subjects = [
        SimpleNamespace(id=str(n), question=f"What is number {n}?", answer="a", image_url="") for n in numbers
    ]
    texts = ["<think>so</think><answer>b</answer>"] * len(numbers)
    settings = config.Grpo(judge_patience=0.0, rewards={"max_absent": 0.99})
    heard = SimpleNamespace(answers=answers, go_on=client.go_on)
    scores = Scorer.ask(SimpleNamespace(client=heard, settings=settings), texts, subjects)
    found = {}
    for number, score, reply in zip(numbers, scores, said, strict=True):
        if isinstance(reply, llm.Failure):
            assert score is None
            found[number] = (reply.kind, reply.detail)
        else:
            found[number] = ("accepted" if score == 0.8 else "other", reply.text)
            assert score in (0.8, None)
    return found


def evaluated(client: llm.Client, folder: Path, numbers: list[int]) -> dict[int, Outcome]:
    """As an evaluation of VisCoT asks; one question at a time, since a failure ends it."""
    rows.pictures(folder, 1)
    source = config.Benchmark(name="viscot", path=folder, images=folder)
    job = Selection(source, BENCHMARKS["viscot"], frozenset())

    def one(number: int) -> Outcome:
        question = Question(f"q/{number}", "gqa", f"What is number {number}?", "0.png", "a")
        try:
            [(_, _, answer)] = judged(job, iter([(Asked(question, "", ""), None, Answer("b"))]), client)  # type: ignore[arg-type]
        except NotAnswered as error:
            said, _, _ = str(error).partition(
                "\nThe judge gave no score"
            )  # how many: more than the share that may be
            if without := re.fullmatch(
                r"judge of viscot, q/\d+: (?:no score in|cut off:) (.*)", said, re.DOTALL
            ):
                return "other", ast.literal_eval(without[1])
            found = re.fullmatch(r"judge of viscot, q/\d+: ([\w-]+): (.*)", said, re.DOTALL)
            assert found, error
            return found[1], found[2]
        _, second = answer.judged
        return ("accepted" if judge.score(second) == 0.8 else "other"), second

    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(numbers, pool.map(one, numbers), strict=True))


CONSUMERS = {
    "annotate": Consumer(
        annotated, lambda body: replies.reply(json.loads(body), b"x")["choices"][0]["message"]["content"]
    ),
    "GRPO's judge": Consumer(scored, lambda _: SCORE),
    "evaluation's judge": Consumer(evaluated, lambda _: SCORE, 2, 2 * THREADS),
}


@contextmanager
def endpoint(consumer: Consumer, act_of: Callable[[int], Act | None]) -> Iterator[wire.Seen]:
    """A server that answers the rows for which there is an act in its way, and the others well."""

    async def act(connection: wire.Wire, number: int) -> None:
        text = consumer.text(connection.body)
        if (odd := act_of(number)) is not None:
            await odd(connection, text)
        else:
            await connection.send(good(text))

    with wire.serving(lambda body: int(found[1]) if (found := _QUESTION.search(body)) else -1, act) as seen:
        yield seen


@dataclass
class Ran:
    """What came of all rows of a consumer, at first and once the endpoint was mended."""

    first: dict[int, Outcome]
    asked: Counter[int]  # as the server saw it
    sent: Counter[int]  # as the client did: what is lost on the way to a busy server is a try as well
    spent: Usage
    second: dict[int, Outcome]
    again: Counter[int]
    seconds: float


def run(folder: Path, consumer: Consumer) -> Ran:
    folder.mkdir()
    api = Api(retries=RETRIES, timeout=TIMEOUT, concurrency=64, api_key_env="")
    began, is_mended = time.monotonic(), False

    def act_of(number: int) -> Act | None:
        return BEHAVIOURS[NAMES[number]].act if number < len(NAMES) and not is_mended else None

    with endpoint(consumer, act_of) as seen:
        with llm.Client(api, folder / "calls.db", seen.url) as client:
            found = consumer.ask(client, folder, list(range(COUNT)))
        asked, sent, seconds = Counter(seen.asked), Counter(_SENT[seen.url]), time.monotonic() - began
        is_mended = True
        ledger = SqliteLedger(folder / "calls.db")
        spent = ledger.usage(f"{api.base_url} {api.model}")
        ledger.close()
        with llm.Client(api, folder / "calls.db", seen.url) as client:
            second = consumer.ask(client, folder, list(range(COUNT)))
        return Ran(found, asked, sent, spent, second, seen.asked - asked, seconds)


_SENT: defaultdict[str, Counter[int]] = defaultdict(Counter)  # by server: requests of each row
_exchange = Endpoint._exchange


async def _counted(endpoint: Endpoint, method: str, url: str, body: bytes | None, *more: Any) -> Any:
    if found := _QUESTION.search(body or b""):
        _SENT[endpoint.url][int(found[1])] += 1
    return await _exchange(endpoint, method, url, body, *more)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """All consumers at once: most of the time is waiting for answers that do not come."""
    import sifthinker.training.scoring  # noqa: F401 (takes seconds, which are not the endpoint's)

    folder = tmp_path_factory.mktemp("conformance")
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as pool:
        patch.setattr(Patience, "backoff", lambda *_: 0.01)
        patch.setattr(patience, "_UNREACHABLE", 10**6)  # so many odd rows are no outage
        patch.setattr(Endpoint, "_exchange", _counted)
        each = {
            name: pool.submit(run, folder / str(n), consumer)
            for n, (name, consumer) in enumerate(CONSUMERS.items())
        }
        return {name: future.result() for name, future in each.items()}


REPLIES = {"accepted", "other"}  # in the ledger, and paid for


@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_row_ends_as_accepted_or_as_a_named_reject_and_nothing_is_paid_twice(ran, name, consumer):
    behaviour, number, found = BEHAVIOURS[name], NAMES.index(name), ran[consumer]
    outcome, words = found.first[number]
    assert outcome == behaviour.verdict, words
    assert behaviour.words in words
    assert words.isprintable() or outcome in REPLIES
    most = behaviour.asked * CONSUMERS[consumer].requests
    assert found.asked[number] <= most
    is_cut_off = consumer == "evaluation's judge" and outcome not in REPLIES  # by the other call
    assert found.sent[number] >= most or is_cut_off
    if behaviour.verdict in {*REPLIES, "bad-request", "content-filter"}:  # for good
        assert found.again[number] == 0
        assert found.second[number] == found.first[number]
    else:
        assert found.second[number][0] == "accepted"
        assert 1 <= found.again[number] <= CONSUMERS[consumer].requests


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_the_rows_beside_them_are_accepted_and_asked_once(ran, consumer):
    found = ran[consumer]
    plain = range(len(NAMES), COUNT)
    assert {found.first[number] for number in plain} <= {("accepted", ""), ("accepted", SCORE)}
    assert {found.asked[number] for number in plain} == {CONSUMERS[consumer].requests}
    assert not any(found.again[number] for number in plain)
    assert -1 not in found.asked, "every request is of a row"
    print(f"{consumer}: {COUNT} rows, {found.asked.total()} requests, {found.seconds:.1f} s")


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_the_account_shows_every_call_that_was_paid_for(ran, consumer):
    found, each = ran[consumer], CONSUMERS[consumer].requests
    for_good = [b.paid for b in BEHAVIOURS.values() if b.verdict in {*REPLIES, "content-filter"}]
    most = sum(behaviour.paid for behaviour in BEHAVIOURS.values()) + PLAIN
    if consumer == "evaluation's judge":  # a question's first failure ends it, and may cut the other call off
        assert (sum(for_good) + PLAIN) * each <= found.spent.calls <= most * each
    else:
        unsure = sum(behaviour.unsure for behaviour in BEHAVIOURS.values())
        assert most - unsure <= found.spent.calls <= most
    reported = evil.GOOD_USAGE["prompt_tokens"] + evil.GOOD_USAGE["completion_tokens"]
    assert found.spent.tokens >= reported * found.spent.calls
    assert found.spent.tokens < 10**6  # absurd usages do not count


# --- ends of a stage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("name", STOPS)
def test_a_stage_that_cannot_go_on_ends_with_a_clear_error_and_asks_nothing_more(
    tmp_path, monkeypatch, name, consumer
):
    monkeypatch.setattr(Patience, "backoff", lambda *_: 0.01)
    from sifthinker.training.outages import JudgeAway

    stop, one = STOPS[name], CONSUMERS[consumer]
    resumed = consumer == "GRPO's judge" and stop.error is llm.Unreachable
    wanted = JudgeAway if resumed else stop.error
    api = Api(retries=RETRIES, timeout=TIMEOUT, concurrency=4, max_pause=0.1, api_key_env="")
    with endpoint(one, lambda _: stop.act) as seen:
        with (
            llm.Client(api, tmp_path / "calls.db", seen.url) as client,
            pytest.raises((UserError, JudgeAway), match=f"(?s){stop.words}") as error,
        ):
            one.ask(client, tmp_path, list(range(60)))
        assert type(error.value) is wanted
        assert seen.asked.total() <= one.at_once * (RETRIES + 2)
        asked = seen.asked.total()
        time.sleep(0.05)
        assert seen.asked.total() == asked
    ledger = SqliteLedger(tmp_path / "calls.db")
    assert ledger.usage(f"{api.base_url} {api.model}") == Usage()
    assert not ledger._execute("SELECT 1 FROM calls WHERE state = 'reserved'").fetchall()
    ledger.close()


# --- one answer too many -----------------------------------------------------------------------------------------------


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_answer_to_the_next_request(tmp_path):
    """A connection is kept, and the server says something on it while it is idle."""
    one = CONSUMERS["GRPO's judge"]
    api = Api(retries=0, timeout=TIMEOUT, concurrency=1, api_key_env="")
    with (
        endpoint(one, lambda _: wire_acts.says_more_later) as seen,
        llm.Client(api, tmp_path / "calls.db", seen.url) as client,
    ):
        for number in range(5):
            assert one.ask(client, tmp_path, [number]) == {number: ("accepted", SCORE)}
            time.sleep(0.06)
        assert seen.asked.total() == 5


# --- the budget --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_the_budget_holds_whatever_is_answered(tmp_path, monkeypatch, consumer):
    """All rows that are paid for, under a budget for a part of them."""
    monkeypatch.setattr(Patience, "backoff", lambda *_: 0.01)
    monkeypatch.setattr(patience, "_UNREACHABLE", 10**6)
    one = CONSUMERS[consumer]
    paid = [n for n, name in enumerate(NAMES) if BEHAVIOURS[name].paid]
    api = Api(retries=RETRIES, timeout=TIMEOUT, concurrency=8, budget_tokens=4000, api_key_env="")
    with endpoint(one, lambda n: BEHAVIOURS[NAMES[n]].act) as seen:
        with (
            llm.Client(api, tmp_path / "calls.db", seen.url) as client,
            pytest.raises(llm.BudgetSpent, match="the budget of 4,000 tokens is spent"),
        ):
            one.ask(client, tmp_path, paid)
            one.ask(client, tmp_path, list(range(len(NAMES), COUNT)) * 20)
        ledger = SqliteLedger(tmp_path / "calls.db")
        spent = ledger.usage(f"{api.base_url} {api.model}")
        ledger.close()
    assert (
        4000 <= spent.tokens <= 4000 + 8 * 4500
    )  # a reply that is given up at 16 MB is estimated at its limit
