"""Further rounds of annotate, until there are as many chains as are wanted (`publish.rows`) or no row is left.

The wanted chains are shared out to the parts beforehand (`wanted.shares`). A part whose rows are rejected more often
than others' runs out of rows before it has its share, while other parts have rows left. Each further round shares out
what is missing among those. It depends on what the rounds before it accepted and on nothing else, so that every run
shares out alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sifthinker.annotation.annotate import NOT_NEEDED


def left(parts: Sequence[Mapping[str, Any]]) -> list[int]:
    """How many rows of each part were not needed so far, by the rows that its manifest counts."""
    return [rows["rejected"].get(NOT_NEEDED, 0) for rows in parts]


def further(wanted: int | None, parts: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """The parts that go on, by number, and how many chains each shall have then; empty where none has to or can.

    Few parts go on rather than many, since a part goes through the replies to its first rows again: those with most
    rows left. Each is to give what its rows will probably give, and more only where that is not enough.

    Args:
        wanted: chains that are wanted of all parts; None: as many as there are.
        parts: the rows of each part, as its manifest counts them.
    """
    if wanted is None:
        return {}
    rest = left(parts)
    kept = sum(rows["kept"] for rows in parts)
    missing = min(wanted - kept, sum(rest))
    more: dict[int, int] = {}
    # Parts hold pictures at random, so it does not matter to the mix of the data which ones go on.
    for part in sorted(
        (part for part, rows in enumerate(rest) if rows), key=lambda part: (-rest[part], part)
    ):
        if missing <= 0:
            break
        asked = parts[part]["in"] - rest[part]
        likely = rest[part] * parts[part]["kept"] // asked if asked else rest[part]
        more[part] = min(missing, max(1, likely))
        missing -= more[part]
    for part in more:
        extra = min(missing, rest[part] - more[part])
        more[part] += extra
        missing -= extra
    return {part: parts[part]["kept"] + count for part, count in more.items()}
