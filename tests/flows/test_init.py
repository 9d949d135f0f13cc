"""`sif init`: what it writes is valid as it is, and it never replaces a file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.commands.init import FOLDER, STARTS, text_of
from flows.commands.main import app
from sifthinker import scenes
from sifthinker.config import Scenes, layers, load


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_start_is_in_the_table_and_has_a_file() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(STARTS)


@pytest.mark.parametrize("like", STARTS)
def test_what_is_written_is_valid_as_it_is(here: Path, like: str) -> None:
    made = CliRunner().invoke(app, ["init", "my run.yaml", "--like", like])
    assert made.exit_code == 0, made.output
    found = load(here / "my run.yaml")
    assert found.name == "my-run"
    text = (here / "my run.yaml").read_text()
    assert ("Put your rows and pictures at data/mine.jsonl and data/images" in made.output) == (
        "data/mine.jsonl" in text and "data/images" in text
    )
    assert "NAME" not in text and "THIS" not in text and text.count("#") > 4


@pytest.mark.parametrize("name", ["no", "null", "1.5", "1e3", "12", "2026-01-01", "a.b"])
def test_a_name_that_yaml_takes_for_another_value_stays_a_name(here: Path, name: str) -> None:
    made = CliRunner().invoke(app, ["init", f"{name}.yaml"])
    assert made.exit_code == 0, made.output
    assert load(here / f"{name}.yaml").name == name


@pytest.mark.parametrize("like", STARTS)
def test_its_plan_works_and_names_the_files_that_are_not_there(here: Path, like: str) -> None:
    CliRunner().invoke(app, ["init", "mine.yaml", "--like", like])
    planned = CliRunner().invoke(app, ["plan", "--config", "mine.yaml"])
    assert planned.exit_code == 0, planned.output
    assert ("mine.path: data/mine.jsonl does not exist" in planned.output) == (like == "cpu")
    assert "no endpoint is named" not in planned.output


def test_own_rows_on_a_cpu_need_their_files_and_nothing_else(here: Path) -> None:
    CliRunner().invoke(app, ["init", "mine.yaml"])
    looked = CliRunner().invoke(app, ["data", "--config", "mine.yaml"])
    assert looked.exit_code == 1
    assert (
        "2 of 3 are there. Put mine where the configuration says, or correct the paths in it."
        in looked.output
    )
    scenes.write(here / "made", Scenes(rows=8, benchmark_rows=2, benchmarks=("vstar",)))
    (here / "data").mkdir()
    shutil.copy(here / "made" / "viscot.json", here / "data" / "mine.jsonl")
    shutil.copytree(here / "made" / "images", here / "data" / "images")
    looked = CliRunner().invoke(app, ["data", "--config", "mine.yaml"])
    assert looked.exit_code == 0 and "Put mine where" not in looked.output
    planned = CliRunner().invoke(app, ["plan", "--config", "mine.yaml", "--stop-after", "subset"])
    assert planned.exit_code == 0 and "lacks" not in planned.output


def test_a_file_that_is_there_is_never_replaced(here: Path) -> None:
    (here / "mine.yaml").write_text("name: precious")
    made = CliRunner().invoke(app, ["init", "mine.yaml"])
    assert made.exit_code != 0 and "exists and is left as it is" in str(made.exception)
    assert (here / "mine.yaml").read_text() == "name: precious"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine.yaml", "--like", "papr"], "did you mean 'paper'? Known: cpu, demo"),
        (["mine.txt"], "ends in .yaml"),
        (["a\nb.yaml"], "cannot be printed"),
        (["a\udce9.yaml"], "cannot be printed"),
        (["nowhere/mine.yaml"], "nowhere is no folder"),
        (["/dev/null/mine.yaml"], "/dev/null is no folder"),
        ([f"{'long' * 100}.yaml"], "File name too long"),
    ],
)
def test_what_cannot_be_written_is_refused(here: Path, arguments: list[str], said: str) -> None:
    made = CliRunner().invoke(app, ["init", *arguments])
    assert said in str(made.exception)
    assert not list(here.iterdir())


def test_the_start_for_the_paper_is_the_papers_run() -> None:
    file = Path("paper.yaml")
    text = text_of("paper", file)
    assert "name: paper" in text
    assert layers.named("paper").is_file()
