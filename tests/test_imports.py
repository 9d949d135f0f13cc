"""What stays light: processes that train nothing load no torch. Who may import whom: `lint-imports` (pyproject.toml)."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIGHT = ["core", "rewards", "llm", "store", "config", "system", "scenes", "data.sources", "annotation"]
HEAVY = ["torch", "transformers", "trl", "datasets", "prefect"]


def test_light_rooms_import_without_torch() -> None:
    """Imports every module of the light rooms in one process.

    `lint-imports` reads imports; this test also sees those that a library makes.
    """
    code = f"""
import importlib, pkgutil, sys
for room in {LIGHT}:
    package = importlib.import_module(f"sifthinker.{{room}}")
    for found in pkgutil.walk_packages(package.__path__, f"{{package.__name__}}."):
        importlib.import_module(found.name)
        heavy = [module for module in {HEAVY} if module in sys.modules]
        if heavy:
            sys.exit(f"{{found.name}} imports {{heavy}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
