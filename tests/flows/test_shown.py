"""The outcome that a run's page shows: made, cached and failed told apart by words, and the run before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.states import Completed, Failed

from flows import shown
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from tasks.runtime import links


def made(store: Store, stage: str, key: str, **rejected: int) -> dict[str, str]:
    with store.making(stage, key, {}) as draft:
        draft.rows = {"in": 5, "kept": 5 - sum(rejected.values()), "rejected": rejected}
    found = store.find(stage, key)
    assert found
    return found.ref.model_dump()


def record(store: Store, identifier: str, started: float, stages: dict[str, Any], rate: float) -> None:
    config = {"name": "demo", "store": f"/{identifier}", "grpo": {"learning_rate": rate}}
    values = {
        "id": identifier,
        "name": f"run {identifier}",
        "started": started,
        "config": config,
        "stages": stages,
    }
    store.record(runs.file(store, identifier), values)


def test_stages_are_told_apart_and_compared_with_the_run_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(links.URL, "https://pages.example.org")
    store = Store(tmp_path)
    ingest = made(store, "ingest", "0" * 20, **{"image-missing": 2})
    began = store.manifests("ingest")[0]["made"] + 1e-6
    record(store, "first", 1.0, {"ingest": ingest}, 1e-5)
    stages = {
        "ingest": ingest,
        "expand": made(store, "expand", "1" * 20),
        "report": made(store, "report", "2" * 20),
    }
    record(store, "second", began, stages, 3e-5)
    text = shown.page(store, "second", Failed(message="sft: out of memory\n# (A)"))
    assert "**Failed**: sft\\: out of memory<br>\\# \\(A\\)" in text
    lines = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert "↺ cached" in lines["| ingest"] and "2\\: " in lines["| ingest"] and "missing" in lines["| ingest"]
    assert "✔ made" in lines["| expand"] and "✘ failed" in lines["| sft"]
    assert "**[Open the report](https://pages.example.org/report/22222222222222222222/report.html)**" in text
    assert "run first (`first`)" in text
    assert "* `grpo.learning_rate`: 1e\\-05 → 3e\\-05" in text and "`store`" not in text
    assert "**Completed**" in shown.page(store, "first", Completed())
    assert "No run of this configuration came before." in shown.page(store, "first", Completed())
    assert shown.page(store, "none", Failed(message="no [such]")) == "**Failed.** no \\[such\\]"
