"""The ledger of paid calls, in its file or its database."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from sifthinker.llm import bookkeeping
from sifthinker.llm.ledger import VARIABLE
from sifthinker.system import loopback
from sifthinker.upkeep.findings import Finding
from sifthinker.upkeep.machine_checks import filesystem

# File systems of several machines, by the names that Linux gives them: SQLite's locks are not to be trusted there.
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|ceph|lustre|gpfs|beegfs|glusterfs|afs|9p|fuse\.(ceph|gluster|sshfs|s3fs|gcsfuse|rclone)\S*"
)

_ACCOUNTS = "SELECT account, calls, money FROM accounts ORDER BY account"


def ledger(store: Path) -> Iterator[Finding]:
    """Whether the ledger of a store can be used, and what it has recorded."""
    where = bookkeeping.place(store)
    if isinstance(where, Path):
        yield from file(where)
        return
    yield from _database()
    if calls := _unknown(store / bookkeeping.FILE):
        found = f"{store / bookkeeping.FILE} holds {calls:,} calls that {VARIABLE} does not know; they would be paid again"
        yield Finding("ledger file", "warning", found, f"sif import-ledger {store / bookkeeping.FILE}")


def file(path: Path) -> Iterator[Finding]:
    """Whether the ledger of paid calls is on a disk of this machine, and can be read."""
    kind = filesystem(path.parent)
    if NETWORK.fullmatch(kind):
        found = f"{path} is on {kind}, a network file system"
        todo = f"keep the ledger in PostgreSQL ({VARIABLE}), or `store` on a local disk; until then let one machine at a time call APIs"
        yield Finding("ledger", "warning", found, todo)
        return
    if not path.exists():
        yield Finding("ledger", "ok", f"none yet; it will be on {kind}")
        return
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)) as db:
            db.execute("SELECT key FROM calls LIMIT 1").fetchall()
            accounts = db.execute(_ACCOUNTS).fetchall()
    except sqlite3.Error as error:
        todo = "restore it from a copy, or move it away: what it holds would be paid again"
        yield Finding("ledger", "error", f"{path}: {error}", todo)
        return
    yield Finding("ledger", "ok", f"{path} on {kind}: {paid(accounts)}")


def paid(accounts: Sequence[tuple[str, int, float]]) -> str:
    """What a ledger has recorded. Accounts may have prices in different currencies, so their money is not added up.

    Args:
        accounts: name, paid calls and money of each
    """
    calls = sum(calls for _, calls, _ in accounts)
    priced = [(account, money) for account, _, money in accounts if money]
    if len(priced) < 2:
        return f"{calls:,} calls paid, {sum(money for _, money in priced):,.2f} in money"
    each = ", ".join(f"{money:,.2f} ({account})" for account, money in priced)
    return f"{calls:,} calls paid, in money by account: {each}"


def _database() -> Iterator[Finding]:
    """Raises: UserError: it cannot be opened."""
    database = bookkeeping.database()
    with closing(database.open()) as db:
        began = time.monotonic()
        rows = db.execute(_ACCOUNTS).fetchall()
        away = (time.monotonic() - began) * 1000
        accounts = [(str(account), int(str(calls)), float(str(money))) for account, calls, money in rows]
        found = f"{database.name}, {away:.1f} ms away: {paid(accounts)}"
        is_open = (
            not db.pgconn.ssl_in_use
            and not db.info.host.startswith("/")
            and db.info.host not in loopback.HOSTS
        )
    if is_open:
        yield Finding("ledger", "warning", f"{found}; without TLS", f"add ?sslmode=verify-full to {VARIABLE}")
    else:
        yield Finding("ledger", "ok", found)


def _unknown(path: Path) -> int:
    """Calls of a ledger's file that were paid for, and that the database does not know."""
    if not path.is_file():
        return 0
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)) as source:
        keys = [key for (key,) in source.execute("SELECT key FROM calls WHERE state IN ('ok', 'dead')")]
    with closing(bookkeeping.database().open()) as db:
        row = db.execute("SELECT count(*) FROM calls WHERE key = ANY(%s)", [keys]).fetchone()
    assert row is not None, "a count has a row"
    return len(keys) - int(str(row[0]))
