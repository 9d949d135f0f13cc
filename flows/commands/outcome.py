"""What a run did with its rows, for the end of `sif run`."""

from __future__ import annotations

import json
from pathlib import Path

from sifthinker.core import rejects
from sifthinker.core.errors import UserError
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref


def lines(store: Store, run_id: str) -> list[str]:
    """A line for each stage of a run that works on rows: kept, rejected, and the reason of most.

    The run's record has what it made, also where it failed later. A run that failed before its first stage has none.
    """
    record: Path = store.root / "runs" / f"{run_id}.json"
    if not record.exists():
        return []
    made = json.loads(record.read_text(encoding="utf-8"))["stages"]
    manifests = {label: store.manifest(Ref(**ref).stage, Ref(**ref).key) for label, ref in made.items()}
    counted = {label: m["rows"] for label, m in manifests.items() if m and m["rows"]["in"]}
    width = max(map(len, counted), default=0)
    return [f"{label:{width}}  {rejects.line(rows)}" for label, rows in counted.items()]


def annotators_rejects(store: Store) -> list[Path]:
    """The rejects of the latest run that got as far as annotate, also where it kept too few rows and failed.

    Raises:
        UserError: there is no such run.
    """
    made = next((run for run in runs.runs(store) if "annotate" in run["stages"]), None)
    refused = [
        path for name in ("annotate", "retry") for path in store.root.glob(f"{name}/*.work/rejects.parquet")
    ]
    latest = max(refused, key=lambda path: path.stat().st_mtime, default=None)
    if latest and (made is None or made["started"] < latest.stat().st_mtime):
        return [latest]
    if made is None:
        raise UserError(f"annotate: {store.root} has no run that got as far as annotate")
    stages = made["stages"]
    return store.open(Ref(**stages.get("retry", stages["annotate"]))).rejects()
