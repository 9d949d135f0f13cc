"""The command `sif`: groups, options alike everywhere, exit codes in the help, names that are suggested."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flows.commands import main
from flows.labels import LABELS
from sifthinker.config import layers

COMMANDS = typer.main.get_group(main.app).commands
# Commands that neither read a configuration nor a store.
WITHOUT_STORE = {"init", "join", "import-ledger", "scenes", "frame", "bench"}
WIDE = {"COLUMNS": "400", "TERM": "dumb"}


def said(arguments: list[str], cwd: Path) -> tuple[int, str]:
    """Exit code and standard error of the command as users start it, in a process of its own."""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-m", "flows", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_every_command_belongs_to_a_group_and_none_to_two() -> None:
    grouped = [command for group in main.GROUPS.values() for command in group]
    assert len(grouped) == len(set(grouped)) == len(COMMANDS)
    shown = CliRunner().invoke(main.app, ["--help"], env=WIDE).output
    assert [group for group in main.GROUPS if group not in shown] == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_help_says_the_exit_codes(name: str) -> None:
    shown = CliRunner().invoke(main.app, [name, "--help"], env=WIDE).output
    assert "exit codes" in shown.lower()


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - WITHOUT_STORE))
def test_every_command_about_a_store_takes_it_by_option_and_by_configuration(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert {"--store", "--config"} <= options


@pytest.mark.parametrize("name", ["run", "plan", "accept", "ablation"])
def test_the_names_of_stages_and_configurations_are_listed(name: str) -> None:
    shown = " ".join(CliRunner().invoke(main.app, [name, "--help"], env=WIDE).output.split())
    assert f"Stages: {', '.join(LABELS)}." in shown
    assert ", ".join(layers.names()) in shown


def test_the_version_is_printed() -> None:
    done = CliRunner().invoke(main.app, ["--version"])
    assert done.exit_code == 0 and done.output.startswith("sif 0.")


def test_the_store_of_a_configuration_is_the_one_that_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    (tmp_path / "here").mkdir()
    file.write_text(f"name: mine\nscenes: {{}}\nstore: {tmp_path / 'here'}\n", encoding="utf-8")
    done = CliRunner().invoke(main.app, ["status", "--config", str(file)])
    assert done.exit_code == 0 and "no runs yet" in done.output


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--config", "demmo"], "did you mean 'demo'?"),
        (["plan", "--stop-after", "subst"], "--stop-after: there is no stage subst; did you mean 'subset'?"),
        (["run", "--refresh", "nonsense"], "--refresh: there is no stage nonsense"),
        (["rnu"], "Did you mean 'run'?"),
        (["status"], "store artifacts: no such folder"),
    ],
)
def test_a_wrong_name_is_refused_with_a_suggestion_and_leaves_nothing(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    code, error = said(arguments, tmp_path)
    assert code == 2 and message in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
