"""The ledger in a PostgreSQL database, for several hosts.

* An owner lives as long as its heartbeat by the server's clock: clocks and process ids of the hosts do not matter. A
  reservation of a process that was killed is taken over after a lease (30 seconds).
* Transactions follow one another, as on SQLite: the lock that each takes first is the whole ledger's.
* A database that is away is waited for, with a warning. A transaction whose end was not heard of is looked up by its
  number, so that nothing is recorded, or charged, twice.
"""

from __future__ import annotations

import logging
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from sifthinker.core.errors import UserError
from sifthinker.llm import postgres
from sifthinker.llm.ledger import LEASE, Ledger

log = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE = 600.0  # seconds without the database after which the run ends
_AGAIN = 30.0  # seconds between two warnings
_BLINK = 2.0  # seconds between two tries to connect
_STALE = 7 * 86_400.0  # seconds after which an owner that was killed is forgotten
_TODO = "see to the database, then start again"


class PostgresLedger(Ledger):
    """One connection to a ledger's database."""

    _NOW = "extract(epoch FROM clock_timestamp())::float8"
    _LATEST = _NOW

    def __init__(self, database: postgres.Database, lease: float = LEASE) -> None:
        """Connects, and makes the tables where they are missing.

        Raises:
            UserError: there is no connection, or the tables cannot be made.
        """
        super().__init__(database.name, f"{socket.gethostname()}:{uuid.uuid4().hex}")
        self.lease = lease
        self._database = database
        self._db = database.open()
        self._ahead: list[str] = []  # statements that go with the next one
        self._number = ""  # of the last transaction
        self._beaten = float("-inf")  # when the last heartbeat was sent, by this host's clock
        self._execute(f"DELETE FROM owners WHERE beat < {self._NOW} - ?", [_STALE])
        self.beat()

    @property
    def is_open(self) -> bool:
        """Whether a transaction is open; it is not once the connection is lost."""
        return not self._is_lost and self._db.info.transaction_status != TransactionStatus.IDLE

    @property
    def is_held(self) -> bool:
        """Whether the lease certainly lasts for a while; not where no heartbeat has reached the database for long."""
        return time.monotonic() - self._beaten < 0.7 * self.lease

    @property
    def _is_lost(self) -> bool:
        return self._db.closed or self._db.broken

    def trouble(self, error: BaseException) -> str | None:
        """Why the database records nothing, and what to do; None where an error is of another kind."""
        if not isinstance(
            error, psycopg.OperationalError
        ):  # a full disk, no memory, a lock that nobody gives back
            return None
        return f"{self._database.words(error)}; {_TODO}"

    def together(self, work: Callable[[], T], durable: bool = True) -> T:
        """Does `work` in one transaction, again where the connection is lost before it is committed.

        Raises:
            UserError: there was no connection for ten minutes, or the run was told to end.
        """
        while True:
            done: list[T] = []
            try:
                if self._is_lost:
                    self._reconnect()
                with self.transaction(durable):
                    done.append(work())
                return done[0]
            except psycopg.Error:
                if not self._is_lost:
                    raise
                if done and self._was_committed():
                    return done[0]

    def beat(self) -> None:
        """Says that this owner is alive; due several times per lease."""
        sent = time.monotonic()
        with self.transaction(durable=False):
            row = self._execute(
                f"SELECT {self._NOW} - beat FROM owners WHERE owner = ?", [self.owner]
            ).fetchone()
            super().beat()
        if self._beaten > float("-inf") and (row is None or row[0] >= self.lease):
            self.lapses += 1
        self._beaten = sent

    def close(self) -> None:
        """Gives back what is still reserved. Where the database is away, others take it over after a lease."""
        try:
            super().close()
        except psycopg.Error as error:
            log.warning("%s: reservations are not given back: %s", self.name, self._database.words(error))

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> psycopg.Cursor[tuple[Any, ...]]:
        query = _query(statement)
        # PostgreSQL's texts hold no NUL.
        cleaned = [value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in values]
        ahead, self._ahead = self._ahead, []
        if not ahead:
            return self._db.execute(query, cleaned)
        with self._db.pipeline():  # one way to the server and back for all of them
            for one in ahead:
                self._db.execute(one)
            return self._db.execute(query, cleaned)

    def _savepoint(self, statement: str) -> None:
        self._ahead.append(statement)

    def _begin(self, durable: bool) -> None:
        self._ahead.clear()
        try:
            self._number = postgres.begin(self._db)
        except BaseException:
            if self.is_open:
                self._execute("ROLLBACK")
            raise

    def _commit(self) -> None:
        done = self._execute("COMMIT")
        assert done.statusmessage == "COMMIT", "an operation that failed was undone apart"

    def _close(self) -> None:
        self._db.close()

    def _lives(self, owner: str) -> bool:
        """Its heartbeat is younger than a lease. After a start of the server all have a lease to be heard of again."""
        row = self._execute(
            f"SELECT {self._NOW} - greatest(beat, extract(epoch FROM pg_postmaster_start_time())::float8)"
            " FROM owners WHERE owner = ?",
            [owner],
        ).fetchone()
        return row is not None and row[0] < self.lease

    def _was_committed(self) -> bool:
        """Whether the last transaction was committed although its end was not heard of."""
        while True:
            try:
                if self._is_lost:
                    self._reconnect()
                row = self._execute("SELECT pg_xact_status(?::xid8)", [self._number]).fetchone()
            except psycopg.Error:
                if not self._is_lost:
                    raise
                continue
            if row is None or row[0] != "in progress":
                return row is not None and row[0] == "committed"
            time.sleep(0.1)  # the server has not noticed yet that the connection is gone

    def _reconnect(self) -> None:
        """Waits for the database, and says so.

        Raises:
            UserError: it was away for ten minutes, or the run was told to end.
        """
        began = time.monotonic()
        said = float("-inf")
        self._db.close()
        while True:
            try:
                self._db = self._database.connect()
            except psycopg.OperationalError as error:
                why = self._database.words(error)
            else:
                if said > float("-inf"):
                    log.info("%s: the ledger's database answers again", self.name)
                return
            waited = time.monotonic() - began
            if self._hurry.is_set() or waited > PATIENCE:
                raise UserError(
                    f"{self.name}: the ledger's database is away for {waited:.0f} s: {why}; {_TODO}. What was recorded before is kept"
                )
            if time.monotonic() - said >= _AGAIN:
                said = time.monotonic()
                log.warning(
                    "%s: nothing is asked or recorded until the ledger's database answers: %s", self.name, why
                )
            self._hurry.wait(_BLINK)


@lru_cache
def _query(statement: str) -> str:
    return statement.replace("?", "%s")
