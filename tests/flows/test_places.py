"""What a command shall write, and its numbers: a mistake is one line and exit code 2, before any work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flows.commands import main, places
from sifthinker.core.errors import UserError

COMMANDS = typer.main.get_group(main.app).commands
# How each command that writes a folder or a file is told of it.
FOLDERS = {
    "ask": ["photo.jpg", "What is it?", "--out"],
    "depth": ["pictures", "--out"],
    "export": [],
    "push": ["--to"],
    "scenes": ["--rows", "1", "--out"],
    "ablation": ["--keep"],
}
FILES = {
    "init": [],
    "lineage": ["--out"],
    "chains": ["--out"],
    "compare": ["a", "b", "--out"],
    "bench": ["--out"],
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://192.0.2.1:9/api")  # nothing starts, whatever is let through
    (tmp_path / "file.yaml").touch()
    (tmp_path / "folder.yaml").mkdir()
    return tmp_path


def called(name: str, *arguments: str) -> Any:
    return CliRunner().invoke(main.app, [name, *arguments])


def test_every_option_that_names_a_place_to_write_is_in_these_tables() -> None:
    names = {"out", "keep"}
    found = {name for name, command in COMMANDS.items() if names & {one.name for one in command.params}}
    assert found <= FOLDERS.keys() | FILES.keys()


@pytest.mark.parametrize(
    ("name", "place", "said"),
    [
        *((name, "./file.yaml", "is a file; name a folder") for name in FOLDERS),
        *((name, "./folder.yaml", "is a folder; name a file in it") for name in FILES),
        *(
            (name, "./file.yaml/x/y.yaml", "cannot be made, as file.yaml is no folder")
            for name in FOLDERS | FILES
        ),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_any_work(
    name: str, place: str, said: str, here: Path
) -> None:
    done = called(name, *(FOLDERS | FILES)[name], place)
    assert isinstance(done.exception, UserError) and said in str(done.exception)
    assert sorted(path.name for path in here.iterdir()) == ["file.yaml", "folder.yaml"]


def test_a_folder_without_the_right_to_write_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, whom the system refuses nothing."""
    monkeypatch.setattr(os, "access", lambda path, mode: path != here)
    for folder in (True, False):
        with pytest.raises(
            UserError, match=rf"--out: .*new.png cannot be written: .* no right to write in {here}$"
        ):
            places.check("--out", here / "new.png", folder)


@pytest.mark.parametrize(
    "arguments",
    [
        ["scenes", "--out", "made", "--rows", "0"],
        ["scenes", "--out", "made", "--rows", "1", "--benchmark-rows", "1"],
    ],
    ids=" ".join,
)
def test_a_number_out_of_range_is_wrong_usage(arguments: list[str]) -> None:
    done = called(*arguments)
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit)
    assert "greater than or equal" in " ".join(done.output.split())
