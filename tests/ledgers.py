"""Ledgers of paid calls for tests: of both kinds, and what tests look up in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sifthinker.llm.ledger import LEASE, Ledger
from sifthinker.llm.rate_limits import Quota


def counts(ledger: Ledger) -> dict[str, int]:
    """Requests by state."""
    return dict(ledger._execute("SELECT state, count(*) FROM calls GROUP BY state").fetchall())


@dataclass(frozen=True)
class Kind:
    """One kind of ledger: how it is opened, and looked into."""

    path: Path  # of the file
    url: str = ""  # of the database; "" for a file

    def open(self, lease: float = LEASE) -> Ledger:
        if self.url:
            from sifthinker.llm.ledger_postgres import PostgresLedger
            from sifthinker.llm.postgres import Database

            return PostgresLedger(Database(self.url), lease)
        from sifthinker.llm.ledger_sqlite import SqliteLedger

        return SqliteLedger(self.path, lease)

    def quota(self, requests: int | None = None, tokens: int | None = None) -> Quota:
        """Of one account, beside the ledger."""
        if self.url:
            from sifthinker.llm.postgres import Database
            from sifthinker.llm.rate_limits_postgres import PostgresQuota

            return PostgresQuota(Database(self.url), "account", requests, tokens)
        from sifthinker.llm.rate_limits_file import FileQuota

        return FileQuota(self.path.with_name("quota"), requests, tokens)

    def run(self, statement: str, values: list[Any] = []) -> list[tuple[Any, ...]]:  # noqa: B006 (not changed)
        """What a statement says, in a connection of its own; `?` stands for a value."""
        if self.url:
            import psycopg

            with psycopg.connect(self.url, options="-c search_path=sifthinker", autocommit=True) as db:
                cursor = db.execute(statement.replace("?", "%s"), values)
                return cursor.fetchall() if cursor.description else []
        import sqlite3

        with sqlite3.connect(self.path) as db:
            return db.execute(statement, values).fetchall()
