"""The ledger's part for batches: which requests are in which batch, and who collects it.

A batch is recorded before it is submitted ("planned") and again with the provider's id ("sent"), so that a killed run
finds out at the provider whether a planned one arrived, and collects a sent one. It belongs to the connection that
planned it. Nobody else touches it while that one lives; afterwards another one takes it up.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

_CHUNK = 500  # keys in one statement


class Batches(ABC):
    """What a ledger knows of batches."""

    owner: str  # names this connection and no other one
    _NOW: ClassVar[str]  # SQL of the time in seconds, by the clock that all owners share
    _LATEST: ClassVar[str]  # SQL of the same, later than that of all batches there are

    @abstractmethod
    def _execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """Runs a statement; its cursor."""

    @abstractmethod
    def transaction(self, durable: bool = True) -> AbstractContextManager[None]:
        """Everything inside is committed together."""

    @abstractmethod
    def _lives(self, owner: str) -> bool:
        """Whether the owner of a reservation or a batch, which is not this one, still lives."""

    def plan_batch(self, name: str, account: str, keys: list[str]) -> None:
        """Records the batch `name` of the requests `keys` before it is submitted."""
        with self.transaction():
            self._execute(
                "INSERT INTO batches (id, account, state, keys, at, owner)"
                f" VALUES (?, ?, 'planned', ?, {self._LATEST}, ?)",
                [name, account, zlib.compress("\n".join(keys).encode(), 1), self.owner],
            )

    def replan_batch(self, name: str, new: str) -> bool:
        """Records that the batch is to be submitted again, by another name; False where it is not this owner's."""
        return self._change(name, "id = ?, state = 'planned'", new)

    def set_batch(self, name: str, state: str) -> bool:
        """`state` is "planned", "sent <provider's id>" or "done"; False where the batch is not this owner's."""
        return self._change(name, "state = ?", state)

    def open_batches(self, account: str) -> dict[str, tuple[str, list[str]]]:
        """State and keys of the batches not yet collected, by name."""
        rows = self._execute(
            "SELECT id, state, keys FROM batches WHERE account = ? AND state != 'done' ORDER BY at, id",
            [account],
        )
        return {name: (state, zlib.decompress(keys).decode().split("\n")) for name, state, keys in rows}

    def take_batches(self, account: str) -> dict[str, tuple[str, list[str]]]:
        """Those of the open batches whose owner is gone: they are this owner's from now on."""
        with self.transaction():
            owners = self._execute(
                "SELECT id, owner FROM batches WHERE account = ? AND state != 'done'", [account]
            ).fetchall()
            # One without an owner was recorded by an earlier release, or comes from another ledger.
            left = {
                name for name, owner in owners if owner != self.owner and not (owner and self._lives(owner))
            }
            for name in left:
                self._execute("UPDATE batches SET owner = ? WHERE id = ?", [self.owner, name])
            found = self.open_batches(account) if left else {}
            return {name: batch for name, batch in found.items() if name in left}

    def hold(self, keys: list[str]) -> None:
        """Reserves requests without an answer that are in a batch of this owner, whoever else has reserved them."""
        with self.transaction():
            for chunk in _chunks(keys):
                self._execute(
                    "UPDATE calls SET state = 'reserved', owner = ? WHERE state IN ('reserved', 'failed')"
                    f" AND key IN ({_places(chunk)})",
                    [self.owner, *chunk],
                )

    def to_order(self, account: str, keys: list[str]) -> list[str]:
        """Those of `keys` that may be ordered: this owner has reserved them, and they are in no open batch."""
        with self.transaction(durable=False):
            mine: set[str] = set()
            for chunk in _chunks(keys):
                rows = self._execute(
                    f"SELECT key FROM calls WHERE state = 'reserved' AND owner = ? AND key IN ({_places(chunk)})",
                    [self.owner, *chunk],
                )
                mine.update(key for (key,) in rows)
            for _, ordered in self.open_batches(account).values():
                mine.difference_update(ordered)
            return [key for key in keys if key in mine]

    def adopt_batch(self, name: str, account: str, state: str, keys: bytes) -> None:
        """Takes over a batch of another ledger, as it was recorded there."""
        with self.transaction():
            self._execute(
                f"INSERT INTO batches (id, account, state, keys, at) VALUES (?, ?, ?, ?, {self._NOW})"
                " ON CONFLICT (id) DO NOTHING",
                [name, account, state, keys],
            )

    def _change(self, name: str, what: str, value: str) -> bool:
        with self.transaction():
            changed = self._execute(
                f"UPDATE batches SET {what} WHERE id = ? AND owner = ?", [value, name, self.owner]
            )
            return bool(changed.rowcount == 1)


def _chunks(keys: list[str]) -> Iterator[list[str]]:
    return (keys[at : at + _CHUNK] for at in range(0, len(keys), _CHUNK))


def _places(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
