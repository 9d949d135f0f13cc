"""`--json` of every command that prints a table: it is JSON, and its names are those that programs were told."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flows.commands import main
from sifthinker.core.records import Reject
from sifthinker.core.tables import REJECTS, write
from sifthinker.store.artifacts import Store
from tests import nights

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = typer.main.get_group(main.app).commands
# The arguments of each command on the store of `filled`, and the names of its JSON: of each row of an array, or of an
# object.
CASES: dict[str, tuple[list[str], set[str]]] = {
    "accept": (["--all", "--why", "because", "--config", "smoke"], {"stage", "verdict", "said"}),
    "annotate": (["--rejected", "--config", "smoke"], {"reason", "rows", "ids", "example"}),
    "compare": (
        ["evaluate/aa", "evaluate/bb"],
        {"scores", "tests", "untested", "differences", "page"},
    ),
    "data": (
        ["--config", "smoke"],
        {
            "name",
            "kind",
            "what",
            "state",
            "found",
            "path",
            "images",
            "licence",
            "note",
            "address",
            "ways",
        },
    ),
    "doctor": (["--no-calls", "--config", "smoke"], {"check", "verdict", "found", "todo"}),
    "lineage": (
        ["annotate/0000"],
        {"artifact", "stage", "made", "rows", "with", "digest", "inputs", "files", "gone"},
    ),
    "plan": (
        ["--config", "smoke"],
        {
            "stage",
            "key",
            "cached",
            "verdict",
            "reasons",
            "expected_seconds",
            "rows",
            "where",
            "expects",
            "lacks",
            "last_seconds",
            "forecast",
        },
    ),
    "prune": (["--days", "0", "--runs", "0"], {"found", "removed"}),
    "status": ([], {"runs", "run", "stages"}),
}
# Commands that need a server, a database or minutes, by the test that calls them with --json.
ELSEWHERE = {
    "ablation": "tests/flows/test_run_command.py",
    "import-ledger": "tests/llm/test_ledger_import.py",
    "judge-agreement": "tests/evaluation/test_judges.py",
    "nightly": "tests/flows/test_nightly.py",
    "run": "tests/flows/test_run_command.py",
}


def filled(root: Path) -> Store:
    """A store with two evaluations, and a run that rejected a row."""
    store = Store(root)
    for key, verdicts in (("aa", [1.0] * 20), ("bb", [0.0] * 10 + [1.0] * 10)):
        nights.evaluated(store, key, {"vstar": verdicts})
    of: dict[str, dict[str, str]] = {
        name: {} for name in ("config", "inputs", "files", "libraries", "data", "code")
    }
    manifest = {"label": "annotate", "name": "smoke", "identity": of, "inputs": {}, "versions": {}}
    with store.making("annotate", "0" * 20, manifest) as draft:
        draft.rows = {"in": 2, "kept": 1, "rejected": {"boxes": 1}}
        write(draft.out / "rejects.parquet", REJECTS, [Reject("annotate", "boxes", "x", "s/d/1")])
    ref = {"stage": "annotate", "key": "0" * 20, "digest": ""}
    made = store.manifest("annotate", "0" * 20)
    assert made
    run = {"id": "one", "name": "smoke", "started": 1.0, "state": "finished", "config": {"name": "smoke"}}
    stages = {"annotate": {**ref, "digest": made["digest"]}}
    store.record(store.root / "runs" / "one.json", {**run, "stages": stages})
    return store


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")


def test_every_command_with_json_is_tried() -> None:
    able = {name for name, command in COMMANDS.items() if any("--json" in p.opts for p in command.params)}
    assert able == CASES.keys() | ELSEWHERE.keys()
    silent = {name: file for name, file in ELSEWHERE.items() if "--json" not in (ROOT / file).read_text()}
    assert not silent


def test_every_command_that_prints_a_table_has_json() -> None:
    for group in main.GROUPS.values():
        for command in group:
            if "Printed(" in inspect.getsource(command):
                assert "json_" in inspect.signature(command).parameters, command.__name__


def test_tables_are_printed_in_one_way() -> None:
    own = []
    for file in (ROOT / "flows" / "commands").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "rich.table":
                own += [file.name for imported in node.names if imported.name == "Table"]
    assert own == ["tables.py"]


@pytest.mark.parametrize("name", sorted(CASES))
def test_json_is_all_that_is_printed_and_has_its_names(name: str, tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    arguments, names = CASES[name]
    done = CliRunner().invoke(main.app, [name, *arguments, "--json", "--store", str(store.root)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    found = json.loads(done.stdout)
    assert found
    for one in found if isinstance(found, list) else [found]:
        assert set(one) == names


def test_people_see_the_same_rows(tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    shown = CliRunner().invoke(main.app, ["status", "--store", str(store.root)]).stdout
    assert "smoke  1970-01-01" in shown and "1: boxes" in shown


@pytest.mark.parametrize(
    "call", [["plan", "--config", "smoke"], ["doctor", "--no-calls", "--config", "smoke"]]
)
def test_a_look_leaves_nothing_in_an_empty_folder(
    call: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.delenv("PREFECT_HOME")
    assert CliRunner().invoke(main.app, call).exit_code == 0
    assert list(empty.iterdir()) == []


def test_a_run_that_has_no_name_of_its_own_is_asked_for_by_its_id(tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    record = json.loads((store.root / "runs" / "one.json").read_text())
    store.record(store.root / "runs" / "two.json", {**record, "id": "two", "started": 2.0})
    by_id = CliRunner().invoke(main.app, ["status", "two", "--json", "--store", str(store.root)])
    assert json.loads(by_id.stdout)["run"]["id"] == "two"
    assert json.loads(by_id.stdout)["run"]["before"] == "one"
    refused = CliRunner().invoke(main.app, ["status", "smoke", "--store", str(store.root)])
    assert "status: 'smoke' means 2 runs, which differ; give the id of one" in str(refused.exception)
