"""Who may import whom, read from the syntax trees; and what stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "sifthinker": {"prefect", "tasks", "flows"},
    "tasks": {"flows"},
}
LIGHT = [
    "config",
    "core.records",
    "core.boxes",
    "core.chain",
    "core.prompts",
    "rewards",
    "data.sources",
    "scenes",
    "llm",
    "llm.ledger",
    "store.artifacts",
    "annotation.annotate",
]
HEAVY = ("torch", "transformers", "trl", "prefect")


def imported(file: Path) -> set[str]:
    """The top-level packages that a file names in any import, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:  # relative ones stay in the package
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_run_from_flows_to_tasks_to_sifthinker(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        str(file.relative_to(ROOT)): sorted(imported(file) & FORBIDDEN[package])
        for file in files
        if imported(file) & FORBIDDEN[package]
    }
    assert not wrong


def test_light_modules_import_without_torch() -> None:
    code = f"""
import importlib, sys
for name in {LIGHT}:
    importlib.import_module(f"sifthinker.{{name}}")
    heavy = [module for module in {HEAVY} if module in sys.modules]
    if heavy:
        sys.exit(f"sifthinker.{{name}} imports {{heavy}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
