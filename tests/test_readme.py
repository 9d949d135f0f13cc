"""The READMEs are the architecture documents: they name every file, and what they tell people to type exists and runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperOption

from flows.commands.init import text_of as started_from
from flows.commands.main import app
from sifthinker import scenes
from sifthinker.config import Scenes, Source, load
from sifthinker.core.records import Reject, Sample
from sifthinker.data.sources import SOURCES

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("sifthinker", "tasks", "flows", "infra", "docker")
# Folders whose README has a line for each of their Python files. Folders of tests mirror the rooms and need none.
FOLDERS = sorted(
    {
        file.parent.relative_to(ROOT).as_posix()
        for room in ("sifthinker", "tasks", "flows", "infra")
        for file in (ROOT / room).rglob("*.py")
    }
    | {"docker", "infra/kubernetes", "flows/configs", "tests", "tests/benchmarks"}
)
# A line of a README's list of files: "* `boxes.py`: what it holds". Folders end in "/".
LINE = re.compile(r"^\* `([\w.-]+(?:/|\.\w+))`: \S", re.MULTILINE)
DOCUMENTS = sorted(
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    + [file for room in (*ROOMS, "tests") for file in (ROOT / room).rglob("README.md")]
)
# Model cards say how the weights were made, in the layout of that day. They are part of the weights' digest.
CARDS = [ROOT / "sifthinker/models/miniature" / name / "README.md" for name in ("policy", "depth")]
# Commands of the root README that its test does not run, by their beginning, and why.
NOT_RUN = {
    "make demo": "takes minutes; tests/flows/test_demo.py runs it",
    "make test": "runs this test",
    "make .venv/ready": "installs",
    "sif run --config mine.yaml #": "takes minutes; tests/flows/test_demo.py runs as much",
    "sif data --config paper": "ends with 1 where data is missing; tests/upkeep/test_inputs.py does it",
    "sif doctor --config paper": "finds no GPUs here, and says so",
    "sif run --config paper": "needs a key, GPUs and the data sets",
    "sif run --start-at grpo": "needs the demo's artifacts; tests/flows/test_end_to_end.py does it",
    "sif run --stop-after subset": "needs minutes; tests/flows/test_end_to_end.py does it",
    "sif promote": "needs a trained model; tests/flows/test_nightly.py does it",
    "sif nightly": "needs a trained model; tests/flows/test_nightly.py does it",
    "sif compare": "needs evaluated runs; tests/flows/test_compare.py does it",
}


def text_of(folder: str) -> str:
    file = ROOT / folder / "README.md"
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def test_every_python_file_has_a_line_in_the_readme_of_its_folder() -> None:
    missing = [
        f"{folder}: {file.name}"
        for folder in FOLDERS
        for file in sorted((ROOT / folder).glob("*.py"))
        if file.name != "__init__.py" and file.name not in LINE.findall(text_of(folder))
    ]
    assert not missing, "add `* `NAME`: what it holds.` to the README:\n" + "\n".join(missing)


def test_every_folder_with_a_readme_has_a_line_in_the_readme_above_it() -> None:
    missing = [
        f"{parent}: {Path(folder).name}/"
        for folder in FOLDERS
        if (parent := Path(folder).parent.as_posix()) in FOLDERS
        and f"{Path(folder).name}/" not in LINE.findall(text_of(parent))
    ]
    assert not missing, "\n".join(missing)


def test_no_readme_names_a_file_that_is_gone() -> None:
    gone = [
        f"{folder}: {name}"
        for folder in FOLDERS
        for name in LINE.findall(text_of(folder))
        if not (ROOT / folder / name).exists()
    ]
    assert not gone, "remove these lines:\n" + "\n".join(gone)


def test_no_readme_names_a_file_twice() -> None:
    twice = {
        folder: names for folder in FOLDERS if len(names := LINE.findall(text_of(folder))) > len(set(names))
    }
    assert not twice


def test_the_root_readme_is_short() -> None:
    data = (ROOT / "README.md").read_bytes()
    assert data.count(b"\n") <= 150
    assert len(data) <= 12_000


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not (document.parent / link).exists()]


@pytest.mark.parametrize(
    "document",
    [file for file in DOCUMENTS if file not in CARDS],
    ids=lambda file: file.relative_to(ROOT).as_posix(),
)
def test_every_command_exists_and_has_the_options_that_it_wants(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = typer.main.get_group(app).commands
    unknown = []
    for said in typed(document):
        if found := re.match(r"make ([a-z][a-z-]*)", said):
            unknown += [said] if found[1] not in targets else []
        elif found := re.match(r"sif ([a-z][a-z-]*)", said):
            command = commands.get(found[1])
            options = {name for one in command.params for name in one.opts} if command else set()
            given = set(re.findall(r"(?<= )--?[a-z][a-z-]*", re.sub(r'"[^"]*"', "", said)))
            unknown += [said] if not command or given - options - {"--help"} else []
            if command and document.name != "CHANGELOG.md":  # which names what is new, and nobody types
                unknown += [f"{said}: lacks {name}" for name in lacking(command, said)]
        elif found := re.match(r"(?:python -m |pytest |.* pytest )", said):
            modules = re.findall(r"-m ((?:sifthinker|tests|tasks|infra)\.[\w.]*\w)(?!\S)", said)
            files = [
                f"{module.replace('.', '/')}{'/__main__' if (ROOT / module.replace('.', '/')).is_dir() else ''}.py"
                for module in modules
            ]
            files += re.findall(r"\btests/[\w/.]+(?=\s|$)", said)
            unknown += [said] if any(not (ROOT / file).exists() for file in files) else []
    assert not unknown


def lacking(command: Any, said: str) -> list[str]:
    """The options that a quoted line lacks, without which the command would refuse it. One without arguments only names it."""
    words = shlex.split(said)[2:]
    if not words or "--help" in words:
        return []
    required = [one for one in command.params if isinstance(one, TyperOption) and one.required]
    return [one.opts[0] for one in required if not set(one.opts) & set(words)]


def typed(document: Path) -> Iterator[str]:
    """What a document shows as typed: code within a line, and the lines of shell blocks, without their comments."""
    text = document.read_text(encoding="utf-8")
    for line in shell(text):
        yield line.partition(" #")[0].strip()
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)):
        yield span.removeprefix(".venv/bin/")


def shell(text: str) -> list[str]:
    """The lines of the shell blocks, with a run of blanks as one."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(r" +", " ", line) for block in blocks for line in block.splitlines() if line.strip()]


def test_what_is_not_run_is_in_the_root_readme() -> None:
    lines = shell(text_of("."))
    assert not [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)]


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_the_commands_of_the_root_readme_run_as_written(prefect_server: str, tmp_path: Path) -> None:
    """In order and in one shell, in a copy of the tree with the environment of these tests as its .venv."""
    copy = tmp_path / "clone"
    for name in (*ROOMS, "Makefile", "pyproject.toml"):
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, copy / name, ignore=ignored) if source.is_dir() else shutil.copy(source, copy)
    (copy / ".venv").symlink_to(sys.prefix)
    own_data(copy / "data", tmp_path / "scenes")
    text = text_of(".")
    commands = [line for line in shell(text) if not line.startswith(tuple(NOT_RUN))]
    assert sum(line.startswith("sif ") for line in commands) >= 6
    # The editable installation points to the tree of these tests; the copy comes before it.
    environment = {**os.environ, "PYTHONPATH": str(copy), "PREFECT_LOGGING_LEVEL": "WARNING"}
    done = subprocess.run(
        ["bash", "-euxc", "\n".join(commands)], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert (copy / "release" / "SIF-50K.json").is_file()
    assert "Traceback" not in done.stderr


def own_data(data: Path, rendered: Path) -> None:
    """Small pictures and annotations where the configuration of `sif init` looks for them, in the form that the README shows."""
    scenes.write(rendered, Scenes(rows=12, benchmark_rows=2, benchmarks=("vstar",)))
    data.mkdir()
    shutil.copytree(rendered / "images", data / "images")
    source = Source(name="made", format="viscot", path=rendered / "viscot.json", images=rendered / "images")
    samples = [
        row for row in SOURCES["viscot"](source.path, source.images, source) if isinstance(row, Sample)
    ]
    with (data / "mine.jsonl").open("w", encoding="utf-8") as file:
        for sample in samples:
            wide, high = sample.width, sample.height
            boxes = [[x1 * wide, y1 * high, x2 * wide, y2 * high] for x1, y1, x2, y2 in sample.boxes]
            row = {
                **{
                    name: getattr(sample, name) for name in ("question", "answer", "image", "width", "height")
                },
                **{"bboxs": boxes, "dataset": sample.dataset, "split": "train"},
            }
            assert row.keys() == example().keys()
            file.write(json.dumps(row) + "\n")


def example() -> dict[str, Any]:
    """The row of own data that the README shows."""
    [shown] = re.findall(r"^```json\n(.*?)^```$", text_of("."), re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = json.loads(shown)
    return found


def test_the_configuration_and_the_row_that_the_readme_shows_are_valid(tmp_path: Path) -> None:
    [shown] = re.findall(r"^```yaml\n(.*?)^```$", text_of("."), re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.yaml").write_text(started_from("cpu", tmp_path / "mine.yaml"), encoding="utf-8")
    (tmp_path / "real.yaml").write_text(shown, encoding="utf-8")
    mine, real = load(tmp_path / "mine.yaml"), load(tmp_path / "real.yaml")
    assert real.annotate.api.base_url.startswith("https://")
    assert real.sources == mine.sources and [one.name for one in real.sources] == ["mine"], (
        "the user's own rows"
    )
    assert real.grpo.judge.base_url == "standin", "as the README says"
    (tmp_path / "mine.jsonl").write_text(json.dumps(example()) + "\n", encoding="utf-8")
    source = Source(name="mine", format="viscot", path=tmp_path / "mine.jsonl")
    [row] = SOURCES["viscot"].read(source.path, None, source)
    assert not isinstance(row, Reject), row
