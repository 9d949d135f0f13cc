"""The nightly flow on a real Prefect server: its ends, told apart by name; replies come from a made-up stage."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.objects import State
from prefect.flow_engine import run_flow
from prefect.states import AwaitingRetry, Crashed, Failed, Pending, Running, Scheduled
from typer.testing import CliRunner

from flows import form
from flows import nightly as flow
from flows.commands import main
from infra import alert_triggers
from sifthinker.core.errors import UserError
from sifthinker.evaluation import history
from sifthinker.store import aliases
from sifthinker.store.artifacts import Store
from tests.flows import made_up_night
from tests.flows.made_up_night import RIGHT, SILENT, WRONG, command, model, run, settings

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up_night.install(monkeypatch)


def test_a_night_passes_is_replayed_and_asks_again_on_request(tmp_path: Path) -> None:
    store = Store(tmp_path)
    aliases.pin(store, "promoted", model(store, "aa", RIGHT), "ada", "good")
    aliases.pin(store, "baseline", model(store, "bb", [0.0, *RIGHT[1:]]), "ada", "good")
    first, again, fresh = run(settings(store)), run(settings(store)), run(settings(store), fresh=True)
    assert [state.name for state in (first, again, fresh)] == ["Completed"] * 3
    rows = history.read(tmp_path / "history")
    assert [row["replayed"] for row in rows if row["benchmark"] == "vstar"] == [False, True, False]
    assert len({row["evaluation"] for row in rows}) == 2  # a fresh night has an evaluation of its own
    assert len(store.manifests("replies")) == 3  # and the baseline is not asked again
    assert Path(first.result()).is_file()


def test_a_regression_fails_the_run_by_name_with_a_table(tmp_path: Path) -> None:
    store = Store(tmp_path)
    aliases.pin(store, "promoted", model(store, "aa", RIGHT), "ada", "good")
    aliases.pin(store, "baseline", model(store, "aa", RIGHT), "ada", "good")
    assert run(settings(store)).is_completed()
    aliases.pin(store, "promoted", model(store, "bb", WRONG), "bob", "looks better")
    state = run(settings(store))
    assert (state.type.value, state.name) == ("FAILED", "Regressed")
    assert "vstar fell from 60.0 to 40.0 against the last good night and the baseline" in str(state.message)
    with get_client(sync_client=True) as client:
        of_run = ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
        [artifact] = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=of_run, key=ArtifactFilterKey(any_=["night"]))
        )
    # Two benchmarks; the last good night and the baseline are one evaluation.
    shown = str(artifact.data)
    assert shown.count("**regressed**") == 2
    assert shown.count("vstar fell from 60.0 to 40.0 against the last good night and the baseline") == 1


def test_what_fails_after_the_verdict_does_not_change_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's record is shared last; a bucket that is away then must not make a fall look like a night that did not run."""
    store = Store(tmp_path)
    aliases.pin(store, "promoted", model(store, "aa", RIGHT), "ada", "good")
    assert run(settings(store)).is_completed()
    aliases.pin(store, "promoted", model(store, "bb", WRONG), "bob", "looks better")
    carry_out = flow.carry_out

    def cut_off(*arguments: Any) -> None:
        carry_out(*arguments)
        raise UserError("s3://bucket: cannot be reached")

    monkeypatch.setattr(flow, "carry_out", cut_off)
    state = run(settings(store))
    assert state.name == "Regressed", state.message
    last = history.read(tmp_path / "history")[-1]
    assert last["outcome"] == "regressed"
    said = json.loads((tmp_path / "nights" / last["night"] / "outcome.json").read_text())
    assert said["outcome"] == "regressed"


def test_a_quick_look_at_a_model_that_writes_no_chains_is_no_passed_night(tmp_path: Path) -> None:
    """Its ten questions cannot fail; the whole night after it regresses against the good one."""
    store = Store(tmp_path / "store")
    for name in ("promoted", "baseline"):
        aliases.pin(store, name, model(store, "aa", RIGHT), "ada", "good")
    code, said = command(settings(store), tmp_path)
    assert code == 0 and "Completed: 2 comparisons, none worse beyond its margin; a fall of" in said
    aliases.pin(store, "promoted", model(store, "bb", SILENT), "bob", "looks better")
    code, said = command(settings(store), tmp_path, "--limit", "10")
    assert code == 4
    assert (
        "Inconclusive: pope fell from 100.0 to 0.0 against the last good night and the baseline (beyond its "
        "margin, not significant); vstar fell from 100.0 to 0.0"
    ) in said
    assert "100 % of the replies to vstar are unparsable" in said
    assert said.count("10 / 0 of 10") == said.count("fell, could not have failed") == 2
    assert "finds: the smallest fall" in said
    code, said = command(settings(store), tmp_path)
    assert code == 1
    assert "Regressed: pope fell from 60.0 to 0.0 against the last good night and the baseline" in said
    assert [r["outcome"] for r in history.read(store.root / "history")][::2] == [
        "passed",
        "inconclusive",
        "regressed",
    ]


def test_an_inconclusive_quick_look_is_followed_by_the_full_one_and_a_plan_says_what_each_could_find(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "store")
    aliases.pin(store, "promoted", model(store, "aa", RIGHT), "ada", "good")
    tiers = {"quick": {"limit": 10, "then": "nightly"}, "nightly": {}}
    of = settings(store, nightly={"tiers": tiers})
    assert command(of, tmp_path)[0] == 0
    code, said = command(of, tmp_path, "--tier", "quick")
    assert code == 0
    assert "found in any of them, in 80% of the cases (tier nightly, after quick inconclusive)" in said
    assert said.count("report ") == 2 and said.count(" of 10 ") == said.count(" of 100 ") == 2
    rows = history.read(store.root / "history")
    nights_held = list(dict.fromkeys((row["night"], row["outcome"], row["limit"]) for row in rows))
    assert [(outcome, limit) for _, outcome, limit in nights_held] == [
        ("passed", None),
        ("inconclusive", 10),
        ("passed", None),
    ]
    assert nights_held[2][0] == f"{nights_held[1][0]}-nightly"
    level = json.loads((store.root / "nights" / nights_held[2][0] / "outcome.json").read_text())["level"]
    assert level == 0.0005  # two looks share the night's level
    with pytest.raises(UserError, match=r"there is no weakly; nightly\.tiers has: quick, nightly"):
        flow.chosen(of, None, None, False, "weakly")
    # A plan asks nothing: the benchmarks are in the configuration, their replies in the store.
    files = tmp_path / "vstar"
    files.mkdir()
    benchmark = {"name": "vstar", "path": str(files), "images": str(files)}
    planned = settings(
        store, nightly={"tiers": tiers}, evaluate={"server": "transformers", "benchmarks": [benchmark]}
    )
    code, said = command(planned, tmp_path, "--plan", "--tier", "quick")
    assert code == 0 and "last good night" in said and " 10 " in said and "none" in said
    assert "Tier quick -> nightly; level 0.0005 a look" in said
    code, said = command(planned, tmp_path, "--plan", "--tier", "quick", "--json")
    assert code == 0 and {(row["benchmark"], row["n"]) for row in json.loads(said)} == {("vstar", 10)}
    assert history.read(store.root / "history") == rows


def test_a_fall_that_is_not_significant_warns_by_a_state_and_an_exit_code_of_its_own(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    aliases.pin(store, "promoted", model(store, "aa", RIGHT), "ada", "good")
    assert command(settings(store), tmp_path)[0] == 0
    aliases.pin(store, "promoted", model(store, "bb", [0.0] * 4 + RIGHT[4:]), "bob", "looks better")
    state = run(settings(store))
    assert (state.type.value, state.name) == ("COMPLETED", "Warned")
    assert "vstar fell from 60.0 to 56.0 against the last good night" in str(state.message)
    code, said = command(settings(store), tmp_path)
    assert code == 5 and "Warned: pope fell from 60.0 to 56.0" in said
    aliases.pin(store, "promoted", model(store, "cc", "out of memory"), "bob", "looks better")
    assert command(settings(store), tmp_path)[0] == 3


def test_every_end_that_is_not_good_has_an_exit_code_and_is_told() -> None:
    names = {*flow.FAILED.values(), flow.WARNED}
    assert names == flow.EXIT_CODES.keys() and names <= set(alert_triggers.WRONG)
    assert sorted(flow.EXIT_CODES.values()) == [1, 3, 4, 5]
    shown = CliRunner().invoke(main.app, ["nightly", "--help"], env={"COLUMNS": "200"}).output
    assert all(f"{code} " in shown for code in flow.EXIT_CODES.values())


@pytest.mark.parametrize(
    ("content", "sections", "message"),
    [
        ("the server ended with status 1", {}, "promoted could not run: evaluate-promoted: the server ended"),
        (
            RIGHT,
            {"evaluate": {"server": "http://127.0.0.1:9/v1"}},
            "no list of models at http://127.0.0.1:9/v1",
        ),
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
    assert {row["outcome"] for row in history.read(tmp_path / "history")} == {"not-run"}


def test_a_night_that_starts_too_late_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(UTC) + timedelta(hours=13)

    monkeypatch.setattr(flow, "datetime", Later)
    state = run(settings(Store(tmp_path)))
    assert (state.name, state.type.value) == ("Skipped", "COMPLETED")
    assert not (tmp_path / "history").exists()


RETRY = AwaitingRetry()  # what the UI's button proposes, and a worker whose machine is drained


@pytest.mark.parametrize(
    ("states", "name"),
    [
        ([Pending()], "Skipped"),
        ([Pending(), Scheduled(name="AwaitingConcurrencySlot"), Pending()], "Skipped"),
        ([Pending(), Running(), Failed(name="NotRun"), RETRY, Pending()], "Completed"),
        ([Pending(), Running(), RETRY, Pending()], "Completed"),
        ([Pending(), Crashed(message="It did not begin within 100 s"), RETRY, Pending()], "Completed"),
    ],
)
def test_a_night_that_is_tried_again_is_evaluated_however_late(
    tmp_path: Path, states: list[State[Any]], name: str
) -> None:
    store = Store(tmp_path)
    aliases.pin(store, "promoted", model(store, "aa", RIGHT), "ada", "good")
    due = datetime.now(UTC) - timedelta(hours=13)
    parameters = {"config": form.text(settings(store))}
    with get_client(sync_client=True) as client:
        # A name of its own: in ours, `make deploy` keeps what people have set.
        deployment = client.create_deployment(
            client.create_flow(flow.nightly), "tried again", parameters=parameters
        )
        made = client.create_flow_run_from_deployment(deployment, state=Scheduled(scheduled_time=due))
        for state in states:
            client.set_flow_run_state(made.id, state)
        begun = client.read_flow_run(made.id)
    assert begun.expected_start_time == due, "a Retry keeps it"
    ended = run_flow(flow.nightly, begun, parameters=parameters, return_type="state")
    assert ended.name == name, ended.message
    assert (tmp_path / "history").exists() == (name == "Completed")
