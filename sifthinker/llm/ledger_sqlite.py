"""The ledger in a file, for the processes of one host.

SQLite in WAL mode with full synchronisation: what is committed survives SIGKILL and power loss. One commit costs
about half a millisecond of disk, so callers put many operations into one `transaction` (`commits` does). The file
has to be on a local disk.
"""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from sifthinker.core.errors import UserError
from sifthinker.llm.ledger import LEASE, Ledger
from sifthinker.system import processes
from sifthinker.system.disk_errors import trouble

logger = logging.getLogger(__name__)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, account TEXT NOT NULL, state TEXT NOT NULL, owner TEXT NOT NULL, at REAL NOT NULL,
    request BLOB NOT NULL, reply BLOB, finish_reason TEXT, model TEXT, kind TEXT, detail TEXT,
    prompt_tokens INTEGER NOT NULL DEFAULT 0, cached_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0, money REAL NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS owners (owner TEXT PRIMARY KEY, beat REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accounts (
    account TEXT PRIMARY KEY, calls INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, money REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS estimates (account TEXT PRIMARY KEY, tokens INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS currencies (account TEXT, currency TEXT, PRIMARY KEY (account, currency)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, account TEXT NOT NULL, state TEXT NOT NULL,
    keys BLOB NOT NULL, at REAL NOT NULL, owner TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
"""
_OWNED = (
    "ALTER TABLE batches ADD COLUMN owner TEXT NOT NULL DEFAULT ''"  # of a file that an earlier release made
)


class SqliteLedger(Ledger):
    """One connection to a ledger's file."""

    _NOW = "((julianday('now') - 2440587.5) * 86400.0)"  # of the Unix epoch
    # Its clock has milliseconds, in which two batches can be planned.
    _LATEST = f"max({_NOW}, (SELECT coalesce(max(at), 0) + 1e-6 FROM batches))"

    def __init__(self, path: Path, lease: float = LEASE) -> None:
        """Opens or creates the file.

        Raises:
            UserError: it cannot be opened, or is no ledger.
        """
        # One owner per connection: host, process (with its start, since process ids are reused), connection.
        host = f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"
        super().__init__(path.name, f"{host}:{uuid.uuid4().hex}")
        self.lease = lease
        self._durable: bool | None = None  # what the connection is set to
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=60)
            self._open()
            self.beat()
        except (OSError, sqlite3.Error) as error:
            advice = "It must be a SQLite file on a local disk; move a damaged one away (what it holds would be paid again)"
            why = trouble(error) or f"{error}. {advice}"  # nobody shall move it away because the disk is full
            raise UserError(f"{path.name}: cannot open the ledger of paid calls: {why}") from error

    def _open(self) -> None:
        """The schema. Ranks open a new file at once, and SQLite does not wait for the one that turns WAL on."""
        end = time.monotonic() + 60
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.executescript(_SCHEMA)
                if all(column[1] != "owner" for column in self._db.execute("PRAGMA table_info(batches)")):
                    self._db.execute(_OWNED)
                return
            except sqlite3.OperationalError as error:
                if "duplicate column" in str(error):  # another process has just added it
                    return
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        """Gives back what is still reserved; on a full disk the next one takes it over, once this process is gone."""
        try:
            super().close()
        except sqlite3.Error as error:
            if not (said := trouble(error)):
                raise
            logger.warning("%s: reservations are not given back: %s", self.name, said)

    def trouble(self, error: BaseException) -> str | None:
        """What is wrong with the disk, and what to do; None where an error is of another kind."""
        return trouble(error)

    @property
    def is_open(self) -> bool:
        """Whether a transaction is open; SQLite ends it itself when the disk is full."""
        return self._db.in_transaction

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._db.execute(statement, values)

    def _begin(self, durable: bool) -> None:
        if durable != self._durable:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._durable = durable
        self._db.execute("BEGIN IMMEDIATE")

    def _commit(self) -> None:
        self._db.execute("COMMIT")

    def _close(self) -> None:
        self._db.close()

    def _lives(self, owner: str) -> bool:
        """Its process does on this host, and its heartbeat elsewhere."""
        row = self._db.execute("SELECT beat FROM owners WHERE owner = ?", [owner]).fetchone()
        host, pid, created, _ = owner.rsplit(":", 3)
        if row is None:
            return False
        if host == socket.gethostname():
            return processes.lives(int(pid), float(created))
        return bool(time.time() - row[0] < self.lease)
