"""What a model's folder says about itself: its configuration, its family, and whether its weights are whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sifthinker.core.errors import UserError
from sifthinker.models import families


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder.

    Raises:
        UserError: there is none that can be read.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a model folder, its config cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected a mapping, found {type(config).__name__}")
    return config


def family(folder: Path) -> str:
    """The name of the family of a policy's folder.

    Raises:
        UserError: its config cannot be read, or names an architecture of no family.
    """
    config = read_config(folder)
    if (found := families.named(config)) is None:
        raise UserError(
            f"{folder}: its architecture (model_type {config.get('model_type')!r}) is of no model family; known are "
            f"{', '.join(families.FAMILIES)}"
        )
    return found


def check_family(folder: Path, expected: str) -> None:
    """Whether a policy's folder is of the family that is configured.

    Raises:
        UserError: it is of another one, or of none.
    """
    config = read_config(folder)
    if (found := families.named(config)) == expected:
        return
    kind, wanted = config.get("model_type"), families.FAMILIES[expected].model_type
    if kind != wanted:
        what = f"model_type is {kind!r}, expected {wanted!r}"
    else:
        tower = families.FAMILIES[expected].tower
        what = f"its vision tower is not of the kind {tower!r} that {expected} has"
    todo = f"set model.family: {found}" if found else "set model.family"
    raise UserError(f"{folder}: {what}; give other weights or {todo}")


def check_weights(folder: Path) -> None:
    """Refuses a folder without complete safetensors; pickled weights can run code when they are opened.

    Raises:
        UserError: a file is missing, or the index cannot be read or names other files than safetensors beside it.
    """
    index = folder / "model.safetensors.index.json"
    names = _indexed(index) if index.is_file() else {"model.safetensors"}
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        pickled = sorted(
            path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".ckpt"}
        )
        reason = (
            f"; {', '.join(pickled)} is pickled and is never opened: convert it to safetensors"
            if pickled
            else ""
        )
        raise UserError(f"{folder}: {', '.join(missing)} is missing{reason}")


def _indexed(index: Path) -> set[str]:
    """The weight files that an index names: safetensors beside it, and nothing else."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        wrong = sorted(str(name) for name in names if not re.fullmatch(r"[\w.-]+\.safetensors", name))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index}: cannot be read: {error}; fetch the weights again") from error
    if wrong or not names:
        raise UserError(
            f"{index}: names {', '.join(wrong) or 'no file'}; only safetensors beside the index are opened, because "
            "pickled weights can run code: convert them to safetensors"
        )
    return names
