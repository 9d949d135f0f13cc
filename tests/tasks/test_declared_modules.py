"""Every module and library that a stage uses is declared, under the path that it has now and those that it had."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sifthinker.config import Config, changed
from tasks.runtime import closure, results
from tasks.runtime.results import MODULES
from tasks.runtime.stage_results import RESULTS
from tests.tasks.conftest import forget
from tests.tasks.test_results import ALL, NOTHING, REAL, STAGES, TOYS, append, keys, new

# Imported by a module of a stage for something that the stage does not do.
IDLE = {
    "pyarrow": ALL - {"publish", "subset"},  # only the published data set is Parquet that others read
    # boxes: matches boxes in the reward; matching: whether there is a match, which no version decides
    "scipy": {"scenes", "ingest", "expand", "report", "annotate", "retry"},
    "torch": {"policy_weights", "depth_weights"},  # models: a download computes nothing
    "transformers": {"policy_weights", "depth_weights"},
    "pillow": {"policy_weights", "depth_weights", "subset"},
    "numpy": {"ingest", "subset", "report"},  # images: makes pixels, and ingest only looks at sizes
    "deepspeed": {"merge"},
}
# They read, check, carry and write; what comes out does not depend on their version.
HARMLESS = {
    "fastapi",
    "orjson",
    "pydantic",
    "yaml",
    "datasets",
    "safetensors",
    "huggingface_hub",
    "httpx",
    "uvicorn",
    "jinja2",
}


@pytest.fixture(scope="module")
def real() -> dict[str, str]:
    forget()
    return keys()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("boxes", "sifthinker.core.boxes"),
        ("boxes", "sifthinker.geometry"),
        ("rewards/grounding", "sifthinker.rewards.overlap"),
        ("training/run", "sifthinker.training.program"),
        ("progress", "sifthinker.llm.call_counts"),
        ("stages/publish", "tasks.stages.publish"),
    ],
)
def test_a_file_that_moves_makes_no_stage_new(
    tree: Path, real: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str, path: str
) -> None:
    module = MODULES[name]
    move(tree, module.paths[0], path)
    monkeypatch.setitem(results.MODULES, name, replace(module, paths=(path, *module.paths[1:])))
    forget()
    assert new(real, keys()) == NOTHING


def move(tree: Path, old: str, other: str) -> None:
    """Moves a module, and corrects every import of it."""
    (package, name), (new_package, new_name) = old.rsplit(".", 1), other.rsplit(".", 1)
    target = tree.joinpath(*other.split(".")).with_suffix(".py")
    target.parent.mkdir(exist_ok=True)
    (target.parent / "__init__.py").touch()
    tree.joinpath(*old.split(".")).with_suffix(".py").rename(target)
    line = (
        f"from {new_package} import {new_name} as {name}"
        if name != new_name
        else f"from {new_package} import {name}"
    )

    def without(match: re.Match[str]) -> str:
        rest = [part.strip() for part in match[2].split(",") if part.strip() != name]
        if len(rest) == match[2].count(",") + 1:
            return match[0]
        kept = f"{match[1]}from {package} import {', '.join(rest)}\n" if rest else ""
        return f"{kept}{match[1]}{line}\n"

    for file in [*(tree / "sifthinker").rglob("*.py"), *(tree / "tasks").rglob("*.py")]:
        text = file.read_text(encoding="utf-8")
        text = text.replace(f"from {old} import", f"from {other} import")
        text = re.sub(rf"^( *)from {re.escape(package)} import ([\w, ]+)$\n", without, text, flags=re.M)
        assert (
            not re.search(rf"from {re.escape(package)} import .*\b{name}\b(?! *#)", text)
            or package == new_package
        )
        file.write_text(text, encoding="utf-8")


def test_an_import_that_is_not_declared_is_an_error_that_says_what_to_do(tree: Path) -> None:
    (tree / "sifthinker/fresh.py").write_text("X = 1\n")
    append(tree, "sifthinker/training/rows.py", "from sifthinker.fresh import X\n")
    with pytest.raises(
        closure.Undeclared, match=r"training/rows .*sifthinker\.fresh.*tasks/runtime/results\.py"
    ):
        keys()


CONFIGS: list[Callable[[], Config]] = [
    lambda: REAL,
    lambda: TOYS,
    lambda: changed(REAL, {"grpo.generation": "vllm_lora", "evaluate.server": "transformers"}, "test"),
    lambda: changed(REAL, {"grpo.generation": "vllm_server"}, "test"),
    lambda: changed(TOYS, {"evaluate.judge": {"model": "m"}, "depth.weights": "tiny"}, "test"),
]


def third_party(names: tuple[str, ...]) -> dict[str, set[str]]:
    """What the modules of a closure import that is not ours, by package, with who imports it."""
    found: dict[str, set[str]] = {}
    for name in closure.closure(names):
        for source in closure._sources(name):
            for bound in source.imports:
                if not closure.is_module(bound.module):
                    found.setdefault(bound.module.partition(".")[0], set()).add(name)
    return found


@pytest.mark.parametrize("config", CONFIGS)
def test_every_module_and_library_that_a_stage_uses_is_declared(config: Callable[[], Config]) -> None:
    """Fails when a module that decides results imports one, or a library, that tasks/runtime/results.py does not place."""
    assert RESULTS.keys() == STAGES.keys()
    distributions = {"PIL": "pillow"}
    wrong = []
    for name, stage in STAGES.items():
        means = stage.results.of(config())
        for package, importers in third_party(means.modules).items():
            library = distributions.get(package, package)
            placed = library in means.libraries or name in IDLE.get(library, set()) or library in HARMLESS
            if package not in sys.stdlib_module_names and not placed:
                wrong.append(f"{name}: {library}, imported by {sorted(importers)}")
    assert not wrong


def test_what_the_table_leaves_out_is_there() -> None:
    """A name that is gone would be left out of nothing, unnoticed."""
    for name, module in MODULES.items():
        assert module.paths and not (module.neutral and module.without), name
        for path in module.paths:
            file = closure.path(path)
            assert file, f"{name}: there is no {path}"
        text = "\n".join(closure.path(path).read_text(encoding="utf-8") for path in module.paths)  # type: ignore[union-attr]
        for definition in module.without:
            assert re.search(rf"^(async def|def|class) {definition}\b|^{definition}\b", text, re.M), (
                f"{name}: {definition}"
            )


def test_deepspeeds_files_are_those_that_the_training_reads() -> None:
    from sifthinker.training.harness import DEEPSPEED

    [(name, path)] = RESULTS["grpo"].of(REAL).data
    assert name == "DeepSpeed zero3.json"
    assert results.ROOT / path == DEEPSPEED / "zero3.json"
