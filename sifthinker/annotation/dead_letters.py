"""The rows that annotate rejected, by reason: what `retry` can ask again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sifthinker.core import tables
from sifthinker.core.rejects import attempts


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The rejected rows of one reason."""

    reason: str
    rows: int
    ids: list[str] = field(default_factory=list)
    example: str = ""  # what the last attempt of the first row was refused for


def dead_letters(rejects: Path | Iterable[Path]) -> list[DeadLetters]:
    """The rejects of annotate by reason, the most frequent first; `retry` asks for them again."""
    found: dict[str, DeadLetters] = {}
    counts: Counter[str] = Counter()
    for row in tables.read(rejects):
        if row["stage"] != "annotate":
            continue
        reason = row["reason"]
        counts[reason] += 1
        letters = found.setdefault(reason, DeadLetters(reason, 0, [], _last(row["detail"])))
        letters.ids.append(row["id"])
    return [
        DeadLetters(reason, rows, found[reason].ids, found[reason].example)
        for reason, rows in counts.most_common()
    ]


def _last(detail: str) -> str:
    tried = attempts(detail)
    return tried[-1]["reason"] if tried else detail
