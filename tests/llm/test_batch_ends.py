"""Batches that end badly, and orders that are refused or lost: what is asked anew, what stops the run, what it says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sifthinker import llm
from sifthinker.llm import batch, batch_calls
from sifthinker.llm.batch_states import BatchStopped
from sifthinker.llm.endpoint_errors import Transient
from tests.ledgers import Kind
from tests.llm.batch_provider import API, Provider, opened, request
from tests.machine import until

REFUSED = {"code": "model_not_found", "message": "The model 'm' is not supported by the Batch API."}
QUESTIONS = [request(n) for n in range(3)]
SAID = ["question 0", "question 1", "question 2"]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setattr(batch, "QUIET", 0.05)
    monkeypatch.setattr(batch, "POLL", 0.02)
    monkeypatch.setattr("sifthinker.llm.patience.Patience.backoff", lambda *_: 0.02)
    made = Provider()
    yield made
    made.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.db"


def ordered(path: Path, provider: Provider) -> None:
    """A run that orders a batch and ends."""
    with llm.Client(API, path, provider.url) as client:
        _ = [client.submit(question) for question in QUESTIONS]
        until(lambda: provider.states() == ["in_progress"])
        until(lambda: [state for state, _ in opened(path).values()] == ["sent batch-0"])


def bought(path: Path, provider: Provider) -> list[str]:
    """What a run is answered whose batches are completed at once."""
    order = provider.ordered

    def at_once(given: dict[str, Any]) -> tuple[dict[str, Any], int]:
        made = order(given)
        provider.finish()
        return made

    provider.ordered = at_once  # type: ignore[method-assign]
    with llm.Client(API, path, provider.url) as client:
        said = [reply.text for reply in client.ask_all(QUESTIONS)]
    provider.ordered = order  # type: ignore[method-assign]
    return said


def collected(path: Path, provider: Provider) -> list[str]:
    """What a run is answered that orders nothing."""
    with llm.Client(API, path, provider.url) as client:
        futures = [client.submit(question) for question in QUESTIONS]
        return [future.result(20).text for future in futures]


def calls(path: Path) -> dict[str, int]:
    """Requests by state."""
    return dict(Kind(path).run("SELECT state, count(*) FROM calls GROUP BY state"))


# --- orders ------------------------------------------------------------------------------------------------------------


def losing(monkeypatch: pytest.MonkeyPatch, provider: Provider) -> None:
    """Orders arrive, their answers are lost, and then nothing is answered for as long as is waited."""
    order, raw = provider.ordered, batch.BatchEndpoint._raw

    def lossy(given: dict[str, Any]) -> tuple[dict[str, Any], int]:
        order(given)
        return {"error": {"message": "bad gateway"}}, 502

    async def away(self, method: str, *arguments: Any, **named: Any) -> bytes:
        if method == "GET":
            raise Transient("server-error", "HTTP 502: away")
        return await raw(self, method, *arguments, **named)

    monkeypatch.setattr(provider, "ordered", lossy)
    monkeypatch.setattr(batch.BatchEndpoint, "_raw", away)
    monkeypatch.setattr(batch_calls, "OUTAGE", 0.0)


def test_an_order_whose_answer_was_lost_in_an_outage_is_found_by_the_next_run(path, provider, monkeypatch):
    with monkeypatch.context() as outage:
        losing(outage, provider)
        with llm.Client(API, path, provider.url) as client, pytest.raises(llm.Unreachable, match="away"):
            client.ask_all(QUESTIONS)
    assert [state for state, _ in opened(path).values()] == ["planned"]
    provider.finish()
    assert collected(path, provider) == SAID
    assert provider.states() == ["completed"]
    assert opened(path) == {}


@pytest.mark.parametrize(
    ("answer", "status", "error", "says"),
    [
        (REFUSED, 400, BatchStopped, r"not supported by the Batch API.*\n.*correct what it names"),
        ({"message": "no"}, 401, llm.Unauthorized, "check the key"),
        ({"message": "no such path"}, 404, llm.Unauthorized, "check base_url"),
    ],
)
def test_an_order_that_is_refused_stops_the_run_and_no_request_counts_as_refused(
    path, provider, monkeypatch, answer, status, error, says
):
    orders = []
    with monkeypatch.context() as refusing:
        refusing.setattr(
            provider, "ordered", lambda given: orders.append(given) or ({"error": answer}, status)
        )
        with llm.Client(API, path, provider.url) as client, pytest.raises(error, match=says):
            client.ask_all(QUESTIONS)
    assert len(orders) == provider.uploads == 1
    assert calls(path) == {"failed": 3}  # so they are asked again
    assert opened(path) == {}
    assert bought(path, provider) == SAID


def test_a_file_that_is_refused_stops_the_run_and_no_request_counts_as_refused(path, provider, monkeypatch):
    with monkeypatch.context() as refusing:
        refusing.setattr(provider, "uploaded", lambda _: ({"error": {"message": "too large"}}, 413))
        with llm.Client(API, path, provider.url) as client, pytest.raises(BatchStopped, match="too large"):
            client.ask_all(QUESTIONS)
    assert calls(path) == {"failed": 3}
    assert bought(path, provider) == SAID


def test_an_order_that_may_have_arrived_before_one_was_refused_is_looked_for(path, provider, monkeypatch):
    order, got = provider.ordered, provider.got
    is_listed = False

    def once(given: dict[str, Any]) -> tuple[dict[str, Any], int]:
        if provider.batches:
            return {"error": {"message": "the key has expired"}}, 401
        order(given)
        return {"error": {"message": "bad gateway"}}, 502

    def late(name: str) -> tuple[object, int]:  # the list is behind
        return got(name) if is_listed else ({"data": [], "has_more": False}, 200)

    monkeypatch.setattr(provider, "ordered", once)
    monkeypatch.setattr(provider, "got", late)
    with llm.Client(API, path, provider.url) as client, pytest.raises(llm.Unauthorized, match="expired"):
        client.ask_all(QUESTIONS)
    is_listed = True
    provider.finish()
    assert collected(path, provider) == SAID
    assert provider.states() == ["completed"]


def test_an_order_is_looked_for_on_every_page_of_the_list(path, provider, monkeypatch):
    ordered(path, provider)
    Kind(path).run("UPDATE batches SET state = 'planned'")  # as if it had been killed a moment earlier
    provider.finish()
    provider.batches = {"another": {"id": "another", "status": "completed"}, **provider.batches}
    got, pages = provider.got, []

    def paged(name: str) -> tuple[object, int]:
        if not name.startswith("batches?"):
            return got(name)
        pages.append(name)
        listed = list(provider.batches.values())
        found = listed[1:] if name.endswith("&after=another") else listed[:1]
        return {"data": found, "has_more": len(pages) == 1}, 200

    monkeypatch.setattr(provider, "got", paged)
    assert collected(path, provider) == SAID
    assert pages == ["batches?limit=100", "batches?limit=100&after=another"]
    assert len(provider.batches) == 2


# --- what is gone ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_asked", [True, False])
@pytest.mark.parametrize("status", [404, 400])
@pytest.mark.parametrize(
    ("gone", "named"),
    [("batches/", "batch batch-0 is gone"), ("files/", "file out-batch-0 of batch batch-0 is gone")],
)
def test_what_the_provider_has_thrown_away_is_asked_anew_with_a_warning(
    path, provider, monkeypatch, caplog, gone, named, status, is_asked
):
    ordered(path, provider)
    provider.finish()
    got = provider.got

    def thrown_away(name: str) -> tuple[object, int]:
        if name.startswith(gone) and "batch-0" in name:
            return {"error": {"message": "it has expired"}}, status
        return got(name)

    monkeypatch.setattr(provider, "got", thrown_away)
    if not is_asked:
        with llm.Client(API, path, provider.url):
            until(lambda: opened(path) == {})
    assert bought(path, provider) == SAID
    assert opened(path) == {}
    assert provider.states() == ["completed", "completed"]
    [warning] = [record for record in caplog.records if "is gone" in record.getMessage()]
    assert warning.levelno == logging.WARNING
    assert named in warning.getMessage() and "it has expired" in warning.getMessage()


def test_results_that_are_gone_count_as_paid(path, provider, monkeypatch):
    """Else a provider that loses them always would be paid as often as a call is retried."""
    got = provider.got
    nothing = ({"error": {"message": "no such file"}}, 404)
    monkeypatch.setattr(provider, "got", lambda name: nothing if name.startswith("files/") else got(name))
    with llm.Client(API.model_copy(update={"retries": 9}), path, provider.url) as client:
        future = client.submit(QUESTIONS[0])
        for count in range(1, 4):
            until(lambda count=count: len(provider.batches) == count)
            provider.finish()
        assert isinstance(future.result(20), llm.Failure)
    assert Kind(path).run("SELECT calls FROM accounts") == [(3,)]


def test_an_address_that_knows_no_batch_at_all_stops_the_run_and_loses_none(path, provider, monkeypatch):
    ordered(path, provider)
    provider.finish()
    with monkeypatch.context() as wrong:
        wrong.setattr(provider, "got", lambda _: ({"error": {"message": "no such path"}}, 404))
        with llm.Client(API, path, provider.url) as client, pytest.raises(llm.Unauthorized, match="base_url"):
            client.ask_all(QUESTIONS)
    assert [state for state, _ in opened(path).values()] == ["sent batch-0"]
    assert collected(path, provider) == SAID
    assert provider.states() == ["completed"]


# --- what a person has to know of --------------------------------------------------------------------------------------


def test_a_batch_that_a_person_cancels_stops_the_run_and_what_it_answered_is_kept(path, provider):
    with llm.Client(API, path, provider.url) as client:
        futures = [client.submit(question) for question in QUESTIONS]
        until(lambda: provider.states() == ["in_progress"])
        provider.finish("cancelled", most=2)
        assert [future.result(20).text for future in futures[:2]] == SAID[:2]
        with pytest.raises(
            BatchStopped,
            match=r"batch batch-0 was cancelled at the provider\n2 of its 3 requests.*start again",
        ):
            futures[2].result(20)
        with pytest.raises(BatchStopped):  # nothing more is asked
            client.ask(request(7))
    assert provider.states() == ["cancelled"]
    assert opened(path) == {}
    assert bought(path, provider) == SAID
    assert sorted(provider.answered.values()) == [1, 1, 1]


def test_a_batch_that_is_refused_after_its_order_is_ordered_once(path, provider, monkeypatch):
    order = provider.ordered

    def validated(given: dict[str, Any]) -> tuple[dict[str, Any], int]:
        made, _ = order(given)
        before = dict(made)
        made |= {"status": "failed", "errors": {"data": [REFUSED]}}
        return before, 200

    with monkeypatch.context() as refusing:
        refusing.setattr(provider, "ordered", validated)
        with (
            llm.Client(API.model_copy(update={"retries": 8}), path, provider.url) as client,
            pytest.raises(BatchStopped, match=r"batch-0 failed.*not supported by the Batch API.*\n.*correct"),
        ):
            client.ask_all(QUESTIONS)
    assert (provider.uploads, len(provider.batches)) == (1, 1)
    assert calls(path) == {"failed": 3}
    assert opened(path) == {}
    assert bought(path, provider) == SAID


def test_a_batch_of_an_earlier_run_that_ended_badly_is_told_although_nobody_waits(path, provider, caplog):
    ordered(path, provider)
    provider.batches["batch-0"] |= {"status": "failed", "errors": {"data": [REFUSED]}}
    with llm.Client(API, path, provider.url) as client:
        until(lambda: opened(path) == {} and client.engine.stopped)
        with pytest.raises(BatchStopped, match="not supported by the Batch API"):
            client.ask(QUESTIONS[0])
    assert "batch batch-0, for which nobody waits yet" in caplog.text
    assert len(provider.batches) == 1


def test_a_batch_that_did_not_get_through_in_time_is_no_reason_to_stop(path, provider):
    with llm.Client(API, path, provider.url) as client:
        futures = [client.submit(question) for question in QUESTIONS]
        until(lambda: provider.states() == ["in_progress"])
        provider.finish("expired", most=2)
        until(lambda: provider.states() == ["expired", "in_progress"])
        provider.finish()
        assert [future.result(20).text for future in futures] == SAID
    assert sorted(provider.answered.values()) == [1, 1, 1]


def test_a_batch_that_stops_the_run_is_told_to_all_who_wait(path, provider, monkeypatch):
    """Another batch may take a day, and the next run collects it."""
    provider.most = 2
    with llm.Client(API, path, provider.url) as client:
        first = client.submit(QUESTIONS[0])
        until(lambda: provider.states() == ["in_progress"])
        second = client.submit(QUESTIONS[1])
        until(lambda: provider.states() == ["in_progress"] * 2)
        provider.batches["batch-0"]["status"] = "cancelled"
        for future in (first, second):
            with pytest.raises(BatchStopped, match="batch-0 was cancelled"):
                future.result(20)
    assert [state for state, _ in opened(path).values()] == ["sent batch-1"]


def test_what_is_about_to_be_ordered_is_not_once_the_run_has_stopped(path, provider, monkeypatch):
    monkeypatch.setattr(batch, "QUIET", 600.0)
    with llm.Client(API, path, provider.url) as client:
        future = client.submit(QUESTIONS[0])
        until(lambda: client.engine.endpoint._pending)
        client.engine._stop(llm.BudgetSpent("the budget is spent"))
        client.engine.loop.call_soon_threadsafe(client.engine.endpoint._flush)
        with pytest.raises(llm.BudgetSpent):
            future.result(20)
    assert provider.uploads == 0


def test_an_answer_about_a_batch_that_makes_no_sense_is_asked_for_again(path, provider, monkeypatch):
    got, odd = provider.got, ["", ""]

    def sometimes(name: str) -> tuple[object, int]:
        if name.startswith("batches/") and odd:
            odd.pop()
            return {"id": "batch-0"}, 200  # and no status
        return got(name)

    monkeypatch.setattr(provider, "got", sometimes)
    assert bought(path, provider) == SAID
    assert not odd
    assert len(provider.batches) == 1
