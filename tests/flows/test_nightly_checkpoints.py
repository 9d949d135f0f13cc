"""Checkpoints of a night: how they are found, and that one which cannot be evaluated does not stop the others."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sifthinker.core.errors import UserError
from sifthinker.evaluation import history
from sifthinker.evaluation.nights import compare
from sifthinker.evaluation.nights.records import Night
from sifthinker.store import aliases, checkpoints
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from sifthinker.system.files import write_json
from tests import nights
from tests.flows import made_up_night
from tests.flows.made_up_night import RIGHT, WRONG, command, model, run, settings

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up_night.install(monkeypatch)


def test_a_checkpoint_is_found_by_alias_run_reference_and_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    old, new = model(store, "aa", RIGHT), model(store, "bb", WRONG)
    for number, ref in enumerate((old, new)):
        stages = {"merge-grpo": ref.model_dump(), "report": ref.model_dump()}
        write_json(
            store.root / "runs" / f"{number}.json",
            {"id": f"id-{number}", "name": f"run-{number}", "started": number, "stages": stages},
        )
    part = {"id": "part", "name": "part", "started": 9, "stages": {"merge-grpo": old.model_dump()}}
    write_json(store.root / "runs" / "9.json", part)
    aliases.pin(store, "promoted", old, "ada", "good")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    named = {"promoted": old, "latest": new, "run-0": old, "id-1": new, "part": old, "merge/bb": new}
    for name, ref in named.items():
        assert checkpoints.find(store, name) == ref
    assert checkpoints.find(store, str(folder)) == folder
    for name in ("nothing", "merge/cc", "evaluate/aa", str(tmp_path)):
        with pytest.raises(UserError, match="is no alias, run or model"):
            checkpoints.find(store, name)


def test_a_checkpoint_that_cannot_run_does_not_keep_the_next_look_from_the_others(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    aliases.pin(store, "promoted", model(store, "aa", RIGHT), "ada", "good")
    tiers = {"quick": {"limit": 10, "then": "nightly"}, "nightly": {}}
    of = settings(store, nightly={"tiers": tiers})
    assert command(of, tmp_path)[0] == 0
    aliases.pin(store, "promoted", model(store, "bb", [0.0] * len(RIGHT)), "bob", "looks better")
    aliases.pin(store, "broken", model(store, "cc", "out of memory"), "bob", "to be seen")
    both = settings(store, nightly={"tiers": tiers, "models": ["promoted", "broken"]})
    code, said = command(both, tmp_path, "--tier", "quick")
    assert code == 1 and "Regressed: " in said and "broken could not run: " in said
    assert said.count("report ") == 2
    alone = settings(store, nightly={"tiers": tiers, "models": ["broken"]})
    code, said = command(alone, tmp_path, "--tier", "quick")
    assert code == 3 and said.count("report ") == 1  # more questions would say nothing


def test_one_checkpoint_that_cannot_be_served_does_not_stop_the_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    model(store, "aa", "out of memory")
    model(store, "bb", RIGHT)
    state = run(settings(store), models=["merge/aa", "merge/bb"])
    assert state.name == "NotRun"
    outcomes = {row["target"]: row["outcome"] for row in history.read(tmp_path / "history")}
    assert outcomes == {"merge/aa": "not-run", "merge/bb": "passed"}


def rot(store: Store, ref: Ref) -> None:
    file = store.folder(ref.stage, ref.key) / "config.json"
    file.chmod(0o644)
    file.write_text("rot")


@pytest.mark.parametrize("models", [["unknown", "promoted"], ["rotten", "promoted"], ["gone", "promoted"]])
def test_one_checkpoint_that_is_not_there_does_not_stop_the_others_and_is_named(
    tmp_path: Path, models: list[str]
) -> None:
    store = Store(tmp_path)
    aliases.pin(store, "promoted", model(store, "aa", RIGHT), "ada", "good")
    rotten, gone = model(store, "bb", RIGHT), model(store, "cc", RIGHT)
    aliases.pin(store, "rotten", rotten, "ada", "good")
    aliases.pin(store, "gone", gone, "ada", "good")
    rot(store, rotten)
    store.discard(gone.stage, gone.key)
    state = run(settings(store), models=models)
    assert (state.type.value, state.name) == ("FAILED", "NotRun")
    assert str(state.message).startswith(f"{models[0]} could not run: checkpoint ")
    assert "promoted could not run" not in str(state.message)
    outcomes = {row["target"]: row["outcome"] for row in history.read(tmp_path / "history")}
    assert outcomes == {models[0]: "not-run", "promoted": "passed"}


def test_a_rotten_baseline_stops_no_checkpoint_and_no_night_passes_without_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = model(store, "bb", [0.0, *RIGHT[1:]])
    aliases.pin(store, "baseline", old, "ada", "good")
    aliases.pin(store, "promoted", model(store, "aa", RIGHT), "ada", "good")
    assert run(settings(store)).name == "Completed"
    rot(store, old)
    state = run(settings(store))
    assert state.name == "NotRun"
    assert str(state.message).startswith("baseline could not run: checkpoint baseline: ")
    held = json.loads(
        sorted((tmp_path / "nights").glob("*/outcome.json"), key=os.path.getmtime)[-1].read_text()
    )
    against = {one["against"] for one in held["targets"]["promoted"]["comparisons"]}
    assert against == {"last good night"}, "what could be compared was"
    aliases.pin(store, "promoted", model(store, "cc", WRONG), "bob", "looks better")
    assert run(settings(store)).name == "Regressed"
    assert history.good(history.read(tmp_path / "history"), "promoted")[1:] == [], (
        "only the first one was good"
    )


def test_several_checkpoints_that_lack_a_benchmark_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = [
        nights.evaluated(store, key, {"vstar": RIGHT}, target, {"pope": "no files"})
        for key, target in (("0a", "old"), ("0b", "new"))
    ]
    night = Night("night", datetime.now(UTC), settings(store))
    outcome = compare.hold(store, night, made, {}, None, "gone")
    assert outcome.outcome == history.NOT_RUN
    assert outcome.message.startswith(
        "old: pope could not run: no files; new: pope could not run: no files; baseline could not run: gone"
    )
    assert outcome.message.count("gone") == 1
