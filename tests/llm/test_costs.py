"""What calls have cost and will cost, by hand: guesses, corrections, and room in the budget."""

import asyncio
from typing import Any

import pytest

from sifthinker.config import Api, Prices
from sifthinker.llm.costs import Costs, guess
from sifthinker.llm.usage import Usage

PRICES = Prices(currency="CNY", prompt=2e6, cached_prompt=1e6, completion=10e6)  # 2 a prompt token


def says(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("messages", "tokens"),
    [
        ([], 0),
        (says("x" * 40), 10),  # four bytes a token
        (says("x" * 2), 0.5),
        (says("\u00e9" * 40), 20),  # two bytes of UTF-8 each
        (says("\u72d7" * 40), 30),
        (says("\ud800" * 40), 10),  # half a character is one byte: "?"
        (says("x" * 40) + says("x" * 8), 12),
        ([{"content": [{"type": "text", "text": "x" * 40}]}], 10),
        ([{"content": [{"type": "image_url"}, {"type": "text", "text": "x" * 40}]}], 1010),
        ([{"content": [{"type": "image_url"}, {"type": "image_url"}]}], 2000),
    ],
)
def test_the_first_guess_counts_bytes_and_pictures(messages: list[dict[str, Any]], tokens: float) -> None:
    assert guess(messages) == tokens


@pytest.mark.parametrize(
    ("api", "guessed"),
    [
        (Api(), 0),  # nothing needs it
        (Api(tokens_per_minute=1000), 10),
        (Api(budget_tokens=1000), 10),
        (Api(budget_money=5.0, prices=PRICES), 10),
    ],
)
def test_a_prompt_is_guessed_only_where_a_limit_needs_it(api: Api, guessed: float) -> None:
    assert Costs(api, Usage()).guess(says("x" * 40)) == guessed


def test_what_is_known_counts_each_call_once() -> None:
    costs = Costs(Api(budget_tokens=100), Usage(1, 40, 0, 10))
    assert costs.known == Usage(1, 40, 0, 10)
    costs.received += Usage(2, 35, 5, 10)  # paid for, and not yet in the ledger
    assert costs.known == Usage(3, 75, 5, 20)
    assert not costs.is_spent
    costs.received += Usage(1, 5)
    assert costs.is_spent
    costs.spent, costs.bought = Usage(4, 80, 5, 20), Usage(3, 40, 5, 10)  # the ledger has them now
    assert costs.known == Usage(4, 80, 5, 20)


def test_a_budget_in_money_is_spent_by_money() -> None:
    costs = Costs(Api(budget_money=5.0, prices=PRICES), Usage(1, 1, money=4.99))
    assert not costs.is_spent
    costs.received += Usage(1, money=0.01)
    assert costs.is_spent


@pytest.mark.parametrize(
    ("api", "spent", "line"),
    [
        (
            Api(budget_tokens=10_000, prices=PRICES),
            Usage(1200, 9000, 100, 1500, 12.345),
            "the budget of 10,000 tokens is spent: 1,200 calls, 10,500 tokens, 12.35 CNY. Everything bought is "
            "kept in the ledger; raise budget_tokens or budget_money to continue from there.",
        ),
        (
            Api(budget_tokens=0, budget_money=2000.0, prices=PRICES),
            Usage(1, 2, 0, 3, 4.0, 1234),
            "the budget of 0 tokens and 2,000.00 CNY is spent: 1 calls, 5 tokens (1,234 of them estimated), "
            "4.00 CNY. Everything bought is kept in the ledger; raise budget_tokens or budget_money to continue "
            "from there.",
        ),
        (
            Api(budget_money=0.5, prices=PRICES),
            Usage(),
            "the budget of 0.50 CNY is spent: 0 calls, 0 tokens, 0.00 CNY. Everything bought is kept in the "
            "ledger; raise budget_tokens or budget_money to continue from there.",
        ),
    ],
)
def test_a_spent_budget_says_on_what(api: Api, spent: Usage, line: str) -> None:
    assert Costs(api, spent).line() == line


def test_a_call_is_expected_to_cost_what_is_guessed_until_a_server_reports() -> None:
    costs = Costs(Api(prices=PRICES), Usage())
    assert costs.expected(10.4, 50) == Usage(1, 10, 0, 50, 520.0)  # the longest answer
    costs.learn(10.0, Usage(1, 20, 5, 30))
    costs.learn(20.0, Usage(1, 40, 0, 10))
    # Prompts are twice as long as guessed, answers fade: (0.99 * 30 + 10) / 1.99 = 19.95.
    assert costs.expected(100.0, 50) == Usage(1, 200, 0, 20, 600.0)


def test_reports_fade_by_a_hundredth_a_call() -> None:
    costs = Costs(Api(), Usage())
    costs.learn(10.0, Usage(1, 20, 5, 30))
    assert costs.seen == [1.0, 10.0, 20, 30]
    costs.learn(20.0, Usage(1, 44, 0, 8))
    assert costs.seen == pytest.approx([1.99, 29.9, 63.8, 37.7])


@pytest.mark.parametrize(
    ("guessed", "usage"),
    [
        (10.0, Usage(1, 20, 0, 30, estimated=50)),  # an estimate teaches nothing
        (10.0, Usage(1, 20, 0, 30, estimated=1)),
        (0.0, Usage(1, 20, 0, 30)),  # the prompt was not guessed
    ],
)
def test_only_a_report_on_a_guessed_prompt_corrects_later_guesses(guessed: float, usage: Usage) -> None:
    costs = Costs(Api(), Usage())
    costs.learn(guessed, usage)
    assert costs.seen == [0, 0, 0, 0]


def test_a_silent_server_s_call_is_estimated_from_the_bytes_of_both_sides() -> None:
    costs = Costs(Api(prices=PRICES), Usage())
    # 10 tokens asked, 80 bytes answered: all of them estimated.
    assert costs.estimated(says("x" * 40), 80, 50) == Usage(1, 10, 0, 20, 220.0, 30)
    assert costs.estimated(says("x" * 40), 8000, 50) == Usage(
        1, 10, 0, 50, 520.0, 60
    )  # no longer than allowed
    costs.learn(10.0, Usage(1, 30, 0, 7))
    assert costs.estimated(says("x" * 40), 80, 50) == Usage(1, 30, 0, 20, 260.0, 50)


def test_an_answer_that_was_lost_counts_as_those_that_came_and_else_as_the_longest_one() -> None:
    costs = Costs(Api(prices=PRICES), Usage())
    assert costs.estimated(says("x" * 40), 0, 50, lost=True) == Usage(1, 10, 0, 50, 520.0, 60)
    costs.learn(10.0, Usage(1, 30, 0, 7))
    assert costs.estimated(says("x" * 40), 0, 50, lost=True) == Usage(1, 30, 0, 7, 130.0, 37)


@pytest.mark.parametrize(("mode", "money"), [("chat", 520.0), ("batch", 130.0)])
def test_a_batch_is_expected_at_its_discount(mode: str, money: float) -> None:
    prices = PRICES.model_copy(update={"batch_discount": 0.25})
    assert Costs(Api(mode=mode, prices=prices), Usage()).expected(10, 50).money == money  # type: ignore[arg-type]


CALL = Usage(1, 30, 0, 10)


def test_without_a_budget_every_call_has_room() -> None:
    async def ask() -> None:
        costs = Costs(Api(), Usage())
        for _ in range(1000):
            assert await costs.room(CALL)

    asyncio.run(asyncio.wait_for(ask(), 10))


def test_a_call_waits_for_those_on_the_wire_where_the_budget_may_not_hold_both() -> None:
    async def ask() -> None:
        costs = Costs(Api(budget_tokens=80), Usage())
        assert await costs.room(CALL) and await costs.room(CALL)  # 0 and 40 tokens are expected before them
        third = asyncio.create_task(costs.room(CALL))
        await asyncio.sleep(0.01)
        assert not third.done()  # 80 tokens are on the wire
        costs.received += Usage(1, 15, 0, 5)  # half of what was expected
        costs.landed(CALL)
        assert await third
        fourth = asyncio.create_task(costs.room(CALL))
        await asyncio.sleep(0.01)
        assert not fourth.done()  # 20 known and 80 on the wire
        costs.received += Usage(1, 45, 0, 15)
        costs.landed(CALL)
        assert not await fourth and costs.is_spent  # whatever is still on the wire

    asyncio.run(asyncio.wait_for(ask(), 10))


def test_a_call_that_is_alone_always_fits_until_the_budget_is_spent() -> None:
    async def ask() -> None:
        costs = Costs(Api(budget_tokens=30), Usage())
        assert await costs.room(CALL)
        costs.landed(CALL)
        assert await costs.room(CALL)  # the first one cost nothing
        costs.received += Usage(1, 20, 0, 10)
        costs.landed(CALL)
        assert not await costs.room(CALL)

    asyncio.run(asyncio.wait_for(ask(), 10))
