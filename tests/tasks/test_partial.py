"""Partial reruns without a server: which stages are made, which are taken, and which are left alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from tasks.runtime import pipeline
from tasks.runtime.decide import Decision
from tasks.runtime.make import make_artifact
from tasks.runtime.pipeline import Partial, Run, carry_out, plan
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import Results

LOG = logging.getLogger(__name__)


def _written(job: Job) -> None:
    (job.out / "made").write_text(job.order.label + str(job.config.expand.seed))


def _stage(name: str, **more: Any) -> Any:
    def run(job: Job) -> None:
        _written(job)

    run.__name__ = name
    return stage(config=lambda c: {"seed": c.expand.seed}, results=Results(("spill",)), **more)(run)


weights, rows, more, trained = (
    _stage("weights", fetches=True),
    _stage("rows"),
    _stage("more"),
    _stage("trained"),
)


def small(run: Run) -> None:
    """As the reproduction: weights first, that only the last stage needs; `more` needs `rows`."""
    base = run(weights)
    given = run(rows)
    after = run(more, rows=given)
    run(trained, base=base, more=after)


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made: list[str] = []

    def execute(decision: Decision, store: Store) -> Ref:
        if decision.artifact is not None:
            return decision.artifact.ref
        made.append(decision.order.label)
        make_artifact(decision.order, store, LOG)
        found = store.find(decision.order.place, decision.order.key)
        assert found
        return found.ref

    monkeypatch.setattr(pipeline, "execute", execute)
    monkeypatch.setattr(pipeline.server_away, "wait", lambda: None)

    def go(seed: int = 0, **partial: Any) -> tuple[list[str], list[str]]:
        """The plan's labels, and the stages that were made."""
        config = Config.model_validate(
            {"scenes": {}, "expand": {"seed": seed}, "store": str(tmp_path / "store")}
        )
        asked, store = Partial(**partial), Store.of(config)
        planned = [p.label for p in plan(small, config, asked, store)]
        made.clear()
        run_id = f"run{len(runs.runs(store))}"
        carry_out(small, config, asked, store, run_id, run_id)
        return planned, list(made)

    return go


def test_a_stop_makes_what_its_stage_is_made_from_and_no_weights(go: Any) -> None:
    assert go(stop_after="more") == (["rows", "more"], ["rows", "more"])
    assert go(stop_after="weights") == (["weights"], ["weights"])
    assert go() == (["weights", "rows", "more", "trained"], ["trained"])


def test_weights_may_be_fetched_after_the_start_and_rows_may_not(go: Any) -> None:
    with pytest.raises(
        UserError, match=r"trained cannot start.*\n  rows: never made\n  and what is made from that: more\n"
    ):
        go(start_at="trained")
    go(stop_after="more")
    assert go(start_at="trained") == (["weights", "rows", "more", "trained"], ["weights", "trained"])


def test_a_run_without_weights_can_be_reused(go: Any) -> None:
    go(stop_after="more")
    assert go(seed=5, start_at="trained", reuse_run="run0") == (
        ["weights", "rows", "more", "trained"],
        ["weights", "trained"],
    )
    with pytest.raises(UserError, match="more cannot start"):
        go(seed=6, start_at="more")


def test_a_stage_of_a_reused_run_is_not_made_again_and_says_so(go: Any) -> None:
    go()
    with pytest.raises(
        UserError, match="refresh: rows stands before start_at, so it is taken from run run0; start at rows"
    ):
        go(start_at="trained", reuse_run="run0", refresh=("rows",))
    assert go(start_at="trained", reuse_run="run0", refresh=("trained",))[1] == ["trained"]


def test_the_first_run_of_another_configuration_says_with_whose_it_is_compared(
    go: Any, tmp_path: Path
) -> None:
    go()

    def reasons(**fields: Any) -> tuple[str, ...]:
        values = {"scenes": {}, "expand": {"seed": 3}, "store": str(tmp_path / "store"), **fields}
        config = Config.model_validate(values)
        return next(p.reasons for p in plan(small, config, Partial(), Store.of(config)) if p.label == "rows")

    changed = "config seed: 0 -> 3"
    assert reasons() == (changed,)
    before = Config.model_validate({"scenes": {}}).name
    assert reasons(name="mine") == (f"never made for mine; compared with that of {before}:", changed)


def test_a_name_of_runs_whose_stages_differ_before_the_start_is_refused_with_their_ids(
    go: Any, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")

    def called(identifier: str, name: str) -> None:
        [record] = [run for run in runs.runs(store) if run["id"] == identifier]
        store.record(runs.file(store, identifier), {**record, "name": name})

    go()  # run0
    go(seed=1)  # run1: every stage is another one
    called("run0", "mine")
    called("run1", "mine")
    with pytest.raises(UserError, match="reuse_run: 'mine' means 2 runs, which differ; give the id") as said:
        go(seed=2, start_at="trained", reuse_run="mine")
    assert [line.split()[0] for line in str(said.value).splitlines()[1:]] == ["run1", "run0"]
    assert go(seed=2, start_at="trained", reuse_run="run0")[1] == ["trained"]  # run2, with the rows of run0
    called("run1", "other")
    called("run2", "mine")  # differs from run0 only from where a run starts that reuses them
    assert go(seed=3, start_at="trained", reuse_run="mine")[1] == ["trained"]
    go(stop_after="rows")  # run4 did not come as far: it is not meant
    called("run4", "mine")
    assert go(seed=4, start_at="trained", reuse_run="mine")[1] == ["trained"]
