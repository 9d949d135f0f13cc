"""A stage whose libraries are not here: a run is refused before its first stage, and a night says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from sifthinker.config import Config
from sifthinker.store.artifacts import Store
from tasks.runtime import pipeline
from tasks.runtime.flow_run import run_flow
from tasks.runtime.pipeline import Partial, Run, plan
from tasks.runtime.stage import Job, StageRefused, stage
from tasks.runtime.stage_results import Results

pytestmark = pytest.mark.usefixtures("prefect_server")


@stage(config=lambda c: {}, results=Results(("spill",)))
def first(job: Job) -> None:
    (job.out / "made").touch()


@stage(config=lambda c: {}, results=Results(("spill",), ("numpy", "no-such-library")))
def second(job: Job) -> None:
    (job.out / "made").touch()


def both(run: Run) -> None:
    run(first)
    run(second)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    source = {"name": "a", "format": "viscot", "path": "a.json"}
    return Config.model_validate({"store": str(tmp_path), "name": "test", "sources": [source]})


def test_the_plan_names_the_library_and_a_run_is_refused_before_its_first_stage(config: Config) -> None:
    store = Store.of(config)
    made = {line.label: line for line in plan(both, config, Partial(), store)}
    assert made["first"].lacks == ()
    [lacking] = made["second"].lacks
    assert lacking.startswith("no-such-library (not installed in ") and "numpy" not in lacking
    assert "sifthinker-worker" in lacking and "pip install" in lacking

    @flow
    def whole() -> Any:
        return run_flow(both, config, Partial())

    state = whole(return_state=True)
    assert state.name == "UserError" and "second: no-such-library (not installed in " in str(state.message)
    assert not store.manifests("first")


def test_a_flow_that_plans_nothing_is_told_by_the_stage(config: Config) -> None:
    """As a night, which evaluates what it can."""
    store = Store.of(config)

    @flow
    def night() -> None:
        pipeline.carry_out(both, config, Partial(), store, "a-night", "a night")

    with pytest.raises(StageRefused, match=r"second lacks no-such-library \(not installed in "):
        night()
    assert store.manifests("first")
