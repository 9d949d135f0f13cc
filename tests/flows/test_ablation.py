"""The ablation's flow on a real Prefect server, with made-up stages: one that all rows share, and one of their own."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.flow_engine import run_flow
from prefect.states import AwaitingRetry, Pending

from flows import ablation as flow
from flows import form
from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from tasks.runtime.pipeline import Run
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import Results

pytestmark = pytest.mark.usefixtures("prefect_server")
ROWS = ("first", "second", "third")
made: list[str] = []  # the stages that were made, in order: "shared", or "own <row>"
breaks: dict[str, Callable[[], None]] = {}  # by row, what happens in its own stage


@stage(config=lambda c: {"seed": c.sft.seed}, results=Results(("spill",)))
def shared_by_all(job: Job) -> None:
    """As a training on GPUs: not the same bits twice."""
    made.append("shared")
    (job.out / "weights").write_text(uuid.uuid4().hex)


@stage(config=lambda c: {"row": c.name}, results=Results(("spill",)))
def own(job: Job) -> None:
    row = job.config.name.split(".")[1]
    made.append(f"own {row}")
    breaks.get(row, lambda: None)()
    (job.out / "scores").write_text((job.inputs["model"].path / "weights").read_text())


@stage(config=lambda c: {}, results=Results(("spill",)))
def table(job: Job) -> None:
    (job.out / "table.md").write_text("\n".join(sorted(job.inputs)))


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(run: Run, trained: str) -> None:
        run(own, "evaluate", model=run(shared_by_all, "sft"))

    monkeypatch.setattr(flow, "row", row)
    monkeypatch.setattr(flow.table, "ablation", table)
    made.clear()
    breaks.clear()


def settings(store: Path) -> Config:
    sources = [{"name": "a", "format": "viscot", "path": "a.json"}]
    variants = [{"name": name, "trained": "sft"} for name in ROWS]
    ablation = {"variants": variants, "reference": "first", "seeds": [0]}
    return Config.model_validate(
        {"store": store, "name": "test", "sources": sources, "ablation": ablation, "sft": {"seed": 0}}
    )


def run(store: Path, **parameters: Any) -> State[str]:
    return flow.ablation(form.text(settings(store)), return_state=True, **parameters)  # type: ignore[no-any-return]


def shown(state: State[str]) -> list[str]:
    """The rows of the table."""
    return (Path(state.result()) / "table.md").read_text().split()


def test_what_rows_share_is_refreshed_once_and_all_are_in_the_table(tmp_path: Path) -> None:
    everything = [f"{name}.0" for name in ROWS]
    assert shown(run(tmp_path)) == everything
    made.clear()
    state = run(tmp_path, refresh=["sft"])
    assert made == ["shared", *(f"own {name}" for name in ROWS)]
    assert state.is_completed() and state.message == "3 rows" and shown(state) == everything
    made.clear()
    assert run(tmp_path).is_completed() and made == []
    assert run(tmp_path, refresh=["sft"]).is_completed() and made.count("shared") == 1, "each run, once"


def test_a_retry_does_not_refresh_again_what_the_first_attempt_has(tmp_path: Path) -> None:
    assert run(tmp_path).is_completed()
    made.clear()

    def fails() -> None:
        raise UserError("no room")

    breaks["second"] = fails
    state = run(tmp_path, refresh=["sft"])
    assert state.is_failed() and str(state.message) == "second.0: evaluate: no room"
    assert made == ["shared", *(f"own {name}" for name in ROWS)]
    made.clear()
    breaks.clear()
    parameters = {"config": form.text(settings(tmp_path)), "refresh": ["sft"]}
    with get_client(sync_client=True) as client:
        identifier = state.state_details.flow_run_id
        assert identifier
        for proposed in (AwaitingRetry(), Pending()):
            client.set_flow_run_state(identifier, proposed)
        again = run_flow(
            flow.ablation, client.read_flow_run(identifier), parameters=parameters, return_type="state"
        )
    assert again.is_completed(), again.message
    assert made == ["own second"]


def test_a_row_that_was_made_and_is_gone_at_the_end_fails_the_run_by_name(tmp_path: Path) -> None:
    """As when another run makes again what a finished row was made from."""

    store = Store(tmp_path)
    assert run(tmp_path).is_completed()
    [first] = [m["key"] for m in store.manifests("own") if m["name"] == "test.first"]
    breaks["third"] = lambda: store.discard("own", first)
    state = run(tmp_path, refresh=["evaluate"])
    assert state.is_failed()
    assert str(state.message).startswith(
        "first.0: it was made, but its evaluation is not in the store any more"
    )
    [last] = [m for m in store.manifests("table") if len(m["inputs"]) == 2]
    assert sorted(last["inputs"]) == ["second.0", "third.0"], "the table has the rows that there are"


def test_a_table_without_rows_that_were_not_wanted_says_so(tmp_path: Path) -> None:
    state = run(tmp_path, rows=["second"])
    assert state.message == "1 rows; not made, and not in the table: first.0, third.0"


def test_a_stage_to_make_again_is_that_of_the_rows_that_have_it_and_refused_where_none_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row(run: Run, trained: str) -> None:
        label = "sft" if run.config.name.split(".")[1] == "first" else "shared"
        run(own, "evaluate", model=run(shared_by_all, label))

    monkeypatch.setattr(flow, "row", row)
    assert run(tmp_path).is_completed()
    made.clear()
    assert run(tmp_path, refresh=["sft"]).is_completed()
    assert made[:2] == ["shared", "own first"]
    made.clear()
    state = run(tmp_path, refresh=["evaluate", "grpo"])
    assert (state.name, made) == ("UserError", [])
    assert state.message == "refresh: grpo: no stage of these rows; stages: sft, evaluate, shared"
