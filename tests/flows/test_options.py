"""The options that the commands share."""

import pytest
from typer.testing import CliRunner

from flows.commands import main
from flows.commands.options import load


def test_a_limit_is_short_for_the_field_and_stronger_than_it() -> None:
    assert load("smoke", ["evaluate.limit=7"]).evaluate.limit == 7
    assert load("smoke", ["evaluate.limit=7"], 3).evaluate.limit == 3
    assert load("smoke", []).evaluate.limit is None


@pytest.mark.parametrize("command", ["run", "plan", "nightly", "ablation"])
def test_every_command_that_evaluates_has_a_limit_of_one_question_at_least(command: str) -> None:
    result = CliRunner().invoke(main.app, [command, "--limit", "0"])
    assert result.exit_code == 2 and "--limit" in result.output
