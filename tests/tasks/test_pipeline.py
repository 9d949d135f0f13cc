"""The machinery of stages on a small pipeline: keys, cache, plans, partial reruns, damage, shards, accounting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.core.tables import read, write
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from tasks.operations import accept as accepting
from tasks.runtime import closure
from tasks.runtime.flow_run import run_flow
from tasks.runtime.pipeline import Partial, Run, plan
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import Results

pytestmark = pytest.mark.usefixtures("prefect_server")
NUMBERS = pa.schema([("n", pa.int64())])


@stage(config=lambda c: {"total": c.ingest.total}, results=Results(("spill",)))
def numbers(job: Job) -> None:
    """0..total-1 in three parts; sevens are rejected."""
    rows = [n for n in range(job.config.ingest.total) if n % 10 != 7]
    for part, file in enumerate(job.parts("numbers", 3)):
        write(file, NUMBERS, ({"n": n} for n in rows if n % 3 == part))
    sevens = [Reject("numbers", "seven", "a seven")] * (job.config.ingest.total - len(rows))
    job.count([*sevens, len(rows)])


@stage(config=lambda c: {"seed": c.expand.seed}, results=Results(("spill",)), parts=("numbers",))
def double(job: Job) -> None:
    rows = job.counted(read(job.table("numbers")))
    job.keep("doubled", NUMBERS, ({"n": 2 * row["n"] + job.config.expand.seed} for row in rows))


@stage(config=lambda c: {"prompts": c.merge.prompts}, results=Results(("spill",)))
def total(job: Job) -> None:
    rows = [row["n"] for row in read(job.table("doubled"))]
    (job.out / "total.txt").write_text(str(sum(rows)))
    job.draft.rows = {"in": len(rows), "kept": len(rows), "rejected": {}}


@stage(config=lambda c: {}, results=Results(("spill",)), parts=("numbers",))
def careless(job: Job) -> None:
    """Loses a row, which must not pass."""
    rows = list(job.counted(read(job.table("numbers"))))
    job.keep("kept", NUMBERS, rows[1:])


@stage(config=lambda c: {}, results=Results(("spill",)), retries=2)
def refused(job: Job) -> None:
    with (job.config.store / "tries").open("a") as said:
        said.write("try\n")
    raise UserError("data.json, row 3, field box: not a list; write four numbers")


@stage(config=lambda c: {}, results=Results(("spill",)), retries=1)
def shaky(job: Job) -> None:
    """Breaks the first time, as a download or a training does."""
    tries = job.config.store / "tries"
    with tries.open("a") as said:
        said.write("try\n")
    if tries.read_text() == "try\n":
        raise ConnectionError("the line broke")
    (job.out / "made").touch()


def pipeline(run: Run) -> None:
    source = run(numbers)
    doubled = run(double, numbers=source)
    run(total, doubled=doubled)


@flow(name="small")
def small(config: Config, partial: Partial, what: Any = pipeline) -> Any:
    return run_flow(what, config, partial)


def config(store: Path, **sections: dict[str, Any]) -> Config:
    return Config(store=store, scenes={}, **sections)  # type: ignore[arg-type]


def go(config: Config, what: Any = pipeline, **partial: Any) -> dict[str, str]:
    """Runs the flow and returns the state of each task run by its name."""
    state = small(config, Partial(**partial), what, return_state=True)
    assert state.is_completed(), state.message
    with get_client(sync_client=True) as client:
        of_flow = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        return {run.name: run.state_name for run in client.read_task_runs(flow_run_filter=of_flow)}


def verdicts(config: Config, **partial: Any) -> dict[str, str]:
    planned = plan(pipeline, config, Partial(**partial), Store(config.store))
    return {p.label: "; ".join((p.verdict, *p.reasons)) for p in planned}


def only_file(store: Path, pattern: str) -> Path:
    [found] = store.glob(pattern)
    return found


def test_an_unchanged_rerun_is_all_cached_and_the_plan_says_so(tmp_path: Path) -> None:
    c = config(tmp_path, ingest={"total": 20})
    assert verdicts(c) == {
        "numbers": "runs; never made",
        "double": "runs; after numbers",
        "total": "runs; after double",
    }
    assert go(c) == {
        **{"numbers": "Completed", "double": "Completed", "total": "Completed"},
        **{f"double part {n}": "Completed" for n in (1, 2, 3)},
    }
    assert only_file(tmp_path, "total/*/total.txt").read_text() == str(2 * (sum(range(20)) - 7 - 17))
    assert verdicts(c) == {"numbers": "cached", "double": "cached", "total": "cached"}
    assert go(c) == {"numbers": "Cached", "double": "Cached", "total": "Cached"}


def test_a_changed_field_runs_its_stage_and_what_follows_and_the_plan_names_it(tmp_path: Path) -> None:
    go(config(tmp_path, ingest={"total": 20}))
    changed = config(tmp_path, ingest={"total": 20}, expand={"seed": 3})
    assert verdicts(changed)["double"] == "runs; config seed: 0 -> 3"
    states = go(changed)
    assert (states["numbers"], states["double"], states["total"]) == ("Cached", "Completed", "Completed")


def test_an_operational_field_runs_nothing(tmp_path: Path) -> None:
    go(config(tmp_path, ingest={"total": 20}))
    assert set(go(config(tmp_path, ingest={"total": 20}, evaluate={"concurrency": 3})).values()) == {"Cached"}


@pytest.mark.parametrize("harm", ["delete", "change", "cut", "manifest"])
def test_a_damaged_output_is_made_again_and_nothing_else(tmp_path: Path, harm: str) -> None:
    c = config(tmp_path, ingest={"total": 20})
    go(c)
    file = only_file(tmp_path, "total/*/total.txt")
    before = file.read_text()
    match harm:
        case "delete":
            file.unlink()
        case "change":
            file.write_text("9" * len(before))
        case "cut":
            file.write_text("")
        case "manifest":
            (file.parent / "manifest.json").write_text("{")
    assert verdicts(c)["total"].startswith("runs; damaged: total/")
    states = go(c)
    assert states == {"numbers": "Cached", "double": "Cached", "total": "Completed"}
    assert only_file(tmp_path, "total/*/total.txt").read_text() == before


def test_a_damaged_shard_is_made_again_alone(tmp_path: Path) -> None:
    c = config(tmp_path, ingest={"total": 20})
    go(c)
    sorted(tmp_path.glob("double.parts/*/doubled.parquet"))[0].unlink()
    assert verdicts(c)["double"].startswith("runs; damaged: double.parts/")
    states = go(c)
    parts = sorted(states[f"double part {n}"] for n in (1, 2, 3))
    assert parts == ["Cached", "Cached", "Completed"]
    assert states["total"] == "Cached", "an equal output stops the rerun"


def test_new_rows_run_only_the_shards_that_they_fall_into(tmp_path: Path) -> None:
    go(config(tmp_path, ingest={"total": 20}))
    states = go(config(tmp_path, ingest={"total": 21}))  # 20 is in part 20 % 3
    assert {n: states[f"double part {n}"] for n in (1, 2, 3)} == {1: "Cached", 2: "Cached", 3: "Completed"}


def test_refresh_makes_a_stage_again_and_an_equal_output_stops_there(tmp_path: Path) -> None:
    c = config(tmp_path, ingest={"total": 20})
    go(c)
    states = go(c, refresh=("numbers",))
    assert (states["numbers"], states["double"], states["total"]) == ("Completed", "Cached", "Cached")


def test_stop_after_and_start_at_run_what_lies_between(tmp_path: Path) -> None:
    c = config(tmp_path, ingest={"total": 20})
    assert "total" not in go(c, stop_after="double")
    assert go(c, start_at="total")["total"] == "Completed"


@stage(config=lambda c: {}, results=Results(("spill",)), fetches=True)
def fetched(job: Job) -> None:
    (job.out / "weights").write_text("downloaded")


def with_weights(run: Run) -> None:
    weights = run(fetched)
    source = run(numbers)
    doubled = run(double, numbers=source)
    run(total, doubled=doubled, weights=weights)


def test_a_stop_leaves_out_what_its_stage_is_not_made_from(tmp_path: Path) -> None:
    c = config(tmp_path, ingest={"total": 20})
    planned = plan(with_weights, c, Partial(stop_after="double"), Store(c.store))
    assert [p.label for p in planned] == ["numbers", "double"]
    assert not {"fetched", "total"} & go(c, with_weights, stop_after="double").keys()
    assert not list(tmp_path.glob("fetched/*"))
    assert go(c, with_weights, stop_after="fetched") == {"fetched": "Completed"}


def test_what_is_fetched_may_be_fetched_after_the_start(tmp_path: Path) -> None:
    """A data set was made without the weights; the training that starts from it gets them."""
    c = config(tmp_path, ingest={"total": 20})
    go(c, with_weights, stop_after="double")
    first = runs.runs(Store(tmp_path))[0]["id"]
    assert go(c, with_weights, start_at="total") == {
        **{"fetched": "Completed", "numbers": "Cached", "double": "Cached"},
        "total": "Completed",
    }
    other = config(tmp_path, ingest={"total": 50}, merge={"prompts": 5})
    assert go(other, with_weights, start_at="total", reuse_run=first) == {
        "fetched": "Cached",
        "total": "Completed",
    }


@pytest.mark.parametrize(
    ("partial", "message"),
    [
        ({"start_at": "total"}, "total cannot start"),  # its inputs were never made
        ({"start_at": "nonsense"}, "is no stage of this flow; stages: numbers, double, total"),
        ({"stop_after": "nonsense"}, "stop_after: nonsense is no stage of this flow"),
        (
            {"start_at": "nonsense", "stop_after": "double"},
            "start_at: nonsense is no stage of this flow; stages: numbers, double, total",
        ),
        (
            {"start_at": "total", "stop_after": "double"},
            "stop_after: double stands before start_at: total, so nothing would run; stages: numbers, double, total",
        ),
        ({"reuse_run": "some-run"}, "needs start_at"),
        ({"reuse_run": "some-run", "start_at": "total"}, "no run some-run"),
    ],
)
def test_a_rerun_that_cannot_be_is_refused_with_what_is_missing(
    tmp_path: Path, partial: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        verdicts(config(tmp_path), **partial)


def test_reuse_run_pins_the_earlier_stages_whatever_the_configuration(tmp_path: Path) -> None:
    go(config(tmp_path, ingest={"total": 20}))
    first = runs.runs(Store(tmp_path))[0]["id"]
    other = config(tmp_path, ingest={"total": 50}, merge={"prompts": 5})
    assert verdicts(other, start_at="total", reuse_run=first)["double"] == f"pinned; of run {first}"
    states = go(other, start_at="total", reuse_run=first)
    assert states == {"total": "Completed"}
    assert len(list(tmp_path.glob("numbers/*/manifest.json"))) == 1


def test_a_lost_row_fails_the_stage(tmp_path: Path) -> None:
    def losing(run: Run) -> None:
        run(careless, numbers=run(numbers))

    state = small(config(tmp_path, ingest={"total": 20}), Partial(), losing, return_state=True)
    assert state.is_failed()
    assert not list(tmp_path.glob("careless/*/manifest.json"))


def test_a_stage_that_breaks_is_tried_again_and_cached_as_any_other(tmp_path: Path) -> None:
    def shaken(run: Run) -> None:
        run(shaky)

    assert go(config(tmp_path), shaken) == {"shaky": "Completed"}
    assert (tmp_path / "tries").read_text() == "try\ntry\n"
    assert go(config(tmp_path), shaken) == {"shaky": "Cached"}
    assert (tmp_path / "tries").read_text() == "try\ntry\n"


def test_a_mistake_of_the_users_fails_the_run_with_its_message_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refusing(run: Run) -> None:
        run(refused)

    state = small(config(tmp_path), Partial(), refusing, return_state=True)
    assert state.is_failed()
    assert state.name == "UserError", "of which alerts and exit codes know"
    assert state.message == "refused: data.json, row 3, field box: not a list; write four numbers"
    assert "Traceback" not in caplog.text
    assert (tmp_path / "tries").read_text() == "try\n", "another try would find the same"


def test_accept_lets_artifacts_stand_for_changed_code_and_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = config(tmp_path, ingest={"total": 20})
    go(c)
    monkeypatch.setattr(closure, "digest", lambda module: f"new-{module}")
    assert verdicts(c)["numbers"] == "runs; spill changed"
    store = Store(tmp_path)
    assert "spill changed" in accepting.accept(pipeline, c, store, "numbers", "moved a function", "somebody")
    outcomes = accepting.accept_all(pipeline, c, store, "moved a function", "somebody")
    assert [(o.label, o.verdict) for o in outcomes] == [
        ("numbers", "cached"),
        ("double", "accepted"),
        ("total", "accepted"),
    ]
    record = json.loads(only_file(tmp_path, "accepted/double/*").read_text())
    assert record["who"] == "somebody" and record["why"] == "moved a function (spill changed)"
    assert record["when"] > 0
    assert all(v.startswith("cached; accepted for this code") for v in verdicts(c).values())
    assert set(go(c).values()) == {"Cached"}


def test_a_plan_for_programs_has_keys_reasons_and_times(tmp_path: Path) -> None:
    c = config(tmp_path, ingest={"total": 20})
    go(c)
    more = config(tmp_path, ingest={"total": 20}, expand={"seed": 3})
    numbers_, double_, total_ = (p.as_json() for p in plan(pipeline, more, Partial(), Store(tmp_path)))
    assert numbers_["cached"] and numbers_["key"] and numbers_["expected_seconds"] == 0
    assert not double_["cached"] and double_["reasons"] == ["config seed: 0 -> 3"]
    assert double_["key"] != only_file(tmp_path, "double/*/manifest.json").parent.name
    assert total_["key"] is None and total_["reasons"] == ["after double"]
    assert double_["expected_seconds"] > 0 and total_["expected_seconds"] > 0
    assert json.loads(json.dumps([numbers_, double_, total_]))
