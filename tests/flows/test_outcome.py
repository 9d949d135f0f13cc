"""What `sif run` and `sif annotate --rejected` read from the store after a run, also after a failed one."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from flows.commands import outcome
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.core.tables import REJECTS, write
from sifthinker.store.artifacts import Store


def made(store: Store, stage: str, rows: dict[str, Any]) -> dict[str, str]:
    with store.making(stage, "0" * 20, {}) as draft:
        draft.rows = rows
        write(draft.out / "rejects.parquet", REJECTS, [Reject(stage, "boxes", "x", "s/d/1")])
    found = store.find(stage, "0" * 20)
    assert found
    return found.ref.model_dump()


def record(store: Store, name: str, started: float, stages: dict[str, Any]) -> None:
    store.record(store.root / "runs" / f"{name}.json", {"id": name, "started": started, "stages": stages})


def test_a_line_for_every_stage_that_works_on_rows(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = {"in": 5, "kept": 3, "rejected": {"boxes": 2}}
    stages = {
        "scenes": made(store, "scenes", {"in": 0, "kept": 0, "rejected": {}}),
        "ingest": made(store, "ingest", {"in": 5, "kept": 5, "rejected": {}}),
        "annotate": made(store, "annotate", rows),
    }
    record(store, "one", 1.0, stages)
    assert outcome.lines(store, "one") == [
        "ingest    5 of 5 rows kept",
        "annotate  3 of 5 rows kept, 2 rejected: boxes",
    ]
    assert outcome.lines(store, "unknown") == []  # it failed before it was recorded


def test_the_rejects_of_a_refused_annotation_are_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UserError, match="no run that got as far as annotate"):
        outcome.annotators_rejects(store)
    refused = store.work("annotate", "1" * 20) / "rejects.parquet"
    write(refused, REJECTS, [Reject("annotate", "boxes", "x", "s/d/1")])
    assert outcome.annotators_rejects(store) == [refused]

    now = time.time()
    stages = {"annotate": made(store, "annotate", {"in": 2, "kept": 1, "rejected": {"boxes": 1}})}
    record(store, "later", now + 10, stages)
    assert outcome.annotators_rejects(store) == [store.folder("annotate", "0" * 20) / "rejects.parquet"]
    os.utime(refused, (now + 20, now + 20))  # refused once more
    assert outcome.annotators_rejects(store) == [refused]
