"""`sif join`: which trainings of a store it takes part in, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from flows.commands.join import join
from sifthinker.core.errors import UserError
from tasks.runtime import following, nodes


def waiting(store: Path, *stages: str) -> None:
    for stage in stages:
        (store / stage / "key.work").mkdir(parents=True)
        (store / stage / "key.work" / nodes.FILE).write_text("{}")


def test_a_store_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is no folder"):
        join(tmp_path / "nowhere")


def test_the_file_of_a_killed_run_is_passed_over_and_the_next_training_is_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting(tmp_path, "grpo", "sft")
    asked = []

    def joined(work: Path, root: Path, wait: float, log: Any, label: str) -> None:
        asked.append((label, root))
        if label == "grpo":
            raise nodes.NoFirstNode("no sign of life")

    monkeypatch.setattr(nodes, "join", joined)
    join(tmp_path, once=True)
    assert asked == [("grpo", tmp_path), ("sft", tmp_path)]


@pytest.mark.parametrize("error", [following.ProgramFailed("node b is lost"), UserError("no such colour")])
def test_a_training_that_fails_is_told_and_only_ends_the_command_that_was_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    waiting(tmp_path, "grpo", "sft")

    def joined(work: Path, root: Path, wait: float, log: Any, label: str) -> None:
        if label == "sft":
            raise KeyboardInterrupt  # somebody ends the command
        raise error

    monkeypatch.setattr(nodes, "join", joined)
    with pytest.raises(typer.Exit):
        join(tmp_path, once=True)
    with pytest.raises(KeyboardInterrupt):
        join(tmp_path, once=False)
    assert str(error) in capsys.readouterr().out
