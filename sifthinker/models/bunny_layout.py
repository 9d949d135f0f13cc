"""The published layout of Bunny-Llama-3-8B-V: its config, and the names of its tensors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from sifthinker.core.errors import UserError
from sifthinker.models import folders

_NORMS = ("layer_norm1", "layer_norm2")  # of a layer of the tower
TOWER = "model.vision_tower.vision_tower."
# Bunny's names and those of published LLaVA folders, which older readers than transformers 5 know, too. First match.
_NAMES = (
    (r"lm_head\.weight", "language_model.lm_head.weight"),
    (r"model\.mm_projector\.0\.(weight|bias)", r"multi_modal_projector.linear_1.\1"),
    (r"model\.mm_projector\.2\.(weight|bias)", r"multi_modal_projector.linear_2.\1"),
    (r"model\.vision_tower\.vision_tower\.vision_model\.head\..*", ""),  # pools the patches: not used
    (r"model\.vision_tower\.vision_tower\.(vision_model\..*)", r"vision_tower.\1"),
    (r"model\.((?:embed_tokens|layers|norm)\..*)", r"language_model.model.\1"),
)
COPIED = (  # of its config, as LLaMA's
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)


def renamed(name: str) -> str:
    """The name of a tensor of Bunny's in the converted folder; empty for one that is left out.

    Raises:
        UserError: Bunny has no such tensor.
    """
    for pattern, new in _NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(new)
    raise UserError(
        f"{name}: no tensor of Bunny-LLaMA3; is the folder a download of BAAI/Bunny-Llama-3-8B-V?"
    )


def published(source: Path) -> dict[str, Any]:
    """The published config.

    Raises:
        UserError: it is of something that cannot be written as LLaVA.
    """
    config = folders.read_config(source)
    wanted = {
        "model_type": ("bunny-llama", None),
        "mm_projector_type": ("mlp2x_gelu", None),
        "use_s2": (False, "Bunny v1.1 sees a picture at three sizes, which LLaVA cannot: convert v1.0"),
        "rope_scaling": (None, None),
    }
    for field, (value, why) in wanted.items():
        found = config.get(field, value if field in ("use_s2", "rope_scaling") else None)
        if found != value:
            raise UserError(
                f"{source / 'config.json'}: {field} is {found!r}, and {value!r} is converted"
                f"{f'. {why}' if why else '; give a download of BAAI/Bunny-Llama-3-8B-V'}"
            )
    if missing := [field for field in (*COPIED, "rope_theta", "mm_vision_tower") if field not in config]:
        raise UserError(f"{source / 'config.json'}: lacks {', '.join(missing)}")
    return config


def files(source: Path) -> list[Path]:
    """The safetensors files of a folder.

    Raises:
        UserError: one is missing.
    """
    folders.check_weights(source)
    index = source / "model.safetensors.index.json"
    if not index.is_file():
        return [source / "model.safetensors"]
    named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return [source / name for name in sorted(set(named))]


def shapes(source: Path) -> dict[str, list[int]]:
    """The shape of every tensor."""
    found: dict[str, list[int]] = {}
    for file in files(source):
        with safe_open(file, framework="pt") as opened:
            found |= {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 (no mapping)
    return found


def check_complete(source: Path, found: dict[str, list[int]], layers: int) -> None:
    """Refuses a download that lacks a tensor, for which transformers would draw a random one."""
    attention = [f"self_attn.{part}_proj.weight" for part in "qkvo"]
    mlp = [f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
    norms = ["input_layernorm.weight", "post_attention_layernorm.weight"]
    wanted = {f"model.layers.{n}.{name}" for n in range(layers) for name in (*attention, *mlp, *norms)}
    wanted |= {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    wanted |= {f"model.mm_projector.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    names = [*(f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")), "mlp.fc1", "mlp.fc2"]
    names = [f"encoder.layers.{n}.{name}" for n in range(tower_layers(found)) for name in (*names, *_NORMS)]
    both = [*names, "post_layernorm", "embeddings.patch_embedding"]
    tower = [
        *(f"{name}.{kind}" for name in both for kind in ("weight", "bias")),
        "embeddings.position_embedding.weight",
    ]
    wanted |= {f"{TOWER}vision_model.{name}" for name in tower}
    if missing := sorted(wanted - found.keys()):
        raise UserError(
            f"{source}: {missing[0]} is missing, of {len(missing)} tensors; download the published checkpoint again"
        )


def tower_layers(shapes: dict[str, list[int]]) -> int:
    """How many layers the vision tower has."""
    prefix = f"{TOWER}vision_model.encoder.layers."
    return max(
        (int(name[len(prefix) :].split(".")[0]) + 1 for name in shapes if name.startswith(prefix)), default=1
    )


def tensors(source: Path, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with a prefix, without it, in fp32."""
    found = {}
    for file in files(source):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                if name.startswith(prefix):
                    found[name.removeprefix(prefix)] = opened.get_tensor(name).float()
    return found


def side(config: dict[str, Any]) -> int:
    """Pixels of a picture's side, which only the tower's name says: 384 pixels make 27 whole patches, as 378 would."""
    match = re.search(r"-patch\d+-(\d+)$", config["mm_vision_tower"])
    if match is None:
        raise UserError(
            f"mm_vision_tower: {config['mm_vision_tower']!r} does not end in -patchP-SIDE, as SigLIP's names do"
        )
    return int(match[1])
