"""The rows that ingest has at hand, in temporary SQLite files, which the system removes with the process.

Memory does not grow with them: SQLite appends, and sorts on disk when they are read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from sifthinker.data.ingest_work import Kept, Waiting

_CACHE = 16  # MiB of a file that stay in memory, and that are sorted at a time


class Rows:
    """Good rows that wait for their turn, and samples that were taken. Use it in a `with` block, in one thread."""

    def __init__(self) -> None:
        """No rows."""
        self._waiting, self._kept = _file(), _file()
        self._waiting.execute(f"CREATE TABLE waiting ({', '.join(Waiting._fields)})")
        self._kept.execute(f"CREATE TABLE kept ({', '.join(Kept._fields)})")

    def wait(self, rows: Iterable[Sequence[Any]]) -> None:
        """Takes `Waiting` rows."""
        self._waiting.executemany(f"INSERT INTO waiting VALUES ({_marks(Waiting)})", rows)

    def in_line(self) -> Iterator[Waiting]:
        """The rows that wait, in the order of their turns; those of one id, which have one turn, as they came."""
        return map(Waiting._make, self._waiting.execute("SELECT * FROM waiting ORDER BY turn, rowid"))

    def keep(self, samples: Iterable[Kept]) -> None:
        """Takes samples."""
        self._kept.executemany(f"INSERT INTO kept VALUES ({_marks(Kept)})", samples)

    def samples(self) -> Iterator[tuple[int, bytes]]:
        """Part and `Kept.row`, part by part, in each in the order of the ids' code points."""
        return self._kept.execute("SELECT part, row FROM kept ORDER BY part, id")

    def chains(self) -> Iterator[tuple[int, bytes]]:
        """The same with `Kept.chain`, of the samples that have one."""
        return self._kept.execute("SELECT part, chain FROM kept WHERE chain NOT NULL ORDER BY part, id")

    def __enter__(self) -> Self:
        """The rows themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the files, which removes them."""
        for file in (self._waiting, self._kept):
            file.close()


def _file() -> sqlite3.Connection:
    file = sqlite3.connect("")  # a temporary file, which SQLite unlinks as soon as it is open
    file.execute("PRAGMA journal_mode = OFF")
    file.execute(f"PRAGMA cache_size = -{_CACHE * 1024}")
    return file


def _marks(kind: type[Waiting | Kept]) -> str:
    return ", ".join("?" * len(kind._fields))
