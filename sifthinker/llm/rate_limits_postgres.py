"""The quota that several hosts share: rows of the ledger's database, by the server's clock.

Whoever asks for a place locks the row of its account, so that the window holds over all hosts. A place takes two ways
to the server and back; without a quota there is none, and another host's pause is heard of within a second, when the
peers are counted.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import psycopg

from sifthinker.llm import rate_limits
from sifthinker.llm.postgres import Connection, Database
from sifthinker.llm.rate_limits import ALIVE, PARTS, Quota, Ticket, pace, to_wait

log = logging.getLogger(__name__)
T = TypeVar("T")
D = TypeVar("D")

_NOW = "extract(epoch FROM clock_timestamp())::float8"
_FAR = 3600.0  # seconds: nothing is due so late, unless the server's clock was set back
_AWAY = 1.0  # seconds to wait while the database is away


class PostgresQuota(Quota):
    """One connection to the quota of an account. Not thread-safe: one thread at a time."""

    is_remote = True

    def __init__(
        self, database: Database, name: str, requests: int | None = None, tokens: int | None = None
    ) -> None:
        """Connects; `name` is the account's (per minute; None = unlimited).

        Raises:
            UserError: there is no connection, or the tables cannot be made.
        """
        super().__init__(requests, tokens)
        self._database, self._name, self._peer = database, name, uuid.uuid4().hex
        self._db: Connection = database.open()
        self._paused_until = 0.0  # by this host's clock
        self._is_away = False
        self._db.execute(f"DELETE FROM peers WHERE beat < {_NOW} - %s", [_FAR])

    def reserve(self, tokens: float) -> Ticket | float:
        """A ticket for a request of about `tokens`, or the seconds to wait before asking again."""
        if self.requests is None and self.tokens is None:
            wait = self._paused_until - time.monotonic()
            return wait if wait > 0 else Ticket(0, 0.0)
        return self._asked(partial(self._reserve, tokens), _AWAY)

    def settle(self, ticket: Ticket, tokens: float) -> None:
        """Puts the tokens that the server reported in place of the reserved ones."""
        if self.tokens is None:
            return
        more = tokens - ticket.tokens
        due = more * rate_limits.MINUTE / self.tokens

        def work() -> None:
            with self._db.pipeline():
                self._db.execute("BEGIN")
                self._db.execute(
                    "UPDATE quotas SET next_token = next_token + %s WHERE name = %s", [due, self._name]
                )
                self._db.execute(
                    "UPDATE quota_parts SET tokens = tokens + %s WHERE name = %s AND part = %s",
                    [more, self._name, ticket.bucket],
                )
                self._db.execute("COMMIT")

        self._asked(work, None)

    def pause(self, seconds: float) -> None:
        """Nobody sends for so long: what a Retry-After asks for. It ends with this process: who starts again asks again."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

        def work() -> None:
            _, left, _ = self._beat()  # a pause of a peer that is gone does not count
            if seconds > left:
                self._db.execute(
                    f"UPDATE quotas SET paused_until = {_NOW} + %s, pauser = %s WHERE name = %s",
                    [seconds, self._peer, self._name],
                )

        self._asked(work, None)

    def peers(self) -> int:
        """Processes that use this quota now, this one included."""

        def work() -> int:
            sent = time.monotonic()
            count, left, is_mine = self._beat()
            if not is_mine:  # else what this process was told itself counts
                self._paused_until = sent + left
            return count

        return self._asked(work, 1)

    def leave(self) -> None:
        """This process no longer counts as a peer."""
        mine = [self._name, self._peer]
        self._asked(lambda: self._db.execute("DELETE FROM peers WHERE name = %s AND peer = %s", mine), None)

    def close(self) -> None:
        """Ends the connection; reservations stay."""
        self._db.close()

    def _reserve(self, tokens: float) -> Ticket | float:
        with self._db.pipeline():
            self._db.execute("BEGIN")
            self._row()
            row = self._db.execute(
                "SELECT next_request, next_token, paused_until,"
                f" EXISTS (SELECT FROM peers p WHERE p.name = q.name AND p.peer = q.pauser AND p.beat > {_NOW} - {ALIVE})"
                " FROM quotas q WHERE name = %s FOR UPDATE",
                [self._name],
            )
            parts = self._db.execute(
                "SELECT part, requests, tokens FROM quota_parts WHERE name = %s", [self._name]
            )
            clock = self._db.execute(f"SELECT {_NOW}")  # once the row is locked
        now: Any = _first(clock)[0]
        next_request, next_token, paused_until, is_paused = _first(row)
        due = [at if at < now + _FAR else 0.0 for at in (next_request, next_token)]
        used: list[Any] = parts.fetchall()
        limits = self._limits(tokens)
        wait = max(
            paused_until - now if is_paused and paused_until < now + _FAR * 24 else 0.0,
            *(
                to_wait(due[column], ((one[0], one[1 + column]) for one in used), quota, cost, now)
                for column, quota, cost in limits
            ),
        )
        if wait > 0:
            self._db.execute("ROLLBACK")
            return float(wait)
        for column, quota, cost in limits:
            due[column] = pace(due[column], quota, cost, now)
        part = math.floor(now / rate_limits.MINUTE * PARTS)
        self._take(due, part, tokens)
        return Ticket(part, tokens)

    def _take(self, due: list[float], part: int, tokens: float) -> None:
        """Counts a request in a part of the minute, and forgets the parts that are out of the window."""
        with self._db.pipeline():
            self._db.execute(
                "UPDATE quotas SET next_request = %s, next_token = %s WHERE name = %s", [*due, self._name]
            )
            self._db.execute(
                "INSERT INTO quota_parts AS old (name, part, requests, tokens) VALUES (%s, %s, 1, %s)"
                " ON CONFLICT (name, part) DO UPDATE SET requests = old.requests + 1,"
                " tokens = old.tokens + excluded.tokens",
                [self._name, part, tokens],
            )
            self._db.execute(
                "DELETE FROM quota_parts WHERE name = %s AND part < %s", [self._name, part - 2 * PARTS]
            )
            self._db.execute("COMMIT")

    def _beat(self) -> tuple[int, float, bool]:
        """Says that this peer is there; how many there are, the seconds of pause left, and whether it is this one's."""
        with self._db.pipeline():
            self._row()
            self._db.execute(
                f"INSERT INTO peers (name, peer, beat) VALUES (%s, %s, {_NOW})"
                " ON CONFLICT (name, peer) DO UPDATE SET beat = excluded.beat",
                [self._name, self._peer],
            )
            counted = self._db.execute(
                f"SELECT count(*) FROM peers WHERE name = %s AND beat > {_NOW} - {ALIVE}", [self._name]
            )
            paused = self._db.execute(
                f"SELECT paused_until - {_NOW}, pauser = %s FROM quotas q WHERE name = %s AND EXISTS"
                f" (SELECT FROM peers p WHERE p.name = q.name AND p.peer = q.pauser AND p.beat > {_NOW} - {ALIVE})",
                [self._peer, self._name],
            )
        found: Any = paused.fetchone()
        left, is_mine = found or (0.0, False)
        return int(str(_first(counted)[0])), max(0.0, left), is_mine

    def _row(self) -> None:
        """The account's row; a crash of the server empties the table."""
        self._db.execute("INSERT INTO quotas (name) VALUES (%s) ON CONFLICT DO NOTHING", [self._name])

    def _asked(self, work: Callable[[], T], otherwise: D) -> T | D:
        """What `work` says; `otherwise` while the database is away, which the ledger waits for and reports."""
        try:
            if self._db.closed or self._db.broken:
                self._db = self._database.connect()
            found = work()
        except psycopg.Error as error:
            if not self._db.closed and not self._db.broken:
                self._db.execute("ROLLBACK")
            if not isinstance(error, (psycopg.OperationalError, psycopg.InternalError)):
                raise
            if not self._is_away:
                log.warning(
                    "%s: the quota is not counted: %s", self._database.name, self._database.words(error)
                )
            self._is_away = True
            return otherwise
        self._is_away = False
        return found


def _first(cursor: psycopg.Cursor[Any]) -> Any:
    row = cursor.fetchone()
    assert row is not None, "the account has its row"
    return row
