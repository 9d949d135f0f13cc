"""The ledger of paid calls: one row per distinct request, so that nothing is paid twice.

A row is keyed by the digest of what was asked (endpoint, model, parameters, messages, images by digest) and is

* `reserved`: somebody is asking; the reservation names its owner and is taken over when that owner is dead,
* `ok`: answered and paid for, the reply is in the row,
* `failed`: given up for reasons of the transport, the next one who wants it asks again,
* `dead`: refused for good (content filter, bad request), not asked again until `revive`.

What is common to all ledgers is here, and in `ledger_batches` what they know of batches. `ledger_sqlite` keeps one in a
file, for the processes of one host, and `ledger_postgres` in a database, for several hosts. Pictures are never stored,
only their digests.
"""

from __future__ import annotations

import contextlib
import threading
import time
import zlib
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from sifthinker.llm.ledger_batches import Batches
from sifthinker.llm.usage import Budget, Usage

VARIABLE = "SIF_LEDGER"  # in the environment: the address of the PostgreSQL database that hosts share
LEASE = 30.0  # seconds without a heartbeat after which an owner on another host (container) counts as dead
T = TypeVar("T")


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


class Ledger(Batches):
    """One connection to a ledger. Not thread-safe: one thread at a time.

    Statements are written once for all kinds of ledgers: `?` stands for a value.
    """

    def __init__(self, name: str, owner: str) -> None:
        """`name` is the ledger's in messages; `owner` names this connection and no other one."""
        self.name, self.owner = name, owner
        self.lapses = 0  # times that the lease ran out: what was reserved before may be another owner's
        self._hurry = threading.Event()
        self._depth = 0
        self._costs: dict[str, Usage] = {}  # by account, of the open transaction
        self._alive: dict[str, tuple[float, bool]] = {}

    @abstractmethod
    def _begin(self, durable: bool) -> None:
        """Begins a transaction that keeps out all others that write."""

    @abstractmethod
    def _commit(self) -> None:
        """Ends the transaction: what it wrote is kept."""

    @abstractmethod
    def _close(self) -> None:
        """Ends the connection."""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether a transaction is open; a database may end it itself, as when its disk is full."""

    @property
    def is_held(self) -> bool:
        """Whether what this owner has reserved is certainly still its own."""
        return True

    def hurry(self) -> None:
        """A database that is away is waited for no longer: the run was told to end."""
        self._hurry.set()

    def _savepoint(self, statement: str) -> None:
        """Runs a statement of savepoints, at once or together with the next one."""
        self._execute(statement)

    def trouble(self, error: BaseException) -> str | None:
        """Why nothing can be recorded any more, and what to do; None where an error is of another kind."""
        return None

    def together(self, work: Callable[[], T], durable: bool = True) -> T:
        """Does `work` in one transaction; see `transaction`."""
        with self.transaction(durable):
            return work()

    @contextlib.contextmanager
    def transaction(self, durable: bool = True) -> Iterator[None]:
        """Everything inside is committed together, at the end of the outermost `with`.

        What is not `durable` (a reservation) may be lost with the machine's power, never with a killed process;
        where the machine is the ledger's own it costs no wait for the disk.
        """
        if self._depth == 0:
            self._begin(durable)
        self._depth += 1
        try:
            yield
            if self._depth == 1:
                self._charge()
                self._commit()
        except BaseException:
            if self._depth == 1:
                self._costs.clear()
                if self.is_open:
                    self._execute("ROLLBACK")
            raise
        finally:
            self._depth -= 1

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """A part of the open transaction: where it fails, it is undone alone, and the rest goes on."""
        costs = dict(self._costs)
        self._savepoint("SAVEPOINT apart")
        try:
            yield
        except BaseException:
            self._costs = costs
            if self.is_open:  # else the whole transaction is gone, as when the disk is full
                self._execute("ROLLBACK TO SAVEPOINT apart")
                self._execute("RELEASE SAVEPOINT apart")
            raise
        self._savepoint("RELEASE SAVEPOINT apart")

    def close(self) -> None:
        """Gives back what is still reserved, and ends the connection."""
        try:
            with self.transaction():
                self._execute(
                    "UPDATE calls SET state = 'failed' WHERE state = 'reserved' AND owner = ?", [self.owner]
                )
                self._execute("DELETE FROM owners WHERE owner = ?", [self.owner])
        finally:
            self._close()

    def beat(self) -> None:
        """Says that this owner is alive; due several times per lease."""
        with self.transaction(durable=False):
            self._execute(
                f"INSERT INTO owners (owner, beat) VALUES (?, {self._NOW})"
                " ON CONFLICT (owner) DO UPDATE SET beat = excluded.beat",
                [self.owner],
            )

    def claim(
        self,
        key: str,
        account: str,
        request: bytes,
        budget: Budget | None = None,
        again: Collection[str] = (),
    ) -> Claim:
        """The outcome of the request if it is known, else the right to ask it.

        "mine": reserved for the caller, who then calls `settle`, `fail` or `release`. "busy": another one who is
        alive is asking it; claim again later. "spent": it would have to be paid for, and the budget is used up.

        What was refused for good is known, too, except for the kinds `again`, which are asked again.
        """
        with self.transaction(durable=False):
            spent = budget is not None and budget.limits and budget.spent(self.usage(account))
            if not spent and self._reserve(
                key, account, request, "NOTHING"
            ):  # the common case: one statement
                return "mine"
            row = self._execute(
                "SELECT state, owner, reply, finish_reason, model, prompt_tokens, completion_tokens, seconds, kind,"
                " detail FROM calls WHERE key = ?",
                [key],
            ).fetchone()
            if row is not None:
                state, owner, reply, finish_reason, model, prompt, completion, seconds, kind, detail = row
                if state == "ok":
                    text = zlib.decompress(reply).decode()
                    return Reply(text, finish_reason, model, prompt, completion, True, seconds)
                if state == "dead" and kind not in again:
                    return Failure(kind, detail)
                if state == "reserved" and owner == self.owner:
                    return "mine"
                if state == "reserved" and self._is_alive(owner):
                    return "busy"
            if spent:
                return "spent"
            update = "UPDATE SET state = 'reserved', owner = excluded.owner, at = excluded.at"
            self._reserve(key, account, request, update)
            return "mine"

    def _reserve(self, key: str, account: str, request: bytes, conflict: str) -> bool:
        """Writes a reservation, or does with a row that is there what `conflict` says; whether it wrote."""
        cursor = self._execute(
            f"INSERT INTO calls (key, account, state, owner, at, request) VALUES (?, ?, 'reserved', ?, {self._NOW}, ?)"
            f" ON CONFLICT (key) DO {conflict}",
            [key, account, self.owner, zlib.compress(request, 1)],
        )
        return bool(cursor.rowcount == 1)

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
        """Records that there is no answer; `dead` for good. A refusal can cost tokens too.

        A reply that is there is kept: whoever lost its lease may fail after another one got the answer.
        """
        state = "dead" if dead else "failed"
        self._finish(
            key,
            usage or Usage(),
            "state = CASE state WHEN 'ok' THEN 'ok' ELSE ? END, kind = ?, detail = ?",
            [state, failure.kind, failure.detail],
        )

    def charge(self, key: str, usage: Usage) -> None:
        """Adds what a reply cost that could not be used; the request stays reserved."""
        self._finish(key, usage, "owner = owner", [])

    def asked(self, key: str) -> bytes:
        """The request as it was recorded; empty where it is not known."""
        row = self._execute("SELECT request FROM calls WHERE key = ?", [key]).fetchone()
        return zlib.decompress(row[0]) if row else b""

    def release(self, key: str) -> None:
        """Gives a reservation back unasked."""
        with self.transaction():
            self._execute(
                "UPDATE calls SET state = 'failed' WHERE key = ? AND state = 'reserved' AND owner = ?",
                [key, self.owner],
            )

    def usage(self, account: str) -> Usage:
        """What the account has cost since the ledger began."""
        row = self._execute(
            "SELECT calls, prompt_tokens, cached_tokens, completion_tokens, money, coalesce(tokens, 0)"
            " FROM accounts LEFT JOIN estimates USING (account) WHERE account = ?",
            [account],
        ).fetchone()
        written = Usage(*row) if row else Usage()
        return written + self._costs[account] if account in self._costs else written

    def currencies(self, account: str) -> list[str]:
        """Those of the account's money, as far as they were noted."""
        found = self._execute(
            "SELECT currency FROM currencies WHERE account = ? ORDER BY currency", [account]
        )
        return [currency for (currency,) in found]

    def note_currency(self, account: str, currency: str, alone: bool) -> None:
        """Notes the currency of what is booked from now on; `alone`: nothing was booked before."""
        with self.transaction():
            if alone:
                self._execute("DELETE FROM currencies WHERE account = ?", [account])
            self._execute(
                "INSERT INTO currencies (account, currency) VALUES (?, ?) ON CONFLICT DO NOTHING",
                [account, currency],
            )

    def revive(self, kind: str | None = None) -> int:
        """Lets requests that failed for good be asked again, all or those of one kind; returns how many there were."""
        with self.transaction():
            statement = "UPDATE calls SET state = 'failed' WHERE state = 'dead'"
            if kind is None:
                return int(self._execute(statement).rowcount)
            return int(self._execute(f"{statement} AND kind = ?", [kind]).rowcount)

    def adopt(self, key: str, account: str, outcome: Sequence[Any], usage: Usage) -> bool:
        """Takes over a call of another ledger with what it cost; False where the request is known here.

        `outcome` holds the columns state, request, reply, finish_reason, model, kind, detail and seconds.
        """
        cost = [usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.money]
        with self.transaction():
            cursor = self._execute(
                "INSERT INTO calls (key, account, owner, at, state, request, reply, finish_reason, model, kind, detail,"
                " seconds, prompt_tokens, cached_tokens, completion_tokens, money)"
                f" VALUES (?, ?, ?, {self._NOW}, {', '.join('?' * 12)}) ON CONFLICT (key) DO NOTHING",
                [key, account, self.owner, *outcome, *cost],
            )
            if cursor.rowcount == 1 and usage.calls:
                self._costs[account] = self._costs.get(account, Usage()) + usage
            return bool(cursor.rowcount == 1)

    def _finish(self, key: str, usage: Usage, outcome: str, values: list[Any]) -> None:
        """Writes `outcome` (a SET clause of `values`) and the cost into the row and adds the cost to the account."""
        cost = [usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.money]
        with self.transaction():
            row = self._execute(
                f"UPDATE calls SET at = {self._NOW}, prompt_tokens = prompt_tokens + ?,"
                " cached_tokens = cached_tokens + ?, completion_tokens = completion_tokens + ?, money = money + ?,"
                f" {outcome} WHERE key = ? RETURNING account",
                [*cost, *values, key],
            ).fetchone()
            assert row is not None, "only a claimed request can be finished"
            if usage.calls:
                self._costs[row[0]] = self._costs.get(row[0], Usage()) + usage

    def _charge(self) -> None:
        """Adds the open transaction's costs to their accounts, once an account and not once a call."""
        summed = ("calls", "prompt_tokens", "cached_tokens", "completion_tokens", "money")
        sums = ", ".join(f"{name} = accounts.{name} + excluded.{name}" for name in summed)
        for account, cost in self._costs.items():
            self._execute(
                f"INSERT INTO accounts (account, {', '.join(summed)}) VALUES (?, ?, ?, ?, ?, ?)"
                f" ON CONFLICT (account) DO UPDATE SET {sums}",
                [account, *(getattr(cost, name) for name in summed)],
            )
            if cost.estimated:
                self._execute(
                    "INSERT INTO estimates (account, tokens) VALUES (?, ?) ON CONFLICT (account) DO UPDATE SET"
                    " tokens = estimates.tokens + excluded.tokens",
                    [account, cost.estimated],
                )
        self._costs.clear()

    def _is_alive(self, owner: str) -> bool:
        """Whether a reservation's owner still lives, as of a second ago at most."""
        checked, alive = self._alive.get(owner, (float("-inf"), False))
        if time.monotonic() - checked < 1.0:  # thousands of claims ask about the same few owners
            return alive
        alive = self._lives(owner)
        self._alive[owner] = (time.monotonic(), alive)
        return alive
