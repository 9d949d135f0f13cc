"""Replies that people are shown: of each benchmark a few right and a few wrong ones, drawn on their pictures.

`shown.parquet` holds them beside an evaluation's predictions, so that a report needs none of the benchmarks' files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from sifthinker.core import chain, drawing, images
from sifthinker.core.records import Box, Reject, boxes
from sifthinker.evaluation.benchmarks.selection import Selection

EACH = 3  # right and wrong ones of a benchmark
FILE = "shown.parquet"
_COLUMNS = ("benchmark", "id", "question", "reference", "reply", "answer", "read_as", "unparsable")
SHOWN = pa.schema(
    [
        *((name, pa.string()) for name in _COLUMNS),
        ("strict", pa.float64()),
        ("picture", pa.binary()),  # JPEG: where it looked, numbered; the right box dashed, where there is one
    ]
)


class Shown:
    """Chooses among the predictions as they come: always the same ones, however many there are."""

    def __init__(self) -> None:
        """Starts with none."""
        self._chosen: dict[tuple[int, bool], list[tuple[str, dict[str, Any]]]] = {}

    def offer(self, row: Mapping[str, Any], entry: int) -> None:
        """Takes a row of `PREDICTIONS` into account; one whose answer is hidden is neither right nor wrong.

        Args:
            row: of a question.
            entry: the place of its benchmark among those that are asked, of which several may have one name.
        """
        if row["strict"] is None:
            return
        place = hashlib.sha256(f"{row['benchmark']} {row['id']}".encode()).hexdigest()
        kept = self._chosen.setdefault((entry, row["strict"] >= 1), [])
        kept.append((place, {name: row[name] for name in (*_COLUMNS, "strict", "boxes")}))
        kept.sort(key=lambda entry: entry[0])
        del kept[EACH:]

    def rows(self, jobs: Iterable[Selection]) -> Iterator[dict[str, Any]]:
        """The chosen rows of `SHOWN`, with their pictures from the benchmarks' files."""
        for place, job in enumerate(jobs):
            chosen = [kept for (entry, _), kept in self._chosen.items() if entry == place]
            wanted = {row["id"]: row for kept in chosen for _, row in kept}
            for item in job.questions() if wanted else ():
                if not isinstance(item, Reject) and (row := wanted.pop(item[0].id, None)):
                    yield {**row, "picture": _drawn(job.image(item[0]), row)}


def _drawn(photo: bytes, row: Mapping[str, Any]) -> bytes:
    picture = images.rgb(photo)
    looked, _ = drawing.overview(picture, picture, steps(row), truth(row["reference"]))
    return drawing.encode(looked, quality=80)


def steps(row: Mapping[str, Any]) -> list[tuple[Box, ...]]:
    """Where a reply looked, step by step; the boxes that were scored where its areas cannot be read."""
    areas: Sequence[Any] | None = chain.areas(row["reply"])
    if areas is None:
        return [boxes(row["boxes"])] if row["boxes"] else []
    return [tuple(region.box for region in area) for area in areas]


def truth(reference: str) -> tuple[Box, ...]:
    """The box of a reference that is one (RefCOCO's); most references are words."""
    try:
        box = json.loads(reference)
    except ValueError:
        return ()
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(value, float) for value in box)
    return boxes([box]) if numbers else ()
