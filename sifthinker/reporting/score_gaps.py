"""Where a benchmark's two scores, official and strict, are more than a point apart, with replies that show why."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sifthinker.core.scores import Score
from sifthinker.core.tables import read

POINT = 0.01
EXAMPLES = 3  # of a benchmark


def apart(scores: Iterable[Score], predictions: Path) -> list[dict[str, Any]]:
    """The widest gap of each such benchmark.

    Args:
        scores: of an evaluation, as its `scores.json` has them.
        predictions: its `predictions.parquet`.

    Returns:
        benchmark, metric, gap (official less strict, of 1) and examples, rows of the predictions.
    """
    found: dict[str, dict[str, Any]] = {}
    for score in scores:
        if score["official"] is None or score["strict"] is None:
            continue
        gap = (score["official"] - score["strict"]) * (1 if score["unit"] == "share" else 0.01)
        if abs(gap) > POINT and abs(gap) > abs(found.get(score["benchmark"], {"gap": 0})["gap"]):
            found[score["benchmark"]] = {"gap": gap, "metric": score["metric"], "examples": []}
    columns = ["benchmark", "id", "question", "reference", "answer", "read_as", "official", "strict"]
    for row in read(predictions, columns) if found else ():
        entry = found.get(row["benchmark"])
        if entry and row["official"] != row["strict"] and len(entry["examples"]) < EXAMPLES:
            entry["examples"].append(row)
    return [{"benchmark": name, **entry} for name, entry in found.items()]
