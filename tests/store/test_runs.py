"""The records of runs, which commands read without Prefect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref


def test_the_latest_run_is_first_and_an_unreadable_record_is_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for identifier, started in (("a", 1.0), ("b", 3.0), ("c", 2.0)):
        store.record(runs.file(store, identifier), {"id": identifier, "started": started, "stages": {}})
    runs.file(store, "d").write_text("{")
    assert [run["id"] for run in runs.runs(store)] == ["b", "c", "a"]
    assert [path.stem for path, _ in runs.records(tmp_path)] == ["b", "c", "a", "d"]


def test_the_final_model_is_the_last_that_was_trained_or_the_last_artifact() -> None:
    made = {label: Ref(stage=label, key="1", digest="2") for label in ("ingest", "merge-sft", "evaluate")}
    found = runs.final(made)
    assert found and found.stage == "merge-sft"
    del made["merge-sft"]
    found = runs.final(made)
    assert found and found.stage == "evaluate"
    assert runs.final({}) is None


def test_the_commands_about_a_store_need_no_prefect(tmp_path: Path) -> None:
    code = f"""
import sys
from typer.testing import CliRunner
from flows.commands import main
done = CliRunner().invoke(main.app, ["status", "--store", {str(tmp_path)!r}])
assert done.exit_code == 0 and "no runs yet" in done.output, done.output
from sifthinker.upkeep import prune
assert "prefect" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
