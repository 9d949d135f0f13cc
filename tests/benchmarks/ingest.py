"""Ingest of a VisCoT conversations file, against `json.load` of the whole file, which the release starts with.

The file is VisCoT's real benchmark rows over and over with new ids, laid out as VisCoT's files are (indent 4);
`../shared/data` must be there. Two pairs: reading alone (`sources.files.rows`: every row decoded, one window of
the file in memory), and the whole stage (every field checked, boxes un-padded and compared, duplicates refused,
a seeded sample under the caps, rejects with their reasons), which `json.load` does none of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from sifthinker import config
from sifthinker.core.records import Sample
from sifthinker.data.sources.files import rows
from tests.benchmarks.pair import Pair, Work, equal
from tests.ingested import ingest

VISCOT = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "viscot"
NAMES = ("gqa", "vsr", "cub")


def prepare(folder: Path, size: int) -> None:
    real = [row for name in NAMES for row in json.loads((VISCOT / f"benchmark_{name}.json").read_text())]
    with (folder / "viscot.json").open("w") as file:
        for number in range(size):
            row = {**real[number % len(real)], "question_id": number}
            file.write(("[\n" if number == 0 else ",\n") + json.dumps(row, indent=4))
        file.write("\n]\n")
    sizes = "".join((VISCOT / f"benchmark_det_{name}.jsonl").read_text() for name in NAMES)
    (folder / "sizes.jsonl").write_text(sizes)


def reading(folder: Path, size: int) -> Work:
    return lambda: digest(row for _, row in rows(folder / "viscot.json"))


def loading(folder: Path, size: int) -> Work:
    def work() -> list[object]:
        with (folder / "viscot.json").open() as file:
            return digest(json.load(file))

    return work


def digest(values: Iterable[dict[str, object]]) -> list[object]:
    """Rows and a check sum, cheap beside reading: of the ids, the answers and the path of the pictures."""
    count, check = 0, hashlib.sha256()
    for row in values:
        count += 1
        check.update(f"{row['question_id']} {row['image'][1]} {row['conversations'][3]['value']}".encode())
    return [count, check.hexdigest()]


def whole(folder: Path, size: int) -> Work:
    source = config.Source(
        name="viscot", format="viscot", path=folder / "viscot.json", sizes=folder / "sizes.jsonl"
    )

    def work() -> int:
        kept = rejected = 0
        for outcome in ingest([source], config.Ingest()):
            kept += isinstance(outcome, Sample)
            rejected += not isinstance(outcome, Sample)
        return kept + rejected

    return work


def counting(folder: Path, size: int) -> Work:
    def work() -> int:
        with (folder / "viscot.json").open() as file:
            return len(json.load(file))

    return work


PAIRS = [
    Pair(
        "reading VisCoT JSON, row by row", "json.load of the whole file",
        1, 40_000, 2_000, "rows", prepare, reading, loading, equal, rounds=5,
    ),
    Pair(
        "ingest of VisCoT JSON, the whole stage", "json.load of the whole file",
        1, 40_000, 2_000, "rows", prepare, whole, counting, equal, rounds=3,
    ),
]  # fmt: skip
SCALE = PAIRS[1]  # shown at these sizes, for linear time and flat memory
SCALE_SIZES = (10_000, 100_000, 400_000)
