"""sifthinker/PAPER.md is the one place for facts about the paper and the release: every reference to it resolves."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from sifthinker.config import Config

ROOT = Path(__file__).resolve().parents[1]
PAPER = ROOT / "sifthinker" / "PAPER.md"
TEXT = PAPER.read_text(encoding="utf-8")
ANCHOR = re.compile(r"\b[PRFMD][1-9]\d?\.[1-9]\d?\b")
# A list item or the first cell of a table's row that begins with the anchor in bold defines it.
DEFINITION = re.compile(r"^(?:- |\| )\*\*([PRFMD][1-9]\d?\.[1-9]\d?)\*\* ", re.MULTILINE)
DEFINED = DEFINITION.findall(TEXT)
# The notes that the anchors replaced. They were never part of the repository.
NOTES = re.compile(
    r"\bfacts\.md\b|\brelease_defects\b|\bE[1-4]-\d+\b|\b[Ff]acts[,:]? (?:E?\d|section|paper|format|measured)"
)


def _texts() -> dict[str, str]:
    """Every text file that people read, by its path; PAPER.md and this file apart."""
    folders = [ROOT / name for name in ("sifthinker", "tasks", "flows", "tests", "infra", "docker")]
    suffixes = {".py", ".md", ".yaml", ".jinja", ".json", ".Dockerfile"}
    paths = [path for folder in folders for path in folder.rglob("*") if path.suffix in suffixes]
    paths += [ROOT / "README.md", ROOT / "Makefile", ROOT / "pyproject.toml"]
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in paths
        if path not in (PAPER, Path(__file__).resolve())
    }


TEXTS = _texts()


def test_every_anchor_that_the_code_names_is_defined() -> None:
    named = {path: set(ANCHOR.findall(text)) for path, text in TEXTS.items()}
    assert sum(map(len, named.values())) > 30, (
        "the search found too little; are the anchors of another form now?"
    )
    assert not {path: sorted(names - set(DEFINED)) for path, names in named.items() if names - set(DEFINED)}


def test_every_anchor_that_the_paper_file_names_is_defined_in_it() -> None:
    assert not set(ANCHOR.findall(TEXT)) - set(DEFINED)


def test_no_anchor_is_defined_twice() -> None:
    assert not [name for name, times in Counter(DEFINED).items() if times > 1]


def test_an_anchor_has_the_number_of_its_section() -> None:
    for section in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        number = section.split(".")[0]
        assert not [name for name in DEFINITION.findall(section) if name[1:].split(".")[0] != number]


def test_a_file_that_names_an_anchor_says_where_it_is_explained() -> None:
    assert not [path for path, text in TEXTS.items() if ANCHOR.search(text) and "PAPER.md" not in text]


def test_no_file_refers_to_notes_outside_the_repository() -> None:
    found = {path: NOTES.findall(text) for path, text in TEXTS.items()}
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize(
    "reference",
    [
        "(facts.md 2.19)",
        "(facts 3.2)",
        "Facts 1.4 and 2.25",
        "(facts: E1, 4.6)",
        "(facts: measured on the metadata)",
        "release_defects E3-5",
        "(E2-13)",
    ],
)
def test_the_search_for_outside_notes_knows_their_forms(reference: str) -> None:
    assert NOTES.search(reference)


def _field(name: str) -> tuple[bool, object]:
    """Whether the configuration has a field of this dotted name, and its default."""
    kind: object = Config
    default: object = None
    for part in name.split("."):
        if isinstance(default, BaseModel) and part in (default.model_extra or {}):  # a reward's weight
            default = kind = getattr(default, part)
            continue
        if not (isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields):
            return False, None
        kind = kind.model_fields[part].annotation
        default = getattr(default, part) if isinstance(default, BaseModel) else _default(part)
    return True, default


def _default(section: str) -> object:
    return Config.model_fields[section].get_default(call_default_factory=True)


def _definitions(module: Path) -> Iterator[str]:
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield target.id


def test_every_field_function_and_module_that_the_paper_file_names_exists() -> None:
    modules: dict[str, list[Path]] = {}
    for path in (ROOT / "sifthinker").rglob("*.py"):
        modules.setdefault(path.stem, []).append(path)
    spans = {span.split(":")[0] for span in re.findall(r"(?<!\[)`([\w./]+(?:: \w+)?)`", TEXT)}
    checked, gone = 0, []
    for span in sorted(spans):
        if span.endswith(".py"):
            paths = [path.as_posix() for path in (*ROOT.glob("sifthinker/**/*.py"), *ROOT.glob("tests/*.py"))]
            exists = any(path.endswith(f"/{span}") for path in paths)
        elif "." in span and span.split(".")[0] in {*Config.model_fields, *modules}:
            module, _, name = span.partition(".")
            exists = _field(span)[0] or any(name in _definitions(path) for path in modules.get(module, []))
        else:
            continue
        checked += 1
        if not exists:
            gone.append(span)
    assert checked > 50, "the search found too little"
    assert not gone


def test_the_defaults_of_the_settings_table_are_those_of_the_configuration() -> None:
    rows = re.findall(r"^\|.*\| `([\w.]+)` \| `([^`]+)` \|$", TEXT, re.MULTILINE)
    assert len(rows) > 20
    assert {name: yaml.safe_load(value) for name, value in rows} == {
        name: _field(name)[1] for name, _ in rows
    }
