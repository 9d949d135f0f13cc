"""`sif accept` and `sif plan --json` on the command line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.commands.main import app
from sifthinker.core.errors import UserError


def sif(*arguments: str, store: Path) -> str:
    done = CliRunner().invoke(app, [*arguments, "--config", "smoke", "--set", f"store={store}"])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one stage, or give --all"),
        (["sft", "--all"], "name one stage, or give --all"),
        (["sft", "--ablation"], "--ablation goes with --all"),
        (["nonsense"], "nonsense is no stage; stages: scenes, "),
    ],
)
def test_a_wrong_call_is_refused_with_what_to_do(tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sif("accept", *arguments, "--why", "because", store=tmp_path)


@pytest.mark.parametrize(("options", "stages"), [((), 15), (("--ablation",), 4 + 2 * 12 + 7 * 14)])
def test_an_empty_store_has_nothing_to_accept(tmp_path: Path, options: tuple[str, ...], stages: int) -> None:
    said = sif("accept", "--all", *options, "--why", "because", store=tmp_path)
    assert not list(tmp_path.glob("accepted/*/*"))
    assert f"0 accepted, 0 in the store already, {stages} to be run" in said


def test_a_plan_for_programs_is_json_with_every_stage(tmp_path: Path) -> None:
    planned = json.loads(sif("plan", "--json", store=tmp_path))
    assert [stage["stage"] for stage in planned][:2] == ["scenes", "depth-weights"]
    assert planned[0]["reasons"] == ["never made"] and not planned[0]["cached"] and planned[0]["key"]
    assert planned[-1]["key"] is None and planned[-1]["expected_seconds"] is None
