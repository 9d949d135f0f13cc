"""The records of runs, which commands read without Prefect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.commands import main
from sifthinker.core.errors import UserError
from sifthinker.store import aliases, checkpoints, runs
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref


def test_the_latest_run_is_first_and_an_unreadable_record_is_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for identifier, started in (("a", 1.0), ("b", 3.0), ("c", 2.0)):
        store.record(runs.file(store, identifier), {"id": identifier, "started": started, "stages": {}})
    runs.file(store, "d").write_text("{")
    assert [run["id"] for run in runs.runs(store)] == ["b", "c", "a"]
    assert [path.stem for path, _ in runs.records(tmp_path)] == ["b", "c", "a", "d"]


def recorded(store: Store, identifier: str, name: str, started: float, key: str | None) -> None:
    stages = {"merge-grpo": {"stage": "merge", "key": key, "digest": key}} if key else {}
    record = {"id": identifier, "name": name, "started": started, "stages": stages}
    store.record(runs.file(store, identifier), record)


def test_a_name_means_one_run_or_is_refused_with_the_ids_of_those_that_it_may_mean(tmp_path: Path) -> None:
    store = Store(tmp_path)
    recorded(store, "aaaaaaa1", "demo", 1.0, "x")
    recorded(store, "aaaaaaa2", "demo", 2.0, "x")
    recorded(store, "aaaaaaa3", "demo", 3.0, None)  # failed before its model

    def model(run: dict[str, Any]) -> Any:
        return run["stages"].get("merge-grpo")

    def found(name: str) -> str | None:
        run = runs.only(store, name, model, "promote")
        return run["id"] if run else None

    assert found("demo") == "aaaaaaa2"  # the two made the same
    recorded(store, "aaaaaaa4", "demo", 4.0, "y")
    with pytest.raises(
        UserError, match="promote: 'demo' means 3 runs, which differ; give the id of one:"
    ) as said:
        found("demo")
    assert [line.split()[0] for line in str(said.value).splitlines()[1:]] == [
        "aaaaaaa4",
        "aaaaaaa2",
        "aaaaaaa1",
    ]
    with pytest.raises(UserError, match="means 3 runs"):
        found("aaaaaa")
    assert [found(name) for name in ("aaaaaaa1", "aaaaaaa3", "nobody", "aaaaa")] == [
        "aaaaaaa1",
        None,
        None,
        None,
    ]
    recorded(store, "bbbbbbb1", "aaaaaaa1", 5.0, "z")  # an id goes before a name
    assert found("aaaaaaa1") == "aaaaaaa1" and found("bbbbbb") == "bbbbbbb1"
    with pytest.raises(UserError, match="checkpoint demo: 'demo' means 3 runs"):
        checkpoints.find(store, "demo")
    recorded(store, "ccccccc1", "bbbbbb", 6.0, "w")  # the name of one run begins the id of another
    with pytest.raises(UserError, match="promote: 'bbbbbb' means 2 runs"):
        found("bbbbbb")


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


def test_a_name_that_is_an_alias_and_a_runs_of_another_model_is_not_pinned(tmp_path: Path) -> None:
    """Nights go by the alias; whoever pins a model by the name may mean the run."""
    store = Store(tmp_path)
    refs = {}
    for key in ("a" * 20, "b" * 20):
        with store.making("merge", key, {}) as draft:
            (draft.out / "model").write_text(key)
        found = store.find("merge", key)
        assert found
        refs[key[0]] = found.ref
    aliases.pin(store, "good", refs["a"], "ada", "tried")
    stages = {"merge-grpo": refs["b"].model_dump()}
    record = {"id": "dddddddd", "name": "good", "started": 1.0, "stages": stages}
    store.record(runs.file(store, "dddddddd"), record)
    assert checkpoints.find(store, "good") == refs["a"]
    with pytest.raises(UserError, match="checkpoint good: it is an alias, of merge/aaaa") as said:
        checkpoints.certain(store, "good")
    assert "dddddddd  1970-01-01 00:00 UTC  good" in str(said.value)
    assert checkpoints.certain(store, "dddddddd") == refs["b"]
    assert checkpoints.certain(store, f"merge/{'a' * 20}") == refs["a"]
    store.record(runs.file(store, "dddddddd"), {**record, "stages": {"merge-grpo": refs["a"].model_dump()}})
    assert checkpoints.certain(store, "good") == refs["a"], "both mean one model"


def test_promote_refuses_a_name_of_several_runs_with_their_ids_and_pins_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, key in enumerate(("a" * 20, "b" * 20)):
        with store.making("merge", key, {}) as draft:
            (draft.out / "model").write_text(key)
        found = store.find("merge", key)
        assert found
        stages = {"merge-grpo": found.ref.model_dump()}
        record = {"id": f"eeeeeee{number}", "name": "demo", "started": float(number), "stages": stages}
        store.record(runs.file(store, record["id"]), record)  # type: ignore[arg-type]
    more = ["--as", "baseline", "--why", "it is good", "--store", str(tmp_path)]
    refused = CliRunner().invoke(main.app, ["promote", "demo", *more])
    said = str(refused.exception)
    assert refused.exit_code != 0 and "'demo' means 2 runs, which differ; give the id of one" in said
    assert "eeeeeee0" in said and "eeeeeee1" in said
    assert aliases.read(store, "baseline") is None
    assert CliRunner().invoke(main.app, ["promote", "eeeeeee1", *more]).exit_code == 0
    pinned = aliases.read(store, "baseline")
    assert pinned and pinned["ref"]["key"] == "b" * 20
