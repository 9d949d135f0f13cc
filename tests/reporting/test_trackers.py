"""What MLflow and W&B are told of a run: with the real ones, where they are installed (the extra `trackers`)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from sifthinker.core.errors import UserError
from sifthinker.reporting import trackers
from sifthinker.reporting.trackers import RUN, Told

TOLD = Told(
    id="0123abcd",
    name="demo grpo.seed=1",
    project="demo",
    completed=True,
    settings={f"grpo.setting_{n}": n for n in range(230)} | {"grpo.long": "x" * 9000},
    scores={
        "evaluate/refcoco_testA/iou/strict": 61.5,
        "evaluate/refcoco+_testA/iou/strict": 52.25,
        "evaluate/viscot (mean)/score/official": 40.0,
    },
    artifacts={"merge-grpo": "merge/0000 9f8e", "evaluate": "evaluate/1111 7a6b"},
)


def told(name: str, what: Told, store: Path) -> str:
    [line] = trackers.tell([name], what, store)
    return line


def test_a_tracker_that_is_not_installed_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"mlflow is not installed.*pip install -e '\.\[trackers\]'"):
        told("mlflow", TOLD, tmp_path)


def test_names_that_mlflow_refuses_are_changed_and_stay_apart() -> None:
    names = [trackers._name(name) for name in TOLD.scores]
    assert names[:2] == ["evaluate/refcoco_testA/iou/strict", "evaluate/refcocoplus_testA/iou/strict"]
    assert names[2] == "evaluate/viscot _mean_/score/official"


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_mlflow_has_scores_settings_and_artifacts_and_one_run_after_a_retry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install -e '.[trackers]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    file = f"sqlite:///{tmp_path / 'mlflow.sqlite'}"
    failed: dict[str, Any] = {**vars(TOLD), "completed": False, "scores": {}}
    told("mlflow", Told(**failed), tmp_path)
    line = told("mlflow", TOLD, tmp_path)
    client = mlflow.MlflowClient(file)
    experiment = client.get_experiment_by_name("demo")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.run_id in line and file in line
    assert (run.info.run_name, run.info.status) == ("demo grpo.seed=1", "FINISHED")
    assert run.data.tags[RUN] == "0123abcd"
    assert run.data.tags["artifact.merge-grpo"] == "merge/0000 9f8e"
    assert run.data.metrics["evaluate/refcocoplus_testA/iou/strict"] == 52.25
    assert len(run.data.metrics) == 3 and len(run.data.params) == 231
    assert run.data.params["grpo.setting_229"] == "229"
    other = Told(**{**vars(TOLD), "id": "4567"})
    told("mlflow", other, tmp_path)
    assert len(client.search_runs([experiment.experiment_id])) == 2


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_wandb_writes_the_run_into_the_store_where_there_is_no_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("wandb", reason="pip install -e '.[trackers]'")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert told("wandb", TOLD, tmp_path) == "wandb: run 0123abcd of project demo, offline"
    [written] = (tmp_path / "wandb").glob("offline-run-*-0123abcd/run-0123abcd.wandb")
    told_of = (b"evaluate/refcoco+_testA/iou/strict", b"52.25", b"merge/0000 9f8e", b"grpo.setting_229")
    deadline = time.monotonic() + 120  # a process of W&B's own writes the file
    while missing := [text for text in told_of if text not in written.read_bytes()]:
        assert time.monotonic() < deadline, missing
        time.sleep(0.5)
