"""Random toys of the real architectures, built on the spot where the real weights cannot be had.

A policy has about a million parameters, a depth model far fewer; fp32, and the same files for the same seed. They
know nothing, and say so in their config (`toy`) and README.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForDepthEstimation, AutoModelForImageTextToText, GenerationConfig

from sifthinker.core.errors import UserError
from sifthinker.models.families import FAMILIES
from sifthinker.models.processors import install_processors, picture_tokens

logger = logging.getLogger(__name__)

DEPTH = "depth_anything"  # model_type of Depth Anything V2


def build_tiny(family: str, seed: int, out: Path) -> None:
    """Builds a random toy policy with its processor: about a million parameters, fp32, the same files for one seed.

    Raises:
        UserError: the family is not known.
    """
    if family not in FAMILIES:
        raise UserError(f"model.family: {family!r} is not known; known are {', '.join(FAMILIES)}")
    install_processors()
    module, _, builder = FAMILIES[family].toy.partition(":")
    processor, config = getattr(importlib.import_module(module), builder)()
    model = random_model(AutoModelForImageTextToText, config, f"tiny-random-{family}-seed{seed}", seed)
    _open_eyes(model, seed)
    model.generation_config = generation(processor)
    _save(model, out, processor)
    if FAMILIES[family].processor == "LlavaProcessor":
        _publish_tower(out / "model.safetensors")


def _publish_tower(file: Path) -> None:
    """Names the tower's tensors as published LLaVA folders do: vLLM and older readers know no others.

    transformers 5 writes a new model with shorter names, and one that it has read with the names that it has read.
    """
    short, long = "vision_tower.", "vision_tower.vision_model."
    tensors = {
        name.replace(short, long) if short in name and long not in name else name: tensor
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})


def _open_eyes(model: Any, seed: int) -> None:
    """Draws the matrices that an architecture begins with as zeros: Gemma 3's projector, or a toy would see nothing."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 2 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.06, generator=generator)


def generation(processor: Any) -> GenerationConfig:
    """How a toy policy answers."""
    return GenerationConfig(
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        suppress_tokens=picture_tokens(processor),
        max_new_tokens=1024,
    )


def depth_anything(hidden: int, side: int, positions: int | None = None) -> tuple[Any, Any]:
    """A small Depth Anything V2's configuration and image processor.

    Args:
        hidden: width of the backbone.
        side: pixels of the input's shorter side.
        positions: side that the position embeddings are made for; none: `side`.
    """
    backbone = transformers.Dinov2Config(
        hidden_size=hidden,
        num_hidden_layers=4,
        num_attention_heads=4,
        mlp_ratio=2,
        image_size=positions or side,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
        initializer_range=0.06,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=hidden,
        neck_hidden_sizes=[16, 24, 32, 48],
        fusion_hidden_size=24,
        head_hidden_size=16,
        initializer_range=0.06,
    )
    images = transformers.DPTImageProcessorPil(
        size={"height": side, "width": side},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        do_pad=False,
        resample=Image.Resampling.BICUBIC,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    return config, images


def build_tiny_depth(seed: int, out: Path) -> None:
    """Builds a random toy Depth Anything V2 with its image processor; fp32, the same files for one seed."""
    config, images = depth_anything(hidden=48, side=518)  # the side of the published checkpoints
    model = random_model(AutoModelForDepthEstimation, config, f"tiny-random-{DEPTH}-seed{seed}", seed)
    _save(model, out, images)


def random_model(auto: Any, config: Any, name: str, seed: int) -> Any:
    """A model of a config with random weights of a seed, which says in its config that it is a toy."""
    config.toy = name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return auto.from_config(config, dtype=torch.float32).eval()


def _save(model: Any, out: Path, processor: Any) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    name, count = model.config.toy, sum(parameter.numel() for parameter in model.parameters())
    (out / "README.md").write_text(
        f"# {name}\n\nA toy: random weights ({count:,} parameters) in the architecture {type(model).__name__}. "
        "It has learned nothing; whatever it says or measures means nothing.\n",
        encoding="utf-8",
    )
    logger.info("built %s, %d parameters", name, count)
