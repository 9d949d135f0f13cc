"""Batches of engines that were killed, and engines side by side: no request is ordered twice, and no answer is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sifthinker import llm
from sifthinker.config import Api
from sifthinker.llm import batch, bookkeeping, dispatcher
from sifthinker.llm.ledger import Ledger
from sifthinker.llm.ledger_sqlite import SqliteLedger
from tests.evil import GOOD_USAGE
from tests.ledgers import Kind
from tests.llm.batch_provider import API, Provider, request
from tests.machine import until

ACCOUNT = f"{API.base_url} {API.model}"
OTHER = API.model_copy(update={"concurrency": 3})  # an engine of its own, on the same account
KEYS = [request(n).identity(API, "")[0] for n in range(6)]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setattr(batch, "QUIET", 0.05)
    monkeypatch.setattr(batch, "POLL", 0.02)
    monkeypatch.setattr(batch, "FULL", 0.3)
    made = Provider(most=10)
    yield made
    made.close()


@pytest.fixture
def place(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> bookkeeping.Place:
    """Of a ledger of each kind, for clients."""
    if kind.url:
        monkeypatch.setenv("SIF_LEDGER", kind.url)
        return "shared"
    return kind.path


def ordered_by_a_killed_host(
    monkeypatch: pytest.MonkeyPatch, place: bookkeeping.Place, provider: Provider
) -> None:
    """Orders six requests, and leaves the ledger as a process of another host does that is killed then."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("socket.gethostname", lambda: "elsewhere")
        elsewhere.setattr(Ledger, "release", lambda *_: None)
        elsewhere.setattr(Ledger, "close", lambda self: self._close())
        with llm.Client(API, place, provider.url) as client:
            asked(client)
            until(lambda: provider.states() == ["in_progress"])
            until(lambda: any(state.startswith("sent") for state in states(place)))


def asked(client: llm.Client) -> list[Any]:
    return [client.submit(request(n)) for n in range(6)]


def states(place: bookkeeping.Place) -> list[str]:
    ledger = bookkeeping.open_ledger(place)
    try:
        return [state for state, _ in ledger.open_batches(ACCOUNT).values()]
    finally:
        ledger.close()


def lease_ends(kind: Kind) -> None:
    """Of the host that was killed: nothing was heard of it for long enough."""
    kind.run("DELETE FROM owners WHERE substr(owner, 1, 10) = 'elsewhere:'")


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """What the ledgers' method is called with."""
    real, calls = getattr(Ledger, name), []

    def method(self: Ledger, *arguments: Any) -> Any:
        calls.append(arguments)
        return real(self, *arguments)

    monkeypatch.setattr(Ledger, name, method)
    return calls


def assert_bought_once(kind: Kind, place: bookkeeping.Place, provider: Provider) -> None:
    assert len(provider.batches) == 1
    assert sorted(provider.answered.values()) == [1] * 6
    assert kind.run("SELECT state, count(*) FROM calls GROUP BY state") == [("ok", 6)]
    assert kind.run("SELECT calls, completion_tokens FROM accounts") == [
        (6, 6 * GOOD_USAGE["completion_tokens"])
    ]
    assert states(place) == []


def test_a_batch_of_a_host_that_was_killed_is_collected_after_its_lease(kind, place, provider, monkeypatch):
    ordered_by_a_killed_host(monkeypatch, place, provider)
    provider.finish()
    claims = counted(monkeypatch, "claim")
    with llm.Client(API, place, provider.url) as client:  # within the lease
        futures = asked(client)
        until(lambda: len(claims) >= 12)  # each was told that another one asks it
        assert len(states(place)) == 1
        lease_ends(kind)
        assert [future.result(20).text for future in futures] == [f"question {n}" for n in range(6)]
    assert_bought_once(kind, place, provider)


def test_what_is_bought_is_recorded_although_another_engine_has_reserved_it(
    kind, place, provider, monkeypatch
):
    ordered_by_a_killed_host(monkeypatch, place, provider)
    lease_ends(kind)
    other = kind.open()
    assert [other.claim(key, ACCOUNT, b"") for key in KEYS] == ["mine"] * 6
    monkeypatch.setattr(Ledger, "hold", lambda *_: None)  # the other engine came a moment later
    with llm.Client(API, place, provider.url):  # and asks for nothing
        provider.finish()
        until(lambda: not states(place))
    assert [other.claim(key, ACCOUNT, b"").text for key in KEYS] == [f"question {n}" for n in range(6)]
    other.close()
    assert_bought_once(kind, place, provider)


@pytest.mark.parametrize("asks", ["before", "after"])
def test_an_engine_waits_for_what_is_in_a_batch_that_another_one_took_up(
    kind, place, provider, monkeypatch, asks
):
    ordered_by_a_killed_host(monkeypatch, place, provider)
    lease_ends(kind)
    claims = counted(monkeypatch, "claim")
    holds = counted(monkeypatch, "hold")
    take = Ledger.take_batches
    if asks == "before":  # it has reserved them, and is about to order; so far it knows of no batch
        monkeypatch.setattr(Ledger, "take_batches", lambda *_: {})
        monkeypatch.setattr(batch, "QUIET", 2.0)
        with llm.Client(OTHER, place, provider.url) as second:
            futures = asked(second)
            until(lambda: len(claims) >= 6)
            monkeypatch.setattr(Ledger, "take_batches", take)
            with llm.Client(API, place, provider.url):
                until(lambda: holds)
                until(lambda: len(claims) >= 18)  # told to look again, and then that another one asks
                provider.finish()
                said = [future.result(20).text for future in futures]
    else:
        with llm.Client(API, place, provider.url), llm.Client(OTHER, place, provider.url) as second:
            until(lambda: holds)
            futures = asked(second)
            until(lambda: len(claims) >= 12)
            provider.finish()
            said = [future.result(20).text for future in futures]
    assert said == [f"question {n}" for n in range(6)]
    assert_bought_once(kind, place, provider)


def test_what_an_engine_gives_back_while_its_batch_is_open_is_not_ordered_by_another_one(
    kind, place, provider, monkeypatch
):
    """As one does that is told to end, until its ledger is closed."""
    with llm.Client(API, place, provider.url) as first:
        futures = asked(first)
        until(lambda: provider.states() == ["in_progress"])
        kind.run("UPDATE calls SET state = 'failed'")
        claims = counted(monkeypatch, "claim")
        with llm.Client(OTHER, place, provider.url) as second:
            futures += asked(second)
            until(lambda: len(claims) >= 18)  # it was told to look again
            provider.finish()
            said = [future.result(20).text for future in futures]
    assert said == [f"question {n}" for n in range(6)] * 2
    assert_bought_once(kind, place, provider)


def test_two_engines_order_a_batch_again_once_that_a_full_queue_refused(kind, place, provider):
    provider.most = 0
    with llm.Client(API, place, provider.url) as first:
        futures = asked(first)
        until(lambda: provider.states() == ["failed"])
        with llm.Client(OTHER, place, provider.url):
            provider.most = 10
            until(lambda: len(provider.batches) > 1)
            provider.finish()
            assert [future.result(20).text for future in futures] == [f"question {n}" for n in range(6)]
        until(lambda: not states(place))
    assert provider.states() == ["failed", "completed"]
    assert sorted(provider.answered.values()) == [1] * 6


def test_what_arrives_between_a_claim_and_its_sending_is_not_ordered(kind, place, provider, monkeypatch):
    ordered_by_a_killed_host(monkeypatch, place, provider)
    lease_ends(kind)
    provider.finish()
    may_answer, got = threading.Event(), provider.got

    def later(name: str) -> tuple[object, int]:
        if name.startswith("files/"):
            may_answer.wait(20)
        return got(name)

    monkeypatch.setattr(provider, "got", later)
    monkeypatch.setattr(dispatcher, "IN_FLIGHT", 1)
    claims = counted(monkeypatch, "claim")
    with llm.Client(API.model_copy(update={"concurrency": 1}), place, provider.url) as client:
        futures = asked(client)
        until(lambda: len(claims) >= 6)  # all are reserved, and five of them wait to be sent
        may_answer.set()
        assert [future.result(20).text for future in futures] == [f"question {n}" for n in range(6)]
    assert_bought_once(kind, place, provider)


def test_a_batch_is_done_once_its_answers_are_recorded_by_those_who_wait(kind, place, provider, monkeypatch):
    set_batch, left = Ledger.set_batch, []

    def watched(self: Ledger, name: str, state: str) -> bool:
        if state == "done":
            left.extend(self._execute("SELECT count(*) FROM calls WHERE state != 'ok'").fetchone())
        return set_batch(self, name, state)

    monkeypatch.setattr(Ledger, "set_batch", watched)
    with llm.Client(API, place, provider.url) as client:
        futures = asked(client)
        until(lambda: provider.states() == ["in_progress"])
        provider.finish()
        assert all(isinstance(future.result(20), llm.Reply) for future in futures)
        until(lambda: left)
    assert left == [0]
    assert_bought_once(kind, place, provider)


def test_an_answer_whose_asker_is_cancelled_when_it_comes_is_kept(kind, place, provider, monkeypatch):
    tell = batch.BatchEndpoint._tell
    with llm.Client(API, place, provider.url) as client:

        def tells(self: batch.BatchEndpoint, key: str, outcome: Any) -> bool:
            told = tell(self, key, outcome)
            client.engine._flying[key].cancel()  # as an interrupted run does
            return told

        monkeypatch.setattr(batch.BatchEndpoint, "_tell", tells)
        futures = asked(client)
        until(lambda: provider.states() == ["in_progress"])
        provider.finish()
        until(lambda: all(future.done() for future in futures) and not states(place))
    assert_bought_once(kind, place, provider)


def test_a_batch_is_not_ordered_once_another_engine_has_its_requests(kind, place, provider, monkeypatch):
    """A host that was away from the ledger for longer than its lease."""
    uploaded, other = provider.uploaded, kind.open()

    def robbed(body: bytes) -> tuple[dict[str, Any], int]:
        kind.run("UPDATE calls SET owner = ?", [other.owner])
        return uploaded(body)

    monkeypatch.setattr(provider, "uploaded", robbed)
    claims = counted(monkeypatch, "claim")
    with llm.Client(API, place, provider.url) as client:
        futures = asked(client)
        until(lambda: provider.uploads and len(claims) >= 12)
        assert provider.batches == {}
        monkeypatch.setattr(provider, "uploaded", uploaded)
        other.close()  # gives them back
        until(lambda: provider.states() == ["in_progress"])
        provider.finish()
        assert all(isinstance(future.result(20), llm.Reply) for future in futures)
    assert_bought_once(kind, place, provider)


def test_a_batch_that_waits_to_be_ordered_is_not_once_another_engine_has_taken_it_up(tmp_path, provider):
    provider.most, provider.refusal = 0, 429
    path = tmp_path / "calls.db"
    with llm.Client(API, path, provider.url) as client:
        asked(client)
        until(lambda: provider.refused)
        Kind(path).run("UPDATE batches SET owner = 'another'")
        refused = provider.refused
        until(lambda: not client.engine.endpoint._submitted)
        assert provider.refused <= refused + 1  # one may have been on its way


def test_the_limits_of_a_minute_do_not_hold_up_a_batch(tmp_path, provider):
    api = Api(**API.model_dump() | {"requests_per_minute": 1, "tokens_per_minute": 1})
    with llm.Client(api, tmp_path / "calls.db", provider.url) as client:
        futures = asked(client)
        until(lambda: provider.states() == ["in_progress"])
        provider.finish()
        assert all(isinstance(future.result(20), llm.Reply) for future in futures)
    assert len(provider.batches) == 1


def test_an_engine_gives_signs_of_life_while_it_looks_for_batches(tmp_path, provider, monkeypatch):
    """Else another one would take up what it has just taken up."""
    ledger = SqliteLedger(tmp_path / "calls.db")
    ledger.plan_batch("lost", ACCOUNT, ["some key"])
    ledger.close()
    may_list, got = threading.Event(), provider.got

    def later(name: str) -> tuple[object, int]:
        may_list.wait(20)
        return got(name)

    monkeypatch.setattr(provider, "got", later)
    beats = counted(monkeypatch, "beat")
    client = llm.Client(API, tmp_path / "calls.db", provider.url)
    thread = threading.Thread(target=client.__enter__)
    thread.start()
    try:
        until(lambda: len(beats) >= 2)  # the first one is the ledger's own, when it is opened
        assert thread.is_alive()
    finally:
        may_list.set()
        thread.join()
        client.__exit__(None)
