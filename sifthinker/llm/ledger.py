"""The ledger of paid calls: one row per distinct request, so that nothing is paid twice.

A row is keyed by the digest of what was asked (endpoint, model, parameters, messages, images by digest) and is

* `reserved`: somebody is asking; the reservation names its owner and is taken over when that owner is dead,
* `ok`: answered and paid for, the reply is in the row,
* `failed`: given up for reasons of the transport, the next one who wants it asks again,
* `dead`: refused for good (content filter, bad request), not asked again until `revive`.

SQLite in WAL mode with full synchronisation: what is committed survives SIGKILL and power loss. One commit costs
about half a millisecond of disk, so callers put many operations into one `transaction` (vlm does). The file
has to be on a local disk. Pictures are never stored, only their digests.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sqlite3
import time
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from sifthinker.core.errors import UserError
from sifthinker.llm.usage import Budget, Usage
from sifthinker.system import processes
from sifthinker.system.disk_errors import trouble

logger = logging.getLogger(__name__)
LEASE = 30.0  # seconds without a heartbeat after which an owner on another host (container) counts as dead
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
CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, account TEXT NOT NULL, state TEXT NOT NULL,
    keys BLOB NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered."""

    text: str
    finish_reason: str  # "stop", "length", ...
    model: str  # as the server named it
    prompt_tokens: int
    completion_tokens: int
    cached: bool = False  # came from the ledger, cost nothing now
    seconds: float = 0.0  # from sending to the last byte


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer."""

    kind: str  # countable: "content-filter", "bad-request", "exhausted", "timeout"
    detail: str


Claim = Reply | Failure | Literal["mine", "busy", "spent"]


class Ledger:
    """One connection to a ledger file. Not thread-safe: one thread at a time."""

    def __init__(self, path: Path, lease: float = LEASE) -> None:
        """Opens or creates the file.

        Raises:
            UserError: it cannot be opened, or is no ledger.
        """
        self.path, self.lease = path, lease
        # One owner per connection: host, process (with its start, since process ids are reused), connection.
        self._host = f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"
        self.owner = f"{self._host}:{uuid.uuid4().hex}"
        self._depth = 0
        self._durable: bool | None = None  # what the connection is set to
        self._costs: dict[str, Usage] = {}  # by account, of the open transaction
        self._alive: dict[str, tuple[float, bool]] = {}
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
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        """Gives back what is still reserved; on a full disk the next one takes it over, once this process is gone."""
        try:
            with self.transaction():
                self._db.execute(
                    "UPDATE calls SET state = 'failed' WHERE state = 'reserved' AND owner = ?", [self.owner]
                )
                self._db.execute("DELETE FROM owners WHERE owner = ?", [self.owner])
        except sqlite3.Error as error:
            if not (said := trouble(error)):
                raise
            logger.warning("%s: reservations are not given back: %s", self.path.name, said)
        finally:
            self._db.close()

    @contextlib.contextmanager
    def transaction(self, durable: bool = True) -> Iterator[None]:
        """Everything inside is committed together, at the end of the outermost `with`.

        What is not `durable` (a reservation) may be lost with the machine's power, never with a killed process;
        it costs no wait for the disk.
        """
        if self._depth == 0:
            if durable != self._durable:
                self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            self._db.execute("BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
            if self._depth == 1:
                self._charge()
                self._db.execute("COMMIT")
        except BaseException:
            if self._depth == 1:
                self._costs.clear()
                if self._db.in_transaction:  # SQLite ends it itself when the disk is full
                    self._db.execute("ROLLBACK")
            raise
        finally:
            self._depth -= 1

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """A part of the open transaction: where it fails, it is undone alone, and the rest goes on."""
        costs = dict(self._costs)
        self._db.execute("SAVEPOINT apart")
        try:
            yield
        except BaseException:
            self._costs = costs
            if self._db.in_transaction:  # else the whole transaction is gone, as when the disk is full
                self._db.execute("ROLLBACK TO apart")
                self._db.execute("RELEASE apart")
            raise
        self._db.execute("RELEASE apart")

    @property
    def is_open(self) -> bool:
        """Whether a transaction is open; SQLite ends it itself when the disk is full."""
        return self._db.in_transaction

    def beat(self) -> None:
        """Says that this owner is alive; due several times per lease."""
        with self.transaction(durable=False):
            self._db.execute("INSERT OR REPLACE INTO owners VALUES (?, ?)", [self.owner, time.time()])

    def claim(self, key: str, account: str, request: bytes, budget: Budget | None = None) -> Claim:
        """The outcome of the request if it is known, else the right to ask it.

        "mine": reserved for the caller, who then calls `settle`, `fail` or `release`. "busy": somebody alive
        is asking it; claim again later. "spent": it would have to be paid for, and the budget is used up.
        """
        with self.transaction(durable=False):
            spent = budget is not None and budget.limits and budget.spent(self.usage(account))
            if not spent and self._reserve(
                key, account, request, "NOTHING"
            ):  # the common case: one statement
                return "mine"
            row = self._db.execute(
                "SELECT state, owner, reply, finish_reason, model, prompt_tokens, completion_tokens, seconds, kind,"
                " detail FROM calls WHERE key = ?",
                [key],
            ).fetchone()
            if row is not None:
                state, owner, reply, finish_reason, model, prompt, completion, seconds, kind, detail = row
                if state == "ok":
                    text = zlib.decompress(reply).decode()
                    return Reply(text, finish_reason, model, prompt, completion, True, seconds)
                if state == "dead":
                    return Failure(kind, detail)
                if state == "reserved" and self._is_alive(owner):
                    return "busy"
            if spent:
                return "spent"
            update = "UPDATE SET state = 'reserved', owner = excluded.owner, at = excluded.at"
            self._reserve(key, account, request, update)
            return "mine"

    def _reserve(self, key: str, account: str, request: bytes, conflict: str) -> bool:
        """Writes a reservation, or does with a row that is there what `conflict` says; whether it wrote."""
        cursor = self._db.execute(
            "INSERT INTO calls (key, account, state, owner, at, request) VALUES (?, ?, 'reserved', ?, ?, ?)"
            f" ON CONFLICT (key) DO {conflict}",
            [key, account, self.owner, time.time(), zlib.compress(request, 1)],
        )
        return cursor.rowcount == 1

    def settle(self, key: str, reply: Reply, usage: Usage) -> None:
        """Records a reply that was paid for."""
        text = zlib.compress(reply.text.encode(), 1)
        self._finish(
            key,
            usage,
            "state = 'ok', reply = ?, finish_reason = ?, model = ?, seconds = ?",
            [text, reply.finish_reason, reply.model, reply.seconds],
        )

    def fail(self, key: str, failure: Failure, dead: bool, usage: Usage | None = None) -> None:
        """Records that there is no answer; `dead` for good. A refusal can cost tokens too."""
        state = "dead" if dead else "failed"
        self._finish(
            key, usage or Usage(), "state = ?, kind = ?, detail = ?", [state, failure.kind, failure.detail]
        )

    def charge(self, key: str, usage: Usage) -> None:
        """Adds what a reply cost that could not be used; the request stays reserved."""
        self._finish(key, usage, "owner = owner", [])

    def asked(self, key: str) -> bytes:
        """The request as it was recorded; empty where it is not known."""
        row = self._db.execute("SELECT request FROM calls WHERE key = ?", [key]).fetchone()
        return zlib.decompress(row[0]) if row else b""

    def release(self, key: str) -> None:
        """Gives a reservation back unasked."""
        with self.transaction():
            self._db.execute(
                "UPDATE calls SET state = 'failed' WHERE key = ? AND state = 'reserved' AND owner = ?",
                [key, self.owner],
            )

    def usage(self, account: str) -> Usage:
        """What the account has cost since the ledger began."""
        row = self._db.execute(
            "SELECT calls, prompt_tokens, cached_tokens, completion_tokens, money, coalesce(tokens, 0)"
            " FROM accounts LEFT JOIN estimates USING (account) WHERE account = ?",
            [account],
        ).fetchone()
        written = Usage(*row) if row else Usage()
        return written + self._costs[account] if account in self._costs else written

    def revive(self, kind: str | None = None) -> int:
        """Lets requests that failed for good be asked again, all or those of one kind; returns how many there were."""
        with self.transaction():
            cursor = self._db.execute(
                "UPDATE calls SET state = 'failed' WHERE state = 'dead' AND (?1 IS NULL OR kind = ?1)", [kind]
            )
            return cursor.rowcount

    # A batch is recorded before it is submitted ("planned") and again with the provider's id ("sent"), so that
    # a killed run finds out at the provider whether a planned one arrived, and collects a sent one.

    def plan_batch(self, name: str, account: str, keys: list[str]) -> None:
        """Records the batch `name` of the requests `keys` before it is submitted."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO batches VALUES (?, ?, 'planned', ?, ?)",
                [name, account, zlib.compress("\n".join(keys).encode(), 1), time.time()],
            )

    def set_batch(self, name: str, state: str) -> None:
        """`state` is "planned", "sent <provider's id>" or "done"."""
        with self.transaction():
            self._db.execute("UPDATE batches SET state = ? WHERE id = ?", [state, name])

    def open_batches(self, account: str) -> dict[str, tuple[str, list[str]]]:
        """State and keys of the batches not yet collected, by name."""
        rows = self._db.execute(
            "SELECT id, state, keys FROM batches WHERE account = ? AND state != 'done' ORDER BY at, id",
            [account],
        )
        return {name: (state, zlib.decompress(keys).decode().split("\n")) for name, state, keys in rows}

    def _finish(self, key: str, usage: Usage, outcome: str, values: list[Any]) -> None:
        """Writes `outcome` (a SET clause of `values`) and the cost into the row and adds the cost to the account."""
        cost = [usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.money]
        with self.transaction():
            row = self._db.execute(
                "UPDATE calls SET at = ?, prompt_tokens = prompt_tokens + ?, cached_tokens = cached_tokens + ?,"
                f" completion_tokens = completion_tokens + ?, money = money + ?, {outcome} WHERE key = ?"
                " RETURNING account",
                [time.time(), *cost, *values, key],
            ).fetchone()
            assert row is not None, "only a claimed request can be finished"
            if usage.calls:
                self._costs[row[0]] = self._costs.get(row[0], Usage()) + usage

    def _charge(self) -> None:
        """Adds the open transaction's costs to their accounts, once an account and not once a call."""
        for account, cost in self._costs.items():
            self._db.execute(
                "INSERT INTO accounts VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (account) DO UPDATE SET"
                " calls = calls + excluded.calls, prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
                " cached_tokens = cached_tokens + excluded.cached_tokens,"
                " completion_tokens = completion_tokens + excluded.completion_tokens,"
                " money = money + excluded.money",
                [
                    account,
                    cost.calls,
                    cost.prompt_tokens,
                    cost.cached_tokens,
                    cost.completion_tokens,
                    cost.money,
                ],
            )
            if cost.estimated:
                self._db.execute(
                    "INSERT INTO estimates VALUES (?, ?) ON CONFLICT (account) DO UPDATE SET"
                    " tokens = tokens + excluded.tokens",
                    [account, cost.estimated],
                )
        self._costs.clear()

    def _is_alive(self, owner: str) -> bool:
        """Whether a reservation's owner still lives: its process on this host, its heartbeat elsewhere."""
        checked, alive = self._alive.get(owner, (0.0, False))
        if time.monotonic() - checked < 1.0:  # thousands of claims ask about the same few owners
            return alive
        row = self._db.execute("SELECT beat FROM owners WHERE owner = ?", [owner]).fetchone()
        host, pid, created, _ = owner.rsplit(":", 3)
        if row is None:
            alive = False
        elif host == socket.gethostname():
            alive = processes.lives(int(pid), float(created))
        else:
            alive = time.time() - row[0] < self.lease
        self._alive[owner] = (time.monotonic(), alive)
        return alive
