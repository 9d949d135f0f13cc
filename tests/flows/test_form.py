"""The forms of the UI: what they become, that a retry keeps it, and what a run is called."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import coolname
import jsonschema
import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.exceptions import FailedRun
from prefect.utilities.callables import parameter_schema

from flows import form, run_names
from flows.ablation import ablation
from flows.nightly import nightly
from flows.reproduce import reproduce
from flows.stage import stage
from sifthinker.config import Config, as_yaml, assignments, layers, load, load_text, parse
from sifthinker.core.errors import UserError
from tasks.runtime import end_states
from tasks.runtime.pipeline import Partial

FILES = sorted(layers.CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("whole", [True, False])
def test_a_configuration_is_the_same_after_it_was_written_and_read(file: Path, whole: bool) -> None:
    first = load(file, {"annotate.api.model": "1e5", "name": "x", "retry.passes": [{"prompt": "a\nb: #c "}]})
    text = as_yaml(first, whole)
    assert load_text(text, {}, "config") == first
    assert as_yaml(load_text(text, {}, "config"), whole) == text
    assert parse(json.loads(first.model_dump_json()), "kept") == first


def test_a_form_names_a_configuration_or_holds_one_that_may_extend_a_name() -> None:
    assert load_text(" smoke\n", {"grpo.learning_rate": 2e-5}, "config").grpo.learning_rate == 2e-5
    pasted = "extends: smoke\nname: mine\nscenes: {rows: 7}\n"
    found = load_text(pasted, {}, "config")
    assert (found.name, found.scenes and found.scenes.rows, found.sft) == (
        "mine",
        7,
        load(layers.named("smoke")).sft,
    )


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("smok", "", "config: there is no configuration named 'smok'; did you mean 'smoke'?"),
        ("/etc/passwd", "", "config: give the name of a configuration (ablation, "),
        ("flows/configs/smoke.yaml", "", "config: give the name of a configuration"),
        ("smoke.yaml", "", "config: there is no configuration named 'smoke.yaml'"),
        (
            "extends: /etc/passwd\nname: x",
            "",
            "config: line 1: extends: there is no configuration named '/etc",
        ),
        ("extends: ../smoke.yaml", "", "config: line 1: extends: there is no configuration named '../smoke"),
        ("extends: [smoke, demo]", "", "config: line 1: extends: must be the name of a configuration"),
        (
            "extends: smoke\n\ngrpo: {learning_rte: 1}",
            "",
            "config: line 3: grpo.learning_rte: there is no such",
        ),
        ("name: [", "", "config: line 1, column 8: not YAML"),
        ("smoke", "grpo.learning_rate", "set grpo.learning_rate: write FIELD=VALUE"),
        ("smoke", "grpo.learning_rate=fast", "--set grpo.learning_rate: must be a number, found 'fast'"),
        ("smoke", "grpo.learning_rate=[", "set grpo.learning_rate"),
    ],
)
def test_a_mistake_is_named_with_its_field(text: str, settings: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load_text(text, assignments(form.lines(settings), "set"), "config")


def test_a_machine_has_configurations_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours.yaml").write_text("extends: smoke\nname: ours\n")
    monkeypatch.setenv(layers.OWN, str(tmp_path))
    assert load_text("ours", {}, "config").name == "ours"
    assert {"ours", "smoke"} <= set(layers.names())


@pytest.mark.parametrize("of", [reproduce, nightly, ablation, stage], ids=lambda of: str(of.name))
def test_no_form_has_nested_sections(of: Any) -> None:
    schema = parameter_schema(of).model_dump()
    assert len(schema["properties"]) <= 7
    assert "Config" not in schema["definitions"]


@pytest.mark.parametrize("of", [reproduce, nightly, ablation], ids=lambda of: str(of.name))
def test_a_form_can_be_sent_as_it_is(of: Any) -> None:
    schema = parameter_schema(of).model_dump()
    assert schema["required"] == []
    config = schema["properties"]["config"]
    assert config["default"] in layers.names() and config["minLength"] == 1


def test_the_server_refuses_settings_that_are_none_and_such_as_look_like_secrets() -> None:
    schema = parameter_schema(reproduce).model_dump()["properties"]["set"]
    refused = jsonschema.Draft202012Validator(schema).iter_errors
    for good in (
        "",
        "\n",
        "grpo.learning_rate=2e-5\n\n sft.epochs = 1",
        "annotate.api.api_key_env=MY_KEY",
        "a=b=c",
    ):
        assert not list(refused(good)), good
    for bad in ("grpo", "a=1\ngrpo", "annotate.api.api_key=sk-1", "x.password=1", "API_KEY=1", "=1", "a b=1"):
        assert list(refused(bad)), bad
    assert list(refused("a=1\n" * 200 + "b")), "in no time"


def test_the_part_of_a_run() -> None:
    assert form.part(form.BEGINNING, form.END, [], " ") == Partial()
    assert form.part("grpo", "evaluate", ["sft"], "demo") == Partial("grpo", "evaluate", ("sft",), "demo")


@pytest.mark.parametrize(
    ("settings", "part", "name"),
    [
        ("", Partial(), "demo"),
        ("grpo.learning_rate=3e-05", Partial(start_at="grpo"), "demo grpo.learning_rate=3e-05 from grpo"),
        ("store=/tmp/x\nname=demo\nplacement=pools\nannotate.api.timeout=3", Partial(), "demo"),
        ("a=1\nb=2\nc=3\nd=4", Partial(stop_after="sft"), "demo a=1 b=2 +2 more until sft"),
        (f"annotate.prompt={'x' * 100}", Partial(), f"demo annotate.prompt={'x' * 43}…"),
        ("", Partial(refresh=("sft", "grpo")), "demo again sft, grpo"),
    ],
)
def test_a_run_is_called_after_what_it_is(settings: str, part: Partial, name: str) -> None:
    config = load(layers.named("demo"))
    assert run_names.of_part(config, form.lines(settings), part) == name


def test_names_that_prefect_makes_are_told_from_names_that_people_type() -> None:
    made = [coolname.generate_slug(2) for _ in range(500)]
    made += [
        "mu815-antede-boundary",
        "mu2-ursae-majoris",
        "omega-rigel-h",
        "tau-chinaha",
        "mu-canis-majoris",
        "Awesome-Frog",
    ]
    assert [name for name in made if not run_names.generated(name)] == []
    typed = [
        "lr-3e-5-try",
        "beta-test",
        "demo",
        "demo-2",
        "alpha",
        "Small-Run-2",
        "nightly 2026-11-29",
        "gamma-run-two",
    ]
    assert [name for name in typed if run_names.generated(name)] == []


def test_the_settings_of_a_command_make_its_name_and_nothing_else() -> None:
    """They are in its configuration already: to set them again changes nothing, and one over several lines is left out."""
    resolved = load(layers.named("smoke"), {"grpo.learning_rate": 2e-5, "evaluate.limit": 3})
    given = form.settings(["grpo.learning_rate=2e-5", "annotate.prompt=a\nb"], 3)
    assert given == "grpo.learning_rate=2e-5\nevaluate.limit=3"
    again = load_text(form.text(resolved), assignments(form.lines(given), "set"), "config")
    assert again == resolved


def artifacts(run: Any) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        return {str(found.key): found.data for found in client.read_artifacts(artifact_filter=of_run)}


def test_a_retry_takes_the_configuration_of_the_first_attempt(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, seen = tmp_path / "ours.yaml", list[Config]()
    file.write_text("extends: smoke\nname: ours\nseed_: 1\n")
    monkeypatch.setenv(layers.OWN, str(tmp_path))

    @flow(retries=2)
    def probe(config: str, given: str) -> None:
        if len(seen) == 0 and "seed_" in file.read_text():
            with pytest.raises(UserError, match="seed_: there is no such field"):
                form.configuration(config, given)
            file.write_text(
                "extends: smoke\nname: ours\n"
            )  # mended: a first attempt that was refused kept nothing
            raise RuntimeError("again")
        seen.append(form.configuration(config, given))
        file.write_text("extends: smoke\nname: theirs\n")
        if len(seen) == 1:
            raise RuntimeError("again")

    state = probe("ours", "grpo.learning_rate=2e-5", return_state=True)
    assert state.is_completed(), state.message
    assert [config.name for config in seen] == ["ours", "ours"] and seen[0] == seen[1]
    shown = artifacts(state.state_details.flow_run_id)[form.KEPT]
    assert "`grpo.learning_rate=2e-5`" in shown and "`ours`" in shown
    values = yaml.safe_load(shown.partition("````yaml\n")[2].rpartition("````")[0])
    assert values["grpo"]["learning_rate"] == 2e-5 and values["name"] == "ours"


@pytest.mark.parametrize(
    ("parameters", "message", "name"),
    [
        (
            {"config": "dem"},
            "config: there is no configuration named 'dem'; did you mean 'demo'?",
            "refused: dem",
        ),
        (
            {"config": "extends: smoke\ngrpo: {{learning_rte: 1}}\n"},
            "grpo.learning_rte: there is no such field",
            "refused: pasted YAML",
        ),
        (
            {"config": "smoke", "set": "grpo.learning_rte=1"},
            "--set grpo.learning_rte: there is no such field",
            "refused: smoke grpo.learning_rte=1",
        ),
        ({"config": "smoke", "set": "store={store}", "reuse_run": "x"}, "reuse_run: needs start_at", "smoke"),
    ],
)
def test_a_mistake_in_a_form_is_the_runs_final_state_without_a_traceback(
    prefect_server: str, tmp_path: Path, parameters: dict[str, str], message: str, name: str
) -> None:
    given = {name: value.format(store=tmp_path) for name, value in parameters.items()}
    state = reproduce(**given, return_state=True)
    assert state.is_failed() and message in str(state.message)
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(state.state_details.flow_run_id)
        of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
        logged = "\n".join(line.message for line in client.read_logs(of_run))
    assert run.run_count == 1 and "Traceback" not in logged
    assert run.name == name


def test_a_typed_name_stays_and_another_one_says_what_the_run_is(prefect_server: str, tmp_path: Path) -> None:
    given = {"config": "smoke", "set": f"store={tmp_path}\nscenes.rows=2", "stop_after": "scenes"}
    names = []
    for named in (reproduce.with_options(flow_run_name="lr-3e-5-try"), reproduce):
        state = named(**given, return_state=True)
        assert state.is_completed(), state.message
        with get_client(sync_client=True) as client:
            names.append(client.read_flow_run(state.state_details.flow_run_id).name)
    assert names == ["lr-3e-5-try", "smoke scenes.rows=2 until scenes"]
    records = [json.loads(file.read_text())["name"] for file in (tmp_path / "runs").glob("*.json")]
    assert sorted(records) == sorted(names)


def test_a_failed_end_is_told_once_and_other_errors_keep_their_traceback() -> None:
    end_states.tell_once()
    logger = logging.getLogger("prefect.flow_runs")

    def said(error: Exception, message: str) -> bool:
        because = (type(error), error, None)
        return bool(logger.filter(logger.makeRecord(logger.name, logging.ERROR, "", 0, message, (), because)))

    engine = "Engine execution exited with unexpected exception"
    assert not said(FailedRun("config: no such name"), engine)
    assert said(FailedRun("config: no such name"), "another message")
    assert said(RuntimeError("a bug"), engine)
