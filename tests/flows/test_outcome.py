"""What `sif run` and `sif annotate --rejected` read from the store after a run, also after a failed one."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.commands import outcome, tables
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.core.tables import REJECTS, write
from sifthinker.store.artifacts import Store


def made(store: Store, stage: str, rows: dict[str, Any], **notes: Any) -> dict[str, str]:
    with store.making(stage, "0" * 20, {}) as draft:
        draft.rows = rows
        draft.notes.update(notes)
        write(draft.out / "rejects.parquet", REJECTS, [Reject(stage, "boxes", "x", "s/d/1")])
    found = store.find(stage, "0" * 20)
    assert found
    return found.ref.model_dump()


def evaluation(store: Store) -> dict[str, str]:
    score = {"benchmark": "vstar", "metric": "overall", "official": 0.5, "strict": 0.45, "n": 200}
    score |= {"unparsable": 10, "low": 0.4, "high": 0.6, "unit": "share", "limit": 200, "missing": None}
    missing = {"benchmark": "sat", "metric": "", "strict": None, "official": None, "low": None, "high": None}
    scores = [score, score | {"metric": "relative_position"}, score | missing | {"missing": "no such file"}]
    with store.making("evaluate", "0" * 20, {}) as draft:
        draft.rows = {"in": 200, "kept": 200, "rejected": {}}
        (draft.out / "scores.json").write_text(json.dumps({"scores": scores}))
    found = store.find("evaluate", "0" * 20)
    assert found
    return found.ref.model_dump()


def printed(store: Store, run_id: str, width: int) -> str:
    tables.console, before = Console(width=width, file=io.StringIO(), highlight=False), tables.console
    try:
        with tables.Printed(False, "stages", "scores") as to:
            outcome.show(to, store, run_id)
        file: Any = tables.console.file
    finally:
        tables.console = before
    return str(file.getvalue())


def shown(store: Store, run_id: str) -> str:
    return " ".join(printed(store, run_id, 200).split())


def record(store: Store, name: str, started: float, stages: dict[str, Any]) -> None:
    store.record(store.root / "runs" / f"{name}.json", {"id": name, "started": started, "stages": stages})


def test_the_closing_table_has_rows_rejects_scores_time_and_money(tmp_path: Path) -> None:
    store = Store(tmp_path)
    began = time.time()
    stages = {
        "ingest": made(store, "ingest", {"in": 5, "kept": 5, "rejected": {}}),
        "annotate": made(
            store,
            "annotate",
            {"in": 5, "kept": 2, "rejected": {"boxes": 2, "answer": 1}},
            cost="1.5000 CNY, 0.2500 USD",
        ),
        "evaluate": evaluation(store),
    }
    record(store, "one", began - 1, stages)
    ingest, annotate, _ = outcome.rows(store, "one")
    assert (ingest.rows_in, ingest.kept, ingest.why, ingest.cached) == (5, 5, "", False)
    assert (annotate.why, annotate.cost) == ("3: boxes 2, answer 1", "1.5000 CNY, 0.2500 USD")
    text = shown(store, "one")
    assert "annotate 5 2 3: boxes 2, answer 1" in text
    assert f"`sif view --store {tmp_path}` shows each" in text
    assert "3 stages made), 1.50 CNY, 0.25 USD" in text
    assert "evaluate vstar overall 50.0 45.0 40.0 to 60.0 200 (a sample) 5.0 %" in text
    assert "evaluate sat not run: no such file" in text and "relative_position" not in text


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (200, ""),
        (79, "unparsable"),
        (66, "questions, unparsable"),
        (50, "official, questions, unparsable"),
    ],
)
def test_a_narrow_terminal_wraps_no_score(tmp_path: Path, width: int, left_out: str) -> None:
    store = Store(tmp_path)
    record(store, "one", time.time() - 1, {"evaluate": evaluation(store)})
    lines = printed(store, "one", width).splitlines()
    head = next(place for place, line in enumerate(lines) if line.startswith("scores"))
    of_vstar, of_sat = lines[head + 1 : head + 3]
    assert of_vstar.split()[:3] == ["evaluate", "vstar", "overall"] and "40.0 to 60.0" in of_vstar
    assert of_sat.split() == ["evaluate", "sat", "not", "run"]
    said = f"too narrow for: {left_out}." if left_out else "200 (a sample)"
    assert said in "\n".join(lines)


def test_what_an_earlier_run_made_is_cached_and_costs_nothing_now(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stages = {"annotate": made(store, "annotate", {"in": 1, "kept": 1, "rejected": {}}, cost="9.0 CNY")}
    record(store, "later", time.time() + 10, stages)
    text = shown(store, "later")
    assert "cached)" in text and "(9.0 CNY)" in text
    assert "0.0 s (0 stages made), no cost recorded" in text


def test_a_run_that_failed_before_its_first_stage_has_no_table(tmp_path: Path) -> None:
    assert shown(Store(tmp_path), "unknown") == ""


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
