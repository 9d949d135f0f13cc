"""The nightly flow on a real Prefect server: its three ends, told apart by name; replies come from a made-up stage."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.objects import State

import tasks.nightly
from flows import nightly as flow
from sifthinker import aliases, evaluate, history, sample
from sifthinker.config import Config, UserError
from sifthinker.store import Ref, Store, write_json
from tasks import checkpoint
from tasks.results import Results
from tasks.stage import Job, stage
from tests import nights

pytestmark = pytest.mark.usefixtures("prefect_server")


@stage(config=lambda c: c.evaluate.fresh, results=Results(("spill",)))
def replies(job: Job) -> None:
    """Stands for the evaluate stage: a "model" is the list of its verdicts, or the reason why it cannot be served."""
    model = json.loads((job.inputs["model"].path / "config.json").read_text())
    if isinstance(model, str):
        raise UserError(model)
    rows = [nights.row("vstar", i, verdict) for i, verdict in enumerate(model)]
    sample.write(job.out / "predictions.parquet", evaluate.PREDICTIONS, rows)
    (job.out / "scores.json").write_text(json.dumps({"scores": [nights.score("vstar", model)]}))


@stage(config=lambda c: {}, results=Results(("spill",)))
def nothing(job: Job) -> None:
    (job.out / "weights").write_text("depth")


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.nightly, "evaluate", replies)
    monkeypatch.setattr(flow, "depth_weights", nothing)


RIGHT = [1.0] * 60 + [0.0] * 40
WRONG = [0.0] * 20 + [1.0] * 40 + [0.0] * 40


def model(store: Store, key: str, content: Any) -> Ref:
    with store.making("merge", key, {"label": "merge-grpo", "name": "test", "identity": {}}) as draft:
        (draft.out / "config.json").write_text(json.dumps(content))
    found = store.find("merge", key)
    assert found
    return found.ref


def settings(store: Store, **sections: Any) -> Config:
    sources = [{"name": "a", "format": "viscot", "path": "a.json"}]
    values = {"store": store.root, "name": "test", "sources": sources, "evaluate": {"server": "transformers"}}
    return Config.model_validate({**values, **sections})


def run(config: Config, **parameters: Any) -> State[str]:
    return flow.nightly(config, return_state=True, **parameters)  # type: ignore[no-any-return]


def test_a_night_passes_is_replayed_and_asks_again_on_request(tmp_path: Path) -> None:
    store = Store(tmp_path)
    aliases.pin(store, "promoted", model(store, "aa", RIGHT), "ada", "good")
    first, again, fresh = run(settings(store)), run(settings(store)), run(settings(store), fresh=True)
    assert [state.name for state in (first, again, fresh)] == ["Completed"] * 3
    rows = history.read(tmp_path / "history")
    assert [row["replayed"] for row in rows] == [False, True, False]
    assert len({row["evaluation"] for row in rows}) == 2  # a fresh night has an evaluation of its own
    assert Path(first.result()).is_file()


def test_a_regression_fails_the_run_by_name_with_a_table(tmp_path: Path) -> None:
    store = Store(tmp_path)
    aliases.pin(store, "promoted", model(store, "aa", RIGHT), "ada", "good")
    aliases.pin(store, "baseline", model(store, "aa", RIGHT), "ada", "good")
    assert run(settings(store)).is_completed()
    aliases.pin(store, "promoted", model(store, "bb", WRONG), "bob", "looks better")
    state = run(settings(store))
    assert (state.type.value, state.name) == ("FAILED", "Regressed")
    assert "vstar fell from 60.0 to 40.0 against the last good night" in str(state.message)
    with get_client(sync_client=True) as client:
        of_run = ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
        [artifact] = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=of_run, key=ArtifactFilterKey(any_=["night"]))
        )
    assert str(artifact.data).count("**regressed**") == 2  # against the last good night and the baseline


@pytest.mark.parametrize(
    ("content", "sections", "message"),
    [
        ("the server ended with status 1", {}, "promoted could not run: evaluate-promoted: the server ended"),
        (
            RIGHT,
            {"evaluate": {"server": "http://127.0.0.1:9/v1"}},
            "no list of models at http://127.0.0.1:9/v1",
        ),
        (RIGHT, {"nightly": {"benchmarks": ["pope"]}}, "nightly.benchmarks: pope not configured"),
        (None, {}, "checkpoint 'promoted' is no alias, run or model"),
    ],
)
def test_a_night_that_cannot_run_fails_by_another_name_and_is_in_the_history(
    tmp_path: Path, content: Any, sections: dict[str, Any], message: str
) -> None:
    store = Store(tmp_path)
    if content:
        aliases.pin(store, "promoted", model(store, "aa", content), "ada", "good")
    state = run(settings(store, **sections))
    assert (state.type.value, state.name) == ("FAILED", "NotRun")
    assert message in str(state.message)
    assert [row["outcome"] for row in history.read(tmp_path / "history")] == ["not-run"]


def test_one_checkpoint_that_cannot_be_served_does_not_stop_the_others(tmp_path: Path) -> None:
    store = Store(tmp_path)
    model(store, "aa", "out of memory")
    model(store, "bb", RIGHT)
    state = run(settings(store), models=["merge/aa", "merge/bb"])
    assert state.name == "NotRun"
    outcomes = {row["target"]: row["outcome"] for row in history.read(tmp_path / "history")}
    assert outcomes == {"merge/aa": "not-run", "merge/bb": "passed"}


def test_a_night_that_starts_too_late_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(UTC) + timedelta(hours=13)

    monkeypatch.setattr(flow, "datetime", Later)
    state = run(settings(Store(tmp_path)))
    assert (state.name, state.type.value) == ("Skipped", "COMPLETED")
    assert not (tmp_path / "history").exists()


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
        assert checkpoint.find(store, name) == ref
    assert checkpoint.find(store, str(folder)) == folder
    for name in ("nothing", "merge/cc", "evaluate/aa", str(tmp_path)):
        with pytest.raises(UserError, match="is no alias, run or model"):
            checkpoint.find(store, name)
