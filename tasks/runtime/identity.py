"""What a stage's output is made from, as a key, and the reasons why a key is new.

An identity is plain JSON: the stage's name, the digests of the modules that decide its result by their logical names,
the libraries that compute it by major.minor, the digests of the data files of ours that its programs read, its section
of the configuration without operational fields, and the digests of its input artifacts and of the user's files.
tasks/runtime/results.py says which these are, and tasks/runtime/syntax.py what of a module counts. Never a path, a clock or a secret,
and nothing about the Python that runs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import KEY_LENGTH
from sifthinker.store.digests import sha256
from sifthinker.system import commands
from sifthinker.system.commands import ABSENT
from tasks.runtime import closure, results
from tasks.runtime.stage_results import Results

COMMANDS = {"vllm"}  # started as a command: its pins and ours exclude each other

Identity = dict[str, Any]


def identity(
    stage: str, means: Results, config: Any, inputs: Mapping[str, str], files: Mapping[str, str]
) -> Identity:
    """The identity of a stage's output; `inputs` and `files` are digests by name.

    Args:
        stage: its name.
        means: what decides its result, with its configuration (`Results.of`).
        config: its section, as plain values.
        inputs: digests of the artifacts.
        files: digests of the user's files.

    Raises:
        UserError: a data file of ours is not there.
    """
    return {
        "stage": stage,
        "code": closure.code(means.modules),
        "libraries": _libraries(means),
        "data": {name: _data(path) for name, path in means.data},
        "config": config,
        "inputs": dict(inputs),
        "files": dict(files),
    }


def key(of: Mapping[str, Any]) -> str:
    """The name of the artifact in the store."""
    return sha256(dict(of))[:KEY_LENGTH]


def is_old(of: Mapping[str, Any]) -> bool:
    """Whether an identity is of the form that named no libraries: its code cannot be compared with today's."""
    return "libraries" not in of


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Why `new` is not `old`, one reason a line: which input, which config field (old -> new), which library or module."""
    reasons = ingredients_changed(old, new)
    before, after = flatten(old["config"]), flatten(new["config"])
    for field in sorted(before.keys() | after.keys()):
        if field not in before:
            reasons.append(f"config {field} is new: {after[field]}")
        elif field not in after:
            reasons.append(f"config {field} is gone: {before[field]}")
        elif before[field] != after[field]:
            reasons.append(f"config {field}: {before[field]} -> {after[field]}")
    return [*reasons, *means_changed(old, new)]


def ingredients_changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Which inputs and which files of the user's differ."""
    # A data file of ours was one of the user's in the old form.
    files = {
        name: digest for name, digest in old["files"].items() if not (is_old(old) and name in new["data"])
    }
    return [*_changes("input", old["inputs"], new["inputs"]), *_changes("file", files, new["files"])]


def means_changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Which libraries, data files and modules differ."""
    if is_old(old):
        return ["keys had another form when it was made (see `sif accept`)"]
    libraries = [
        f"{name} {old['libraries'].get(name, 'not in the key')} -> {new['libraries'].get(name, 'not in the key')}"
        for name in sorted(old["libraries"].keys() | new["libraries"].keys())
        if old["libraries"].get(name) != new["libraries"].get(name)
    ]
    return [*libraries, *_changes("", old["data"], new["data"]), *_changes("", old["code"], new["code"])]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name."""
    if isinstance(value, dict):
        return {k: v for name, item in value.items() for k, v in flatten(item, f"{prefix}{name}.").items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return {k: v for i, item in enumerate(value) for k, v in flatten(item, f"{prefix}{i}.").items()}
    return {prefix.removesuffix("."): value}


@cache
def installed(name: str) -> str:
    """The version of a distribution here, or of a server's in the environment of its own that its command is from."""
    try:
        return version(name)
    except PackageNotFoundError:
        return commands.version(name, name) if name in COMMANDS else ABSENT


def absent(means: Results) -> list[str]:
    """The libraries that are not installed here. Not those of another environment: what starts it says more about it."""
    elsewhere = {name for name, _ in means.elsewhere} | COMMANDS
    return [name for name in sorted(set(means.libraries) - elsewhere) if installed(name) == ABSENT]


def _libraries(means: Results) -> dict[str, str]:
    """The libraries by major.minor, each in the environment that the stage takes it from."""
    elsewhere = dict(means.elsewhere)
    return {
        name: _minor(_installed_at(elsewhere[name], name) if name in elsewhere else installed(name))
        for name in sorted(means.libraries)
    }


@cache
def _installed_at(python: Path, name: str) -> str:
    return commands.versions(python, (name,))[name]


def versions(means: Results) -> str:
    """Libraries by major.minor, in words, each in the environment that it is taken from."""
    return ", ".join(f"{name} {version}" for name, version in _libraries(means).items())


def _minor(full: str) -> str:
    """2.13.0+cpu: 2.13. A patch release mends and computes the same; a build tag says where, not what."""
    return ".".join(full.partition("+")[0].split(".")[:2])


def _data(relative: str) -> str:
    """The digest of a data file; of JSON by its values, whatever the layout."""
    file = results.ROOT / relative
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read: {error.strerror}; run from a checkout that has {relative}"
        ) from error
    if file.suffix == ".json":
        return sha256(json.loads(content))
    return hashlib.sha256(content).hexdigest()


def _changes(kind: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    said = f"{kind} " if kind else ""
    return [
        f"{said}{name} {'changed' if name in old and name in new else 'is new' if name in new else 'is gone'}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
