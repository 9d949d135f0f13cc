"""The scores of all nights: a folder of Parquet files, one a night, one row a benchmark metric and checkpoint.

A night is added by renaming its finished file, so that a reader sees whole nights only and two nights that end at
once do not disturb each other; the same night written again replaces itself. `pandas.read_parquet(folder)` reads all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from sifthinker.core import tables
from sifthinker.evaluation.benchmarks import BENCHMARKS, SAMPLED
from sifthinker.system.files import whole

PASSED, WARNED, INCONCLUSIVE, NOT_RUN, REGRESSED = "passed", "warned", "inconclusive", "not-run", "regressed"
WORST_FIRST = (REGRESSED, NOT_RUN, INCONCLUSIVE, WARNED, PASSED)
NIGHTS = pa.schema(
    [
        ("night", pa.string()),  # id of the flow run
        ("started", pa.timestamp("ms", tz="UTC")),
        ("name", pa.string()),  # of the configuration
        ("target", pa.string()),  # the checkpoint, as it is configured: "promoted"
        ("model", pa.string()),  # the digest of its weights; "" where it could not be found
        ("evaluation", pa.string()),  # "evaluate/<key>" of the store; "" where there is none
        ("replayed", pa.bool_()),  # taken from the store: nothing was asked this night
        ("benchmark", pa.string()),
        ("metric", pa.string()),
        ("official", pa.float64()),
        ("strict", pa.float64()),
        ("low", pa.float64()),  # of the 95 % interval of `strict`
        ("high", pa.float64()),
        ("n", pa.int64()),
        ("unparsable", pa.int64()),
        ("refused", pa.int64()),  # of the unparsable; null in nights before they were told apart
        (
            "rules",
            pa.int64(),
        ),  # version of the scoring rules (benchmarks/question.py); null in nights before it
        ("unit", pa.string()),  # "share" or "points"
        ("limit", pa.int64()),  # a sample of so many questions; null = all
        ("missing", pa.string()),  # why it was not scored; null where it was
        ("regressed", pa.bool_()),  # this benchmark, this night
        ("outcome", pa.string()),  # of the checkpoint's whole night: one of WORST_FIRST
    ]
)

Row = Mapping[str, Any]


def append(folder: Path, night: str, rows: Iterable[Row]) -> Path:
    """Adds a night, whose file appears whole."""
    path = folder / f"{night}.parquet"
    with whole(path) as temporary:
        tables.write(temporary, NIGHTS, rows)
    return path


def read(folder: Path) -> list[dict[str, Any]]:
    """All rows, the earliest night first; of one night in the order in which they were added."""
    rows = [row for path in sorted(folder.glob("*.parquet")) for row in tables.read(path)]
    return sorted(rows, key=lambda row: (row["started"], row["night"]))


def good(rows: Sequence[Row], target: str, since: float = 0.0) -> list[Row]:
    """One row a night that passed, of a checkpoint, latest first; `since` in seconds since 1970.

    A quick look is never a good night: a sample is no reference for a whole benchmark. A night with a fall beyond the
    margin is not one either, significant or not: it warned and did not pass.

    When a person pins a baseline, earlier nights no longer count: pass the time of the pin as `since`.
    """
    nights = {
        row["night"]: row
        for row in rows
        if row["target"] == target
        and row["outcome"] == PASSED
        and row["limit"] is None
        and row["started"].timestamp() >= since
    }
    return list(reversed(nights.values()))


def benchmarks(rows: Sequence[Row], target: str, since: float = 0.0) -> set[str]:
    """The benchmarks that good nights of a checkpoint have scores of."""
    nights = {row["night"] for row in good(rows, target, since)}
    return {
        row["benchmark"]
        for row in rows
        if row["night"] in nights and row["target"] == target and row["strict"] is not None
    }


NO_REFERENCE = "Later nights are not compared with it."


def quick_look(limit: int) -> str:
    """The words that mark scores of a sample, wherever they are shown."""
    return f"a quick look: at most {limit} questions of each benchmark, a seeded sample"


def headlines(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """The metrics (benchmark, metric) that stand for their benchmarks where there is room for few, in row order.

    A benchmark's average or total where it has one, else all it has (RefCOCO's splits have no average) but for
    parts of another metric ("answer/gqa").
    """
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        if row["strict"] is not None:
            found.setdefault(row["benchmark"], {})[row["metric"]] = None
    return [
        (benchmark, metric)
        for benchmark, metrics in found.items()
        for metric in _standing_for(benchmark, list(metrics))
    ]


def _standing_for(benchmark: str, metrics: Sequence[str]) -> list[str]:
    """Those of its metrics that the entry of a benchmark names; where it has none of them, all but parts of others."""
    entry = BENCHMARKS.get(benchmark.removesuffix(SAMPLED))
    named = [metric for metric in metrics if entry and metric in entry.headlines]
    return named or [metric for metric in metrics if "/" not in metric]
