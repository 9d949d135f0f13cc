"""A refusal that may be one request's alone rejects its row; one that all requests meet stops the stage."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from sifthinker import llm
from sifthinker.config import Api
from sifthinker.llm import judge
from sifthinker.llm.witnesses import IN_A_ROW
from tests import evil
from tests.evil import chat

FIREWALL = (403, {}, b"<html>Request blocked. Incident 123</html>")
NO_ENDPOINT = (404, {}, b'{"error": {"message": "No endpoints found that support image input"}}')
FIELD = (400, {}, b'{"error": {"message": "Unsupported parameter: seed", "param": "seed"}}')
GOOD = (200, {}, chat())


def questions(count: int) -> list[llm.Request]:
    return [judge.request("q", "a", f"answer number {number}.") for number in range(count)]


def ask(
    path: Path, refused: set[int], refusal: evil.Answer, count: int, concurrency: int = 1
) -> tuple[list[llm.Reply | llm.Failure], int]:
    """The outcomes of requests of which some are refused, and how many were sent."""

    def answer(_: int, body: bytes) -> evil.Answer:
        return refusal if any(f"answer number {number}.".encode() in body for number in refused) else GOOD

    with evil.serving(answer) as server:
        api = Api(concurrency=concurrency, retries=0, api_key_env="")
        with llm.Client(api, path, server.url) as client:
            return list(client.ask_all(questions(count))), len(server.asked)


@pytest.mark.parametrize("refusal", [FIREWALL, NO_ENDPOINT, FIELD])
@pytest.mark.parametrize("place", [1, 7])
def test_a_refusal_among_answers_rejects_its_row_alone_and_the_next_run_asks_it_again_where_that_may_help(
    tmp_path: Path, refusal: evil.Answer, place: int
) -> None:
    found, sent = ask(tmp_path / "l", {place}, refusal, 8)
    assert sent == 8
    assert [isinstance(one, llm.Failure) for one in found] == [number == place for number in range(8)]
    reject = found[place]
    assert isinstance(reject, llm.Failure)
    assert reject.kind == "bad-request" and f"HTTP {refusal[0]}" in reject.detail
    found, sent = ask(tmp_path / "l", set(), refusal, 8)
    again = refusal is not FIELD  # a 400 is kept: the same request has the same field
    assert sent == again and any(isinstance(one, llm.Failure) for one in found) is not again


def test_the_first_of_many_at_once_waits_for_a_witness(tmp_path: Path) -> None:
    found, _ = ask(tmp_path / "l", {0}, FIREWALL, 8, concurrency=8)
    assert [isinstance(one, llm.Failure) for one in found] == [True] + [False] * 7


@pytest.mark.parametrize("refusal", [FIREWALL, NO_ENDPOINT, FIELD])
def test_a_key_or_a_model_that_is_taken_away_stops_the_stage_after_a_few(
    tmp_path: Path, refusal: evil.Answer
) -> None:
    with pytest.raises(llm.Unauthorized, match="Nothing more was asked"):
        ask(tmp_path / "l", set(range(3, 40)), refusal, 40)
    with sqlite3.connect(tmp_path / "l") as ledger:
        states = dict(ledger.execute("SELECT state, count(*) FROM calls GROUP BY state"))
    assert states.pop("ok") == 3
    assert states.keys() <= ({"failed", "dead"} if refusal is FIELD else {"failed"}), (
        "the next run asks them again"
    )
    assert IN_A_ROW <= sum(states.values()) < 3 * IN_A_ROW, (
        "a few more were reserved, and 37 would be refused"
    )


def test_what_all_are_refused_from_the_start_stops_it_with_the_first(tmp_path: Path) -> None:
    with pytest.raises(llm.Unauthorized, match="api_key_env is empty"):
        ask(tmp_path / "l", set(range(9)), FIREWALL, 9)
