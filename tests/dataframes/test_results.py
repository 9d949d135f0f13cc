"""A store's results as DataFrames, and the example of the room's README."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.core.scores import Score
from sifthinker.dataframes import Results, results
from sifthinker.evaluation import history, scoring
from sifthinker.store.artifacts import Store
from sifthinker.store.runs import file as record_file
from tests.small_part import part

README = Path(results.__file__).with_name("README.md")
SCORE: dict[str, Any] = {
    "benchmark": "vstar",
    "metric": "overall",
    "official": 0.5,
    "strict": 0.5,
    "n": 2,
    "unparsable": 0,
    "refused": 0,
    "rules": 1,
    "rejected": 0,
    "low": 0.1,
    "high": 0.9,
    "unit": "share",
    "limit": None,
    "missing": None,
    "rendered": True,
    "shrunk": 0.5,
    "shrunk_to": 0.25,
}


def _prediction(number: int) -> dict[str, Any]:
    empty = {field.name: 0 if pa.types.is_integer(field.type) else "" for field in scoring.PREDICTIONS}
    given = {"boxes": [], "parts": {}, "judged": [], "official": 1.0 - number, "strict": 1.0 - number}
    return {**empty, **given, "benchmark": "vstar", "id": str(number), "question": "Where?", "reply": "A"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store of one run with a data set, a training and an evaluation; and an ablation and a night."""
    made = Store(tmp_path / "store")
    stages: dict[str, dict[str, Any]] = {}

    def add(label: str, write: Any, rows: dict[str, Any]) -> None:
        stage = label.partition("-")[0]
        manifest = {"label": label, "name": "mine", "identity": {}, "inputs": {}, "versions": {}}
        key = f"{len(stages):020x}"
        with made.making(stage, key, manifest) as draft:
            write(draft.out)
            draft.rows = rows  # type: ignore[assignment]
        [ref] = made.manifests(stage)
        stages[label] = {name: ref[name] for name in ("stage", "key", "digest")}

    def data(out: Path) -> None:
        (out / "data").mkdir()
        for number in range(2):
            part(tmp_path / str(number), (1, number)).write(out / "data" / f"sif-{number:05}.parquet")
        tables.write(
            out / "rejects.parquet", tables.REJECTS, [Reject("publish", "depth-missing", "x", "a/b/9")]
        )

    def training(out: Path) -> None:
        lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "eval_loss": 3.0}]
        (out / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def evaluation(out: Path) -> None:
        tables.write(out / "predictions.parquet", scoring.PREDICTIONS, map(_prediction, range(2)))
        (out / "scores.json").write_text(json.dumps({"model": "m", "scores": [SCORE]}))

    def ablation(out: Path) -> None:
        score = {**SCORE, "by_seed": [0.4, 0.6], "error": 0.1}
        table = {"rows": [{"row": "full", "seeds": 2, "scores": [score]}], "reference": "full"}
        (out / "table.json").write_text(json.dumps(table))

    add("publish", data, {"in": 3, "kept": 2, "rejected": {"depth-missing": 1}})
    add("sft", training, {"in": 2, "kept": 2, "rejected": {}})
    add("evaluate", evaluation, {"in": 2, "kept": 2, "rejected": {}})
    run = {
        "id": "r1",
        "name": "mine",
        "started": 1e9,
        "state": "Completed",
        "config": {},
        "stages": dict(stages),
    }
    made.record(record_file(made, "r1"), run)
    add("ablation", ablation, {"in": 2, "kept": 2, "rejected": {}})
    night = {name: SCORE.get(name) for name in history.NIGHTS.names} | {
        "night": "n1", "started": datetime(2026, 11, 29, tzinfo=UTC), "name": "nightly", "target": "promoted",
        "model": "d", "evaluation": "", "replayed": False, "regressed": True, "outcome": "regressed",
    }  # fmt: skip
    history.append(made.root / "history", "n1", [night])
    return made


def test_every_table_of_a_store_has_its_rows(store: Store) -> None:
    found = Results(store.root)
    assert found.runs()[["id", "stages"]].to_dict("records") == [{"id": "r1", "stages": 3}]
    assert found.runs()["started"][0].year == 2001
    stages = found.stages()
    assert stages["label"].tolist() == ["publish", "sft", "evaluate"]
    assert (stages["in"] == stages["kept"] + stages["rejected"]).all()
    assert found.rejects()[["label", "reason", "id"]].values.tolist() == [
        ["publish", "depth-missing", "a/b/9"]
    ]
    assert found.predictions()["strict"].tolist() == [1.0, 0.0]
    assert found.scores()[["label", "model", "strict"]].values.tolist() == [["evaluate", "m", 0.5]]
    curves = found.curves()
    assert curves[["label", "step", "loss"]].values.tolist() == [["sft", 1, 2.0], ["sft", 2, 1.0]]
    assert curves["eval_loss"].isna().tolist() == [True, False]
    assert found.nights()[["night", "outcome"]].values.tolist() == [["n1", "regressed"]]
    assert found.ablation()[["row", "seeds", "strict"]].values.tolist() == [["full", 2, 0.5]]


def test_the_data_set_comes_without_its_pictures_unless_they_are_asked_for(store: Store) -> None:
    rows = Results(store.root, "mine").dataset()
    assert rows["id"].tolist() == ["photos/gqa/0.0", "photos/gqa/0.0", "photos/gqa/1.0"]
    assert not set(results.PICTURES) & set(rows.columns)
    assert rows["steps"][0][1][0]["depth"] == pytest.approx(0.37, abs=0.02)
    whole = Results(store.root).dataset(pictures=True)
    assert list(whole.columns) == tables.SIF.names
    assert whole["image"][0]["bytes"][:2] == b"\xff\xd8"
    assert list(Results(store.root).dataset(["id"]).columns) == ["id"]
    with pytest.raises(UserError, match="no columns depth"):
        Results(store.root).dataset(["depth"])


def test_a_run_without_a_table_gives_an_empty_one_with_its_columns(tmp_path: Path) -> None:
    made = Store(tmp_path / "store")
    run = {"id": "r1", "name": "mine", "started": 1.0, "state": "Failed", "config": {}, "stages": {}}
    made.record(record_file(made, "r1"), run)
    found = Results(made.root)
    for method, column in (
        ("stages", "label"), ("dataset", "question"), ("rejects", "reason"), ("scores", "strict"),
        ("curves", "step"), ("ablation", "row"), ("predictions", "strict"), ("nights", "outcome"),
    ):  # fmt: skip
        table = getattr(found, method)()
        assert len(table) == 0
        assert column in table.columns, method
    assert list(found.predictions().columns) == ["label", *scoring.PREDICTIONS.names]
    assert list(found.nights().columns) == history.NIGHTS.names
    assert found.predictions().query("strict == 0")[["benchmark", "reply"]].empty


def test_unknown_stores_and_runs_are_named(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Results(tmp_path / "other").runs()
    with pytest.raises(UserError, match="has no run other"):
        Results(store.root, "other").stages()


def test_the_example_of_the_readme_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    [example] = re.findall(
        r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    monkeypatch.chdir(store.root.parent)
    Path("artifacts").symlink_to(store.root)
    names: dict[str, Any] = {}
    exec(compile(example, str(README), "exec"), names)  # noqa: S102 (our own README)
    assert names["by_set"].loc["gqa", "rows"] == 3
    assert names["depths"]["count"] == 6
    assert names["rejects"].to_dict() == {("publish", "depth-missing"): 1}
    assert names["scores"].loc[("vstar", "overall"), "evaluate"] == 0.5
    assert len(names["wrong"]) == len(names["nights"]) == len(names["ablation"]) == 1
    assert set(Score.__annotations__) <= set(Results("artifacts").scores().columns)
