"""Where calls are recorded and counted: in files of this host, or in a database that several hosts share.

A ledger's place is the path of its file, or `SHARED`: the database that the environment variable `SIF_LEDGER` names. Its
address holds a password, so it goes nowhere else: not into parameters, manifests or files.
"""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sifthinker.config import Api
from sifthinker.core.errors import UserError
from sifthinker.llm.ledger import VARIABLE, Ledger
from sifthinker.llm.ledger_sqlite import SqliteLedger
from sifthinker.llm.rate_limits import Quota
from sifthinker.llm.rate_limits_file import FileQuota
from sifthinker.llm.usage import Usage

if TYPE_CHECKING:
    from sifthinker.llm.postgres import Database

log = logging.getLogger(__name__)

FILE = "calls.sqlite"  # in the store
FLEETING = "SIF_STORE_FLEETING"  # environment variable: 1 where the store's folder is deleted with the run, as in a pod
SHARED: Literal["shared"] = "shared"
Place = Path | Literal["shared"]


def place(store: Path) -> Place:
    """Where the calls of a store are recorded."""
    return SHARED if os.environ.get(VARIABLE, "").strip() else store / FILE


def fleeting() -> bool:
    """Whether what is paid here would be forgotten with the run: the ledger is a file, in a store that is deleted with it."""
    return os.environ.get(FLEETING, "") == "1" and not os.environ.get(VARIABLE, "").strip()


def open_ledger(where: Place) -> Ledger:
    """The ledger at a place; makes it where there is none.

    Raises:
        UserError: it cannot be opened.
    """
    if isinstance(where, Path):
        return SqliteLedger(where)
    from sifthinker.llm.ledger_postgres import PostgresLedger  # takes half a second; most runs need none

    return PostgresLedger(database())


def account(api: Api) -> str:
    """The account that an endpoint's calls are counted under."""
    return f"{api.base_url} {api.model}"


def usage(where: Place, api: Api) -> Usage:
    """What an endpoint has cost, as the ledger at a place holds it.

    Raises:
        UserError: it cannot be opened.
    """
    with closing(open_ledger(where)) as ledger:
        return ledger.usage(account(api))


def open_account(where: Place, api: Api) -> Ledger:
    """The ledger at a place, for the calls of an endpoint, whose money is in one currency.

    Raises:
        UserError: it cannot be opened; or there is a budget of money, and money of another currency was booked.
    """
    ledger = open_ledger(where)
    try:
        ledger.together(lambda: _check_currency(ledger, api))
    except BaseException:
        ledger.close()
        raise
    return ledger


def _check_currency(ledger: Ledger, api: Api) -> None:
    """Notes the currency of the prices, where there are any.

    Raises:
        UserError: see `open_account`.
    """
    prices, of, currency = api.prices, account(api), api.prices.currency.strip().upper()
    if not (prices.prompt or prices.cached_prompt or prices.completion):
        return
    money = ledger.usage(of).money
    known = ledger.currencies(of) if money else []
    if set(known) - {currency}:
        said = f"{of}: {money:,.2f} was booked before, in {' and '.join(known)}, and the prices are in {currency} now"
        if api.budget_money is not None:
            todo = "" if len(known) > 1 else f"give prices and budget_money in {known[0]}, or "
            raise UserError(f"{said}. A budget does not add up currencies: {todo}use budget_tokens")
        log.warning("%s. No budget_money can be held from now on", said)
    elif money and not known and api.budget_money is not None:
        log.warning("%s: %.2f was booked before currencies were noted; it counts as %s", of, money, currency)
    ledger.note_currency(of, currency, alone=not money)


def open_quota(where: Place, account: str, requests: int | None, tokens: int | None) -> Quota:
    """The quota of an account (per minute; None = unlimited), beside the ledger at a place.

    Raises:
        UserError: it cannot be opened.
    """
    name = hashlib.sha256(account.encode()).hexdigest()[:16]
    if isinstance(where, Path):
        return FileQuota(where.with_name(f"{where.name}.{name}.quota"), requests, tokens)
    from sifthinker.llm.rate_limits_postgres import PostgresQuota

    return PostgresQuota(database(), name, requests, tokens)


def identity() -> str:
    """What tells the shared ledger's database from another one, by whatever address it is reached.

    Raises:
        UserError: there is none, or it cannot be opened.
    """
    return database().identity()


def database() -> Database:
    """The database that `SIF_LEDGER` names.

    Raises:
        UserError: it is not set, or is no address.
    """
    url = os.environ.get(VARIABLE, "").strip()
    if not url:
        raise UserError(
            f"the ledger is shared, and {VARIABLE} is not set here: set it to the address of its PostgreSQL database "
            "on every host that takes part"
        )
    from sifthinker.llm.postgres import Database

    return Database(url)
