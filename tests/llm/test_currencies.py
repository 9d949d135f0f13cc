"""Money of two currencies is not added up under one budget."""

from __future__ import annotations

import sqlite3

import pytest

from sifthinker import llm
from sifthinker.config import Api, Prices
from sifthinker.core.errors import UserError
from sifthinker.llm import bookkeeping
from sifthinker.llm.ledger import Ledger
from sifthinker.llm.ledger_import import take_over
from sifthinker.llm.ledger_sqlite import SqliteLedger
from sifthinker.llm.usage import Usage
from tests.ledgers import Kind
from tests.llm.test_ledger import REPLY

URL = "http://127.0.0.1:9/v1"
ACCOUNT = f"{URL} m"


def api(currency: str, budget: float | None = None, price: float = 1.0) -> Api:
    prices = Prices(currency=currency, prompt=price)
    return Api(base_url=URL, model="m", api_key_env="", prices=prices, budget_money=budget)


@pytest.fixture(autouse=True)
def _shared(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind.url:
        monkeypatch.setenv("SIF_LEDGER", kind.url)


def opened(kind: Kind, section: Api) -> Ledger:
    return bookkeeping.open_account(bookkeeping.SHARED if kind.url else kind.path, section)


def book(ledger: Ledger, money: float = 100.0, key: str = "k") -> None:
    ledger.claim(key, ACCOUNT, b"{}")
    ledger.settle(key, REPLY, Usage(1, 10, 0, 5, money))
    ledger.close()


def test_a_budget_in_another_currency_than_what_was_booked_is_refused(kind):
    book(opened(kind, api("USD")))
    with pytest.raises(
        UserError, match=r"100\.00 was booked before, in USD, and the prices are in CNY now.* in USD, or use"
    ):
        opened(kind, api("CNY", budget=720.0))
    opened(kind, api(" usd", budget=200.0)).close()  # the same one


def test_the_client_refuses_it_before_anything_is_asked(kind):
    book(opened(kind, api("USD")))
    with (
        pytest.raises(UserError, match="in USD, and the prices are in CNY now"),
        llm.Client(api("CNY", 720.0), bookkeeping.SHARED if kind.url else kind.path),
    ):
        pass


def test_without_a_budget_it_is_a_warning_and_a_later_budget_is_refused_in_both(kind, caplog):
    book(opened(kind, api("USD")))
    book(opened(kind, api("CNY")), key="another")
    assert "No budget_money can be held from now on" in caplog.text
    for currency in ("USD", "CNY"):
        with pytest.raises(
            UserError, match=r"200\.00 was booked before, in CNY and USD,.*: use budget_tokens"
        ):
            opened(kind, api(currency, budget=1000.0))
    opened(kind, api("CNY", price=0)).close()  # without prices no money is booked


def test_a_currency_in_which_nothing_was_booked_is_forgotten(kind):
    opened(kind, api("USD")).close()
    book(opened(kind, api("CNY", budget=720.0)))
    with pytest.raises(UserError, match="in CNY, and the prices are in USD now"):
        opened(kind, api("USD", budget=1.0))


def test_what_was_booked_before_currencies_were_noted_counts_as_the_one_of_now(kind, caplog):
    ledger = kind.open()
    book(ledger)
    opened(kind, api("CNY", budget=720.0)).close()
    assert "100.00 was booked before currencies were noted; it counts as CNY" in caplog.text
    with pytest.raises(UserError, match="in CNY, and the prices are in USD now"):
        opened(kind, api("USD", budget=720.0))


def test_currencies_are_taken_over_with_the_calls_of_a_file(kind, tmp_path):
    book(bookkeeping.open_account(tmp_path / "old.sqlite", api("USD")))
    ledger = kind.open()
    assert take_over(tmp_path / "old.sqlite", ledger) == (1, 0)
    assert ledger.currencies(ACCOUNT) == ["USD"]
    ledger.close()


def test_a_file_of_an_earlier_release_is_opened_and_taken_over(kind, tmp_path):
    old = tmp_path / "old.sqlite"
    book(SqliteLedger(old))
    with sqlite3.connect(old) as db:
        db.execute("DROP TABLE currencies")
    ledger = kind.open()
    assert take_over(old, ledger) == (1, 0)
    ledger.close()
    ledger = bookkeeping.open_account(old, api("USD", 200.0))
    assert (ledger.usage(ACCOUNT).money, ledger.currencies(ACCOUNT)) == (100.0, ["USD"])
    ledger.close()
