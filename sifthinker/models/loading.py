"""The policy and depth models: where their weights come from, and how they are loaded.

Families are told apart by the `model_type` of a folder's config, never by its name, and loaded through the Auto
classes. Weights are safetensors only, and no code of a model repository ever runs.

`tiny` stands for a random model of the real architecture (tiny.py).
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import HfApi, snapshot_download
from transformers import AutoModelForDepthEstimation, AutoModelForImageTextToText
from transformers.utils.logging import disable_progress_bar

from sifthinker.core.errors import UserError
from sifthinker.models import miniature
from sifthinker.models.processors import encode, install_processors, load_processor, picture_tokens
from sifthinker.models.toys import DEPTH, build_tiny, build_tiny_depth

__all__ = [
    "TINY",
    "build_tiny",
    "build_tiny_depth",
    "encode",
    "fetch",
    "install_processors",
    "load_depth",
    "load_policy",
    "load_processor",
    "picture_tokens",
]

TINY = "tiny"
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def fetch(
    weights: str, revision: str | None, kind: Literal["policy", "depth"], family: str, seed: int, out: Path
) -> dict[str, str]:
    """Makes model weights available as a folder and says which they are.

    Args:
        weights: 'tiny' (built into `out`), 'miniature' (trained on rendered scenes, kept here), a local folder (used
            where it is), or a hub id (downloaded into `out`).
        revision: of the hub repository; none is its main branch.
        kind: policy or depth model.
        family: of the policy (`families.FAMILIES`); a depth model has none.
        seed: of a tiny model's random weights.
        out: empty or new folder.

    Returns:
        `folder`; `origin` (tiny, miniature, folder or hub); `revision` (the commit, for a hub id, else ""); `model_type`;
        `toy` (the name of a random toy, else ""); `miniature` (the name of one, else "").

    Raises:
        UserError: not to be had, of another family, or not in safetensors.
    """
    folder, origin, commit = out, "hub", ""
    local = Path(weights).expanduser()
    if weights == TINY:
        origin = "tiny"
        if kind == "depth":
            build_tiny_depth(seed, out)
        else:
            build_tiny(family, seed, out)
    elif weights == miniature.NAME:
        origin = miniature.NAME
        shutil.copytree(miniature.folder(kind), out, dirs_exist_ok=True)
    elif local.is_dir():
        folder, origin = local.resolve(), "folder"
    elif re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", weights):
        commit = _download(weights, revision, out)
    else:
        raise UserError(
            f"weights: {weights!r} is neither 'tiny', nor 'miniature', nor an existing folder, nor a hub id (owner/name)"
        )
    config = _config(folder)
    expected = DEPTH if kind == "depth" else family
    if config.get("model_type") != expected:
        raise UserError(
            f"{weights}: model_type is {config.get('model_type')!r}, expected {expected!r}; give other weights"
            + ("" if kind == "depth" else " or set model.family")
        )
    _check_weights(folder)
    return {
        "folder": str(folder),
        "origin": origin,
        "revision": commit,
        "model_type": expected,
        "toy": str(config.get("toy", "")),
        "miniature": str(config.get("miniature", "")),
    }


def _download(weights: str, revision: str | None, out: Path) -> str:
    """Downloads the weights, configuration and tokenizer of a hub repository; returns the commit."""
    try:
        commit = HfApi().model_info(weights, revision=revision).sha
        snapshot_download(
            weights,
            revision=commit,
            local_dir=out,
            allow_patterns=[
                "*.safetensors",
                "*.json",
                "*.txt",
                "*.jinja",
                "tokenizer.model",
                "LICENSE*",
                "README.md",
            ],
        )
    except Exception as error:  # the hub client raises many kinds, and all mean "not to be had"
        raise UserError(
            f"{weights} (revision {revision or 'main'}): cannot be downloaded from the model hub: {error}. "
            "Offline? Give a local folder, or 'tiny' for a random toy."
        ) from error
    return str(commit)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a model folder, its config cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected a mapping, found {type(config).__name__}")
    return config


def _check_weights(folder: Path) -> None:
    """Refuses a folder without complete safetensors; pickled weights can run code when they are opened."""
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
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


def load_policy(path: Path, dtype: Literal["bf16", "fp16", "fp32"]) -> Any:
    """The policy of a folder on the CPU, in evaluation mode."""
    return _load(AutoModelForImageTextToText, path, _DTYPES[dtype])


def load_depth(path: Path) -> Any:
    """Depth Anything V2 of a folder in fp32, on the CPU, in evaluation mode."""
    return _load(AutoModelForDepthEstimation, path, torch.float32)


def _load(auto: Any, path: Path, dtype: torch.dtype) -> Any:
    disable_progress_bar()  # for milliseconds or for a log file
    model = auto.from_pretrained(
        path, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    return model.eval()
