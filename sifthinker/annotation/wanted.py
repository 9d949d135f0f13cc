"""Exactly so many chains: which rows are asked.

A row is asked only while the accepted chains and the rows under way are fewer than the chains that are wanted. So no chain
is paid for that is not needed, and the rows that are asked are the shortest beginning of the draw that has so many accepted
rows, however the replies come in.
"""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from sifthinker.core.records import Annotation
from sifthinker.system.waiting import STEP


class Wanted:
    """Counts what is accepted and what is under way."""

    def __init__(self, most: int | None) -> None:
        """`most` chains are wanted; None: as many as there are."""
        self.most = most
        self.kept = 0
        self._under_way: set[Future[Any]] = set()

    def add(self, row: Future[Any]) -> None:
        """A row was asked."""
        if self.most is not None:
            self._under_way.add(row)

    def more(self) -> bool:
        """Whether one more row is to be asked; waits until that is known.

        Raises: what a row under way raises.
        """
        if self.most is None:
            return True
        while self.kept + len(self._under_way) >= self.most and self._under_way:
            done, self._under_way = wait(self._under_way, STEP, FIRST_COMPLETED)
            self.kept += sum(isinstance(row.result(), Annotation) for row in done)
        return self.kept < self.most


def shares(most: int | None, rows: list[int]) -> list[int | None]:
    """How many of the wanted chains each part gives, in proportion to its rows; none where all rows are wanted.

    Args:
        most: chains that are wanted of all parts.
        rows: of each part.
    """
    total = sum(rows)
    if most is None or not total:
        return [None] * len(rows)
    whole = [most * count // total for count in rows]
    by_rest = sorted(range(len(rows)), key=lambda part: (-(most * rows[part] % total), part))
    for part in by_rest[: most - sum(whole)]:
        whole[part] += 1
    return list(whole)
