"""A night whose replies come from a made-up stage, and checkpoints whose "weights" are their verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from typer.testing import CliRunner

import tasks.operations.nightly
from flows import form
from flows import nightly as flow
from flows.commands import main
from sifthinker.config import Config
from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.evaluation import scoring
from sifthinker.evaluation.benchmarks.question import rules
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import Results
from tests import nights


@stage(config=lambda c: [c.evaluate.fresh, c.evaluate.limit], results=Results(("spill",)))
def replies(job: Job) -> None:
    """Stands for the evaluate stage: a "model" is the list of its verdicts, or the reason why it cannot be served.

    The benchmarks differ in name alone."""
    model = json.loads((job.inputs["model"].path / "config.json").read_text())
    if isinstance(model, str):
        raise UserError(model)
    asked, names = model[: job.config.evaluate.limit], ("vstar", "pope")
    rows = [nights.row(name, i, verdict) for name in names for i, verdict in enumerate(asked)]
    tables.write(job.out / "predictions.parquet", scoring.PREDICTIONS, rows)
    (job.out / "scores.json").write_text(
        json.dumps({"scores": [{**nights.score(n, asked), "rules": rules(n)} for n in names]})
    )


@stage(config=lambda c: {}, results=Results(("spill",)))
def nothing(job: Job) -> None:
    (job.out / "weights").write_text("depth")


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the made-up stages into the place of the nightly flow's."""
    monkeypatch.setattr(tasks.operations.nightly, "evaluate", replies)
    monkeypatch.setattr(flow, "depth_weights", nothing)


RIGHT = [1.0] * 60 + [0.0] * 40
SILENT = [None] * 100  # a model that writes no chains
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
    return flow.nightly(form.text(config), return_state=True, **parameters)  # type: ignore[no-any-return]


def command(config: Config, tmp_path: Path, *options: str) -> tuple[int, str]:
    """The exit code of `sif nightly` and what it printed."""
    file = tmp_path / "config.yaml"
    file.write_text(config.model_dump_json(exclude_unset=True))
    done = CliRunner().invoke(main.app, ["nightly", "--config", str(file), *options])
    return done.exit_code, done.output
