"""What the judges of GRPO and of the evaluation were paid is in the notes of their stages."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from sifthinker import llm
from sifthinker.config import Api, Prices
from sifthinker.llm import bookkeeping, judge
from tasks.runtime.endpoint import endpoint
from tests import evil

COST = {"prompt_tokens": 1000, "completion_tokens": 200}


def job(store: Path, stage: str) -> SimpleNamespace:
    """What the endpoint uses of a job."""
    return SimpleNamespace(
        config=SimpleNamespace(sources=()),
        work=store,
        store=SimpleNamespace(root=store),
        order=SimpleNamespace(label=stage, stage=SimpleNamespace(name=stage)),
        log=logging.getLogger(__name__),
        notes={},
    )


def api(server: evil.Evil, **more: object) -> Api:
    prices = Prices(currency="CNY", prompt=1000, completion=5000)  # 2 CNY a call
    return Api.model_validate(
        {"base_url": server.url, "model": "judge", "api_key_env": "", "prices": prices, **more}
    )


def ask(section: Api, ledger: bookkeeping.Place, numbers: range) -> None:
    with llm.Client(section, ledger, scope="judge") as client:
        client.ask_all(judge.request("q", "a", f"answer {number}") for number in numbers)


def good(number: int, body: bytes) -> evil.Answer:
    return 200, {}, evil.chat("0.5", COST)


@pytest.mark.parametrize("stage", ["grpo", "evaluate"])
def test_calls_tokens_and_cost_of_a_judge_are_noted_whoever_asks_it(tmp_path, stage):
    with evil.serving(good) as server:
        section = api(server)
        ask(section, tmp_path / bookkeeping.FILE, range(3))  # before the stage, which does not count
        made = job(tmp_path, stage)
        made.notes["calls"] = 7  # of the stage itself: an evaluation's are the policy's
        with endpoint(lambda _: section)(made) as endpoints:
            ask(section, endpoints.ledger, range(5))  # as a rank of a training does, with a client of its own
        assert len(server.asked) == 5
    assert made.notes == {
        "calls": 7,
        "judge_calls": 2,
        "judge_tokens_bought": 2400,
        "cost": "4.0000 CNY",
    }


def test_tokens_that_were_not_reported_are_said_to_be_estimated(tmp_path):
    with evil.serving(lambda *_: (200, {}, evil.chat("0.5", None))) as server:
        section, made = api(server), job(tmp_path, "grpo")
        with endpoint(lambda _: section)(made) as endpoints:
            ask(section, endpoints.ledger, range(1))
    assert made.notes["judge_tokens_estimated"] == made.notes["judge_tokens_bought"] > 0


def test_the_annotator_is_noted_by_who_asks_it(tmp_path):
    with evil.serving(good) as server:
        section, made = api(server), job(tmp_path, "annotate")
        with endpoint(lambda _: section)(made) as endpoints:
            ask(section, endpoints.ledger, range(1))
    assert made.notes == {}


def test_a_ledger_that_is_gone_at_the_end_fails_no_stage(tmp_path, monkeypatch, caplog):
    with evil.serving(good) as server:
        section, made = api(server), job(tmp_path, "grpo")
        with endpoint(lambda _: section)(made):
            monkeypatch.setattr(bookkeeping, "usage", lambda *_: 1 / 0)
    assert made.notes == {}
    assert "grpo: what its judge was paid is not noted" in caplog.text
