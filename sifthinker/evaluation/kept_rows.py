"""Rows of an ablation that are made over days, each by itself: what is kept of them in a folder.

It holds `<row>.<seed>/` with the scored questions (`predictions.parquet`, without the replies), the scores of the
benchmarks as a whole, `made.json`: what it was made from and with, and `curves.json`: how its trainings went. It is small
enough to be committed. `gathered.draw` says what all rows say together.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.evaluation import gate, learning_curves
from sifthinker.reporting import bought
from sifthinker.store.digests import sha256
from sifthinker.store.lineage import SHORT, Node
from sifthinker.system.files import write_json

PREDICTIONS, SCORES, MADE = "predictions.parquet", "scores.json", "made.json"
_KEPT = [*gate.COLUMNS, "parts"]
Reply = Mapping[str, Any]  # a row of the kept predictions


@dataclass(frozen=True, slots=True)
class Row:
    """A row of one seed, as it was kept."""

    folder: Path
    made: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of the row, without the seed."""
        return str(self.made["row"])


def keep(
    folder: Path,
    row: str,
    seed: int,
    evaluation: Path,
    lineage: Mapping[str, Node],
    run: str,
    histories: Mapping[str, Path] = {},
) -> bool:
    """Keeps what a row of one seed scored; whether it is new.

    Args:
        folder: of all kept rows.
        row: its name.
        seed: that it was trained with.
        evaluation: the folder of its evaluation.
        lineage: what that was made from (`lineage.trace`).
        run: what it was made by: a command and the commit of the code.
        histories: of its trainings, by stage.

    Raises:
        UserError: another result of this row and seed is kept. Nothing is ever replaced or dropped in silence.
    """
    stages: dict[str, dict[str, Any]] = {
        node.label: {
            "key": node.key,
            "code": sha256(node.manifest["identity"]["code"])[:SHORT],
            "digest": node.digest[:SHORT],
            "seconds": round(bought.seconds(node.manifest), 1),
        }
        for node in lineage.values()
        if node.manifest
    }
    replies = [{name: found[name] for name in _KEPT} for found in tables.read(evaluation / PREDICTIONS)]
    questions = sorted([str(found[name]) for name in gate.COLUMNS[:-1]] for found in replies)
    made: dict[str, Any] = {
        "row": row,
        "seed": seed,
        "run": run,
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(_last(lineage))),
        "seconds": round(sum(stage["seconds"] for stage in stages.values()), 1),
        "questions": sha256(questions)[:SHORT],
        "stages": stages,
    }
    place = folder / f"{row}.{seed}"
    if place.exists():
        earlier = _made(place)
        if earlier["stages"]["evaluate"]["digest"] == made["stages"]["evaluate"]["digest"]:
            if not (place / learning_curves.FILE).exists():  # kept before curves were
                write_json(place / learning_curves.FILE, learning_curves.kept(histories))
            return False
        raise UserError(
            f"{place}: holds another result of this row and seed, made {earlier['made']} by {earlier['run']}; "
            "keep this one in another folder, or remove that one yourself"
        )
    _write(place, made, replies, evaluation, learning_curves.kept(histories))
    return True


def _last(lineage: Mapping[str, Node]) -> float:
    return max(float(node.manifest["made"]) for node in lineage.values() if node.manifest)


def _write(
    place: Path,
    made: Mapping[str, Any],
    replies: Sequence[Reply],
    evaluation: Path,
    curves: Mapping[str, Any],
) -> None:
    """All of a row at once: the folder appears under its name when it is whole."""
    scores = json.loads((evaluation / SCORES).read_text(encoding="utf-8"))
    scores["scores"] = [score for score in scores["scores"] if "/" not in score["metric"]]
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    temporary.mkdir()
    schema = pa.schema([pq.read_schema(evaluation / PREDICTIONS).field(name) for name in _KEPT])
    pq.write_table(
        pa.Table.from_pylist([dict(reply) for reply in replies], schema),
        temporary / PREDICTIONS,
        compression="zstd",
    )
    for name, value in ((SCORES, scores), (MADE, made), (learning_curves.FILE, curves)):
        write_json(temporary / name, value)
    temporary.rename(place)


def _made(place: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((place / MADE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{place / MADE}: cannot be read ({error}); `sif ablation --keep` writes it"
        ) from error
    return found


def rows(folder: Path) -> list[Row]:
    """The rows that a folder holds, by name and seed.

    Raises:
        UserError: one of them has no readable `made.json`.
    """
    # Hidden folders are being written, or are left of a process that was killed.
    places = [path for path in sorted(folder.glob("*.*")) if path.is_dir() and not path.name.startswith(".")]
    found = [Row(place, _made(place)) for place in places]
    return sorted(found, key=lambda row: (row.name, row.made["seed"]))
