"""What the rejects of a stage say: whether there are too many of them, why, and what to look at."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

_SHOWN = 300  # characters of a detail or a reply


def too_many(rows: Mapping[str, Any], by_choice: Collection[str], most: float) -> str:
    """What is wrong with the number of rows that a stage kept; empty where nothing is.

    A stage that is given rows and keeps none has failed, whatever `most` allows.

    Args:
        rows: the manifest's: how many came in and were kept, and the rejected ones by reason.
        by_choice: reasons that the configuration asks for; their rows do not count in the share.
        most: largest share of rejects; 1 = any.
    """
    if not rows["in"]:
        return ""
    if not rows["kept"]:
        return f"no row was kept of {rows['in']:,}"
    bad = sum(count for reason, count in rows["rejected"].items() if reason not in by_choice)
    counted = bad + rows["kept"]
    if bad <= most * counted:
        return ""
    return f"{bad:,} of {counted:,} rows were rejected, and max_rejected = {most:g} allows {most:.0%}"


def counted(rejected: Mapping[str, int]) -> str:
    """Reasons with their rows, the most frequent first."""
    return ", ".join(f"{reason} {count:,}" for reason, count in _by_count(rejected))


def top(rejected: Mapping[str, int]) -> str:
    """The reasons of some rejects in a few words: one, all of three at most, or that of most."""
    (reason, count), *others = _by_count(rejected)
    if len(others) > 2:
        return f"most for {reason} ({count:,})"
    return counted(rejected) if others else reason


def example(rejects: Iterable[Mapping[str, Any]], rejected: Mapping[str, int]) -> str:
    """The first reject of the most frequent reason: where it is, what was wrong, and what the model wrote."""
    if not rejected:
        return ""
    reason = _by_count(rejected)[0][0]
    row = next((row for row in rejects if row["reason"] == reason), None)
    return "" if row is None else described(row)


def described(row: Mapping[str, Any]) -> str:
    """One reject for a person."""
    place = ", ".join(
        f"{name} {row[name]}" for name in ("file", "row", "field") if row[name] not in ("", None, -1)
    )
    where = " in ".join(filter(None, (row["id"], place)))
    tried = attempts(row["detail"])
    detail = tried[-1]["reason"] if tried else row["detail"]
    said = f"; the model wrote: {tried[-1]['text'][:_SHOWN]!r}" if tried and tried[-1]["text"] else ""
    what = f"{row['reason']}: {detail.removeprefix(row['reason'] + ': ')[:_SHOWN]}"
    return f"{where or 'a row'}: {what}{said}"


def attempts(detail: str) -> list[dict[str, Any]]:
    """Every attempt of the annotator with its text, reason and tokens, from a reject's detail; empty where nothing was asked.

    Older ones, and those without an answer, have no tokens.
    """
    try:
        value = json.loads(detail)
    except ValueError:
        return []
    return value if isinstance(value, list) else []


def _by_count(rejected: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(rejected.items(), key=lambda item: (-item[1], item[0]))
