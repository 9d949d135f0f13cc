"""The README is the architecture document: every module has its line, every command in it exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flows.commands.main import app

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
TREE = TEXT.split("## Where things are")[1]


@pytest.mark.parametrize("folder", ["flows", "tasks", "sifthinker"])
def test_every_module_has_a_line_in_the_file_tree(folder: str) -> None:
    section = TREE.split(f"\n{folder}/")[1]
    modules = (p for p in (ROOT / folder).rglob("*.py") if p.name != "__init__.py")
    missing = [
        name for p in modules if f"  {(name := p.relative_to(ROOT / folder).as_posix())} " not in section
    ]
    assert not missing


def test_the_file_tree_names_nothing_that_is_gone() -> None:
    folder, gone = "", []
    for line in TREE.split("```")[1].splitlines():
        name = line.split()[0] if line.strip() else ""
        if line.startswith("  ") and not (ROOT / folder / name).exists():
            gone.append(f"{folder}{name}")
        elif name.endswith("/") and not line.startswith(" "):
            folder = name
    assert not gone


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`| {4})make ([a-z][a-z-]*)", TEXT)) <= targets


def test_every_sif_command_of_the_readme_exists() -> None:
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert set(re.findall(r"(?:`| {4}|&& )sif ([a-z]+)", TEXT)) <= commands
