"""What a stage's output is made from, as a key, and the reasons why a key is new.

An identity is plain JSON: the stage's name, the digest of each domain module it runs (transitively within the
package, as syntax trees, so that comments, layout and docstrings count for nothing), its section of the
configuration without operational fields, and the digests of its input artifacts and of the user's files.
Never a path, never a clock, no secret.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import sifthinker
from sifthinker.store import KEY_LENGTH, sha256

PACKAGE = Path(sifthinker.__file__).parent
# Its values are in the identity already, and its fields belong to all stages.
WITHOUT_CODE = {"sifthinker.config", "sifthinker.sections", "sifthinker.disk", "sifthinker"}

Identity = dict[str, Any]


def identity(
    stage: str, modules: Iterable[str], config: Any, inputs: Mapping[str, str], files: Mapping[str, str]
) -> Identity:
    """The identity of a stage's output; `inputs` and `files` are digests by name."""
    code = {name: _digest(name) for name in sorted(_closure(tuple(modules)))}
    return {"stage": stage, "code": code, "config": config, "inputs": dict(inputs), "files": dict(files)}


def key(of: Identity) -> str:
    """The name of the artifact in the store."""
    return sha256(of)[:KEY_LENGTH]


def differences(old: Identity, new: Identity) -> list[str]:
    """Why `new` is not `old`, one reason a line: which input, which config field (old -> new), which module."""
    reasons = []
    for name, digest in new["inputs"].items():
        if name not in old["inputs"]:
            reasons.append(f"input {name} is new")
        elif old["inputs"][name] != digest:
            reasons.append(f"input {name} changed")
    for name, digest in new["files"].items():
        if old["files"].get(name) != digest:
            reasons.append(f"file {name} changed" if name in old["files"] else f"file {name} is new")
    reasons += [f"input {name} is gone" for name in sorted(old["inputs"].keys() - new["inputs"].keys())]
    reasons += [f"file {name} is gone" for name in sorted(old["files"].keys() - new["files"].keys())]
    before, after = flatten(old["config"]), flatten(new["config"])
    for field in sorted(before.keys() | after.keys()):
        if before.get(field) != after.get(field):
            reasons.append(f"config {field}: {before.get(field)} -> {after.get(field)}")
    for name in sorted(old["code"].keys() | new["code"].keys()):
        if old["code"].get(name) != new["code"].get(name):
            reasons.append(f"code {name.removeprefix('sifthinker.')} changed")
    return reasons


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name."""
    if isinstance(value, dict):
        return {k: v for name, item in value.items() for k, v in flatten(item, f"{prefix}{name}.").items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return {k: v for i, item in enumerate(value) for k, v in flatten(item, f"{prefix}{i}.").items()}
    return {prefix.removesuffix("."): value}


def _path(module: str) -> Path | None:
    base = PACKAGE.parent.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _tree(module: str) -> tuple[str, frozenset[str]]:
    """The digest of a module's code, and the modules of the package that it imports, anywhere in it."""
    path = _path(module)
    assert path, f"{module} is no module of the package"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports.add(node.module)
            imports.update(f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(
            node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        ) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:]
    ours = {name for name in imports if name.split(".")[0] == "sifthinker" and _path(name)}
    # Importing a.b.c runs a.b too.
    ours |= {".".join(name.split(".")[:n]) for name in ours for n in range(2, name.count(".") + 1)}
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:KEY_LENGTH], frozenset(ours - WITHOUT_CODE)


def _digest(module: str) -> str:
    return _tree(module)[0]


@cache
def _closure(modules: tuple[str, ...]) -> frozenset[str]:
    found: set[str] = set()
    frontier = set(modules)
    while frontier:
        name = frontier.pop()
        found.add(name)
        frontier |= _tree(name)[1] - found
    return frozenset(found - WITHOUT_CODE)
