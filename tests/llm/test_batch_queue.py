"""Batches under a provider's real limits: a full queue is waited for, and nothing is uploaded or answered twice."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sifthinker import llm
from sifthinker.llm import batch
from tests.llm.batch_provider import API, FULL, Provider, opened, request
from tests.machine import until


@pytest.fixture(params=[0, 400, 429])
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setattr(batch, "QUIET", 0.05)
    monkeypatch.setattr(batch, "POLL", 0.02)
    monkeypatch.setattr(batch, "FULL", 0.3)
    made = Provider(request.param)
    yield made
    made.close()


def test_a_full_queue_is_waited_for_and_nothing_is_uploaded_twice(tmp_path, provider, caplog):
    with llm.Client(API, tmp_path / "calls.db", provider.url) as client:
        first = [client.submit(request(n)) for n in range(5)]
        until(lambda: provider.states() == ["in_progress"])
        second = [client.submit(request(n)) for n in range(5, 12)]
        until(lambda: provider.refused > 1)
        assert not any(future.done() for future in (*first, *second))
        provider.finish()
        until(lambda: provider.states()[-1] == "in_progress" and len(provider.batches) > 1)
        provider.finish()
        said = [future.result(20).text for future in (*first, *second)]
    assert said == [f"question {n}" for n in range(12)]
    assert provider.uploads == 2
    assert set(provider.answered.values()) == {1}
    assert len(provider.answered) == 12
    if not provider.refusal:
        assert re.search(r"queue of batches is full.*7 requests wait until a batch has ended", caplog.text)


def test_a_run_that_was_killed_while_it_waited_orders_from_the_file_that_is_there(tmp_path, provider):
    if provider.refusal:
        pytest.skip("there is no batch that failed")
    with llm.Client(API, tmp_path / "calls.db", provider.url) as client:
        futures = [client.submit(request(n)) for n in range(3)]
        until(lambda: provider.states() == ["in_progress"])
    provider.batches["batch-0"] |= {"status": "failed", "errors": {"data": [FULL]}}  # while nobody looked
    with llm.Client(API, tmp_path / "calls.db", provider.url) as client:
        futures = [client.submit(request(n)) for n in range(3)]
        until(lambda: provider.states() == ["failed", "in_progress"])
        provider.finish()
        assert [future.result(20).text for future in futures] == [f"question {n}" for n in range(3)]
    assert provider.uploads == 1
    assert opened(tmp_path / "calls.db") == {}


def test_an_order_whose_answer_was_lost_is_found_and_not_ordered_again(tmp_path, provider):
    order, lost = provider.ordered, []

    def lossy(given: dict[str, Any]) -> tuple[dict[str, Any], int]:
        made = order(given)
        if lost:
            return made
        lost.append(made)
        return {"error": {"message": "bad gateway"}}, 502

    provider.ordered = lossy  # type: ignore[method-assign]
    with llm.Client(API, tmp_path / "calls.db", provider.url) as client:
        future = client.submit(request(0))
        until(lambda: provider.states() == ["in_progress"])
        time.sleep(0.1)
        provider.finish()
        assert future.result(20).text == "question 0"
    assert (provider.uploads, len(provider.batches)) == (1, 1)
