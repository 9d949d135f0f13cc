"""What a run did with its rows, for the end of `sif run`."""

from __future__ import annotations

import json
from pathlib import Path

from sifthinker import rejects
from sifthinker.store import Ref, Store


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
