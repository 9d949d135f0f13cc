"""Where calls are recorded and counted: in files of this host, or in a database that several hosts share.

A ledger's place is the path of its file, or `SHARED`: the database that the environment variable `SIF_LEDGER` names. Its
address holds a password, so it goes nowhere else: not into parameters, manifests or files.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sifthinker.core.errors import UserError
from sifthinker.llm.ledger import VARIABLE, Ledger
from sifthinker.llm.ledger_sqlite import SqliteLedger
from sifthinker.llm.rate_limits import Quota
from sifthinker.llm.rate_limits_file import FileQuota

if TYPE_CHECKING:
    from sifthinker.llm.postgres import Database

FILE = "calls.sqlite"  # in the store
SHARED: Literal["shared"] = "shared"
Place = Path | Literal["shared"]


def place(store: Path) -> Place:
    """Where the calls of a store are recorded."""
    return SHARED if os.environ.get(VARIABLE, "").strip() else store / FILE


def open_ledger(where: Place) -> Ledger:
    """The ledger at a place; makes it where there is none.

    Raises:
        UserError: it cannot be opened.
    """
    if isinstance(where, Path):
        return SqliteLedger(where)
    from sifthinker.llm.ledger_postgres import PostgresLedger  # takes half a second; most runs need none

    return PostgresLedger(database())


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
