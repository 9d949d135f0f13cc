"""The policy and depth models: where their weights come from, and how they are loaded.

Families are told apart by a folder's config, never by its name, and loaded through the Auto classes. Weights are
safetensors only, and no code of a model repository ever runs.

`tiny` stands for a random model of the real architecture (toys).
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForDepthEstimation, AutoModelForImageTextToText
from transformers.utils.logging import disable_progress_bar

from sifthinker.core.errors import UserError
from sifthinker.models import folders, hub, miniature
from sifthinker.models.processors import (
    encode,
    install_processors,
    load_processor,
    picture_lengths,
    picture_tokens,
)
from sifthinker.models.template_check import check_template
from sifthinker.models.toys import DEPTH, build_tiny, build_tiny_depth

__all__ = [
    "TINY",
    "build_tiny",
    "build_tiny_depth",
    "check_depth",
    "check_policy",
    "encode",
    "fetch",
    "install_processors",
    "load_depth",
    "load_policy",
    "load_processor",
    "picture_lengths",
    "picture_tokens",
]

TINY = "tiny"
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def fetch(
    weights: str, revision: str | None, kind: Literal["policy", "depth"], family: str, seed: int, out: Path
) -> dict[str, str]:
    """Makes model weights available as a folder and says which they are.

    Args:
        weights: 'tiny' (built into `out`), 'miniature' or 'miniature-looks' (trained on rendered scenes, kept here), a local
            folder (used where it is, as 'miniature-looks' is), or a hub id (downloaded into `out`).
        revision: of the hub repository; none is its main branch.
        kind: policy or depth model.
        family: of the policy (`families.FAMILIES`); a depth model has none.
        seed: of a tiny model's random weights.
        out: empty or new folder.

    Returns:
        `folder`; `origin` (tiny, miniature, folder or hub); `revision` (the commit, for a hub id, else ""); `model_type`;
        `toy` (the name of a random toy, else ""); `miniature` (the name of one, else "").

    Raises:
        UserError: not to be had, of another family, without a processor or chat template that can be used, or not in
            safetensors.
    """
    folder, origin, commit = out, "hub", ""
    local = Path(weights).expanduser()
    if weights == TINY:
        origin = "tiny"
        if kind == "depth":
            build_tiny_depth(seed, out)
        else:
            build_tiny(family, seed, out)
    elif kept := miniature.find(weights, kind):
        origin = miniature.NAME
        if weights == miniature.NAME:
            shutil.copytree(kept, out, dirs_exist_ok=True)
        else:  # used where it is: rows that were kept before it had a name have the digest of a folder
            folder = kept
    elif local.is_dir():
        folder, origin = local.resolve(), "folder"
    elif re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", weights):
        commit = _download(weights, revision, out)
    else:
        raise UserError(
            f"weights: {weights!r} is neither 'tiny', nor 'miniature', nor an existing folder, nor a hub id (owner/name)"
        )
    if kind == "policy":
        check_policy(folder, family)
    else:
        check_depth(folder)
    config = folders.read_config(folder)
    return {
        "folder": str(folder),
        "origin": origin,
        "revision": commit,
        "model_type": str(config["model_type"]),
        "toy": str(config.get("toy", "")),
        "miniature": str(config.get("miniature", "")),
    }


def _download(weights: str, revision: str | None, out: Path) -> str:
    """Puts the weights of a hub repository into a folder; returns the commit."""
    return hub.download(weights, revision, out)


def check_policy(folder: Path, family: str) -> None:
    """Whether a policy's folder is of a family, and has whole weights and all that makes a conversation its inputs.

    Raises:
        UserError: see `folders.check_family`, `folders.check_weights`, `load_processor` and `check_template`.
    """
    folders.check_family(folder, family)
    folders.check_weights(folder)
    check_template(load_processor(folder), folder)


def check_depth(folder: Path) -> None:
    """Whether a folder holds a Depth Anything V2 with whole weights.

    Raises:
        UserError: it does not.
    """
    kind = folders.read_config(folder).get("model_type")
    if kind != DEPTH:
        raise UserError(f"{folder}: model_type is {kind!r}, expected {DEPTH!r}; give other weights")
    folders.check_weights(folder)


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
