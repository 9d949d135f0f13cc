"""The memory that a rank of a training needs, from the sizes of the model: an estimate, before anything is loaded.

A rank holds its share of the weights, the adapter with its gradient and AdamW's two moments in fp32, and what a process
takes anyhow, all the time. Beside that it holds, one after the other:

* while it samples (GRPO by transformers): the whole model where ZeRO-3 has cut it up, because TRL gathers it on every
  rank (`ds3_gather_for_generation`); keys and values of all completions that are sampled at once, which are those of all
  accumulated batches; the first pass over the prompts; the vision tower's patches;
* while it computes the loss: activations of the longest sample times the batch (one hidden state a layer with gradient
  checkpointing, and a layer in full), those of the vision tower, the tiles of the head, and the layers that ZeRO-3 has
  gathered (`stage3_max_live_parameters`, a billion parameters).

The larger of the two counts. PyTorch's allocator keeps more than is in use, since caches grow by a token at a time; the
share for that is an assumption. The estimate tells "far too much" and "close to it" from "fits", not to the gigabyte.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import psutil

from sifthinker.config import Grpo, Model, Sft
from sifthinker.core.errors import UserError
from sifthinker.models.families import FAMILIES, TRAINED
from sifthinker.training import samplers

GB = 1e9
PROCESS = {"cpu": 0.7 * GB, "gpu": 2.5 * GB}  # interpreter and libraries; CUDA context, NCCL and work space
KEPT = 0.15  # of what is in use, that the allocator keeps beside it: an assumption
LIVE = 1_000_000_000  # parameters: DeepSpeed's default of stage3_max_live_parameters
TILE = (
    4096 * 16_384
)  # tokens times columns of the head that TRL computes at once (trl/kernels/chunked_logprob.py)


@dataclass(frozen=True)
class Vision:
    """Sizes of a vision tower; all 0 without one."""

    layers: int = 0
    hidden: int = 0
    inner: int = 0  # of the feed-forward layers
    patch: int = 1  # pixels of a patch's side
    square: int = (
        0  # pixels of the side of a picture, or of a tile of it; 0: pictures are under a pixel budget
    )


@dataclass(frozen=True)
class Shape:
    """Sizes of a model that memory and time depend on."""

    parameters: int
    adapted: int  # sum of the inputs and outputs of the layers that LoRA goes to: times r, its parameters
    layers: int
    hidden: int
    inner: int  # of the feed-forward layers
    vocabulary: int
    cached: int  # numbers a token and layer that generation keeps: keys and values
    context: int  # tokens
    vision: Vision = Vision()


# Sizes of models by their names on the hub, for those that are not downloaded yet: of their configs.
PUBLISHED = {
    "Qwen/Qwen2.5-VL-7B-Instruct": Shape(
        parameters=8_292_166_656,
        adapted=28 * (2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)),
        layers=28,
        hidden=3584,
        inner=18944,
        vocabulary=152_064,
        cached=1024,
        context=128_000,
        vision=Vision(layers=32, hidden=1280, inner=3420, patch=14),
    )
}


def read_shape(model: Path) -> Shape:
    """Sizes of the model in a folder, from its config and the headers of its weights.

    Raises:
        UserError: they cannot be read.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False, local_files_only=True)
        shapes = dict(_headers(model))
        adapted = _adapted(config)
    except (OSError, ValueError) as error:
        raise UserError(f"{model}: not a readable model: {error}") from error
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shape(
        parameters=sum(math.prod(size) for size in shapes.values()),
        adapted=adapted,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        inner=text.intermediate_size,
        vocabulary=text.vocab_size,
        cached=2 * head * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
        context=text.max_position_embeddings,
        vision=_vision(getattr(config, "vision_config", None)),
    )


def _adapted(config: Any) -> int:
    """Sum of the inputs and outputs of the layers that LoRA goes to.

    PEFT finds them by the same pattern, in the names of modules. Those of the files differ from family to family, so the
    modules are built, without weights.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        built = AutoModelForImageTextToText.from_config(config)
    return sum(
        layer.in_features + layer.out_features
        for name, layer in built.named_modules()
        if isinstance(layer, torch.nn.Linear) and re.fullmatch(TRAINED, name)
    )


def _vision(config: Any) -> Vision:
    """Sizes of the vision tower; each family's config has other names for them."""
    if config is None:
        return Vision()

    def named(*names: str) -> Any:
        return next((value for name in names if (value := getattr(config, name, None))), 0)

    hidden = named("embed_dim", "hidden_size")  # Qwen2-VL's hidden_size is that of its output
    patch, square = named("patch_size"), named("image_size")
    return Vision(
        layers=named("depth", "num_hidden_layers"),
        hidden=hidden,
        inner=named("intermediate_size") or int(named("mlp_ratio") * hidden),
        patch=patch if isinstance(patch, int) else max(patch),
        square=square if isinstance(square, int) else max(square),
    )


def _headers(model: Path) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of each tensor of the safetensors files, whose weights are not read."""
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        yield from ((name, entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def patches(shape: Shape, policy: Model) -> int:
    """The most patches that the pictures of one sample are cut into."""
    area = shape.vision.square**2
    tiled = FAMILIES[policy.family].pictures in ("tiles", "split")
    tiles = math.ceil(policy.max_pixels / area) + 1 if area and tiled else 1  # and the whole as one more
    pixels = tiles * area if area else policy.max_pixels
    return (2 if policy.depth_input else 1) * math.ceil(pixels / shape.vision.patch**2)


def estimate(settings: Sft | Grpo, shape: Shape, longest: int, policy: Model) -> dict[str, float]:
    """Bytes that a rank needs on its device (on the CPU: in its process) at its peak, by purpose."""
    width = _width(settings)
    parted = settings.ranks if settings.deepspeed != "none" else 1
    whole = "zero3" not in settings.deepspeed
    offload = "offload" in settings.deepspeed
    always = {
        "weights": shape.parameters * width / (1 if whole else settings.ranks),
        "adapter and optimiser": shape.adapted * settings.lora.r * (width + (0 if offload else 12 / parted)),
    }
    if settings.deepspeed == "zero3_offload":
        always["weights"] = 0.0
    phases = [_loss(settings, shape, longest, patches(shape, policy))]
    if isinstance(settings, Grpo) and not samplers.of(settings).scored:  # the trainer samples itself
        phases.append(_sampling(settings, shape, longest, patches(shape, policy)))
    needed = always | max(phases, key=lambda phase: sum(phase.values()))
    return needed | {"kept by the allocator": KEPT * sum(needed.values())}


def _width(settings: Sft | Grpo) -> int:
    return 2 if settings.precision == "bf16" else 4


def _layer(width: int, tokens: float, hidden: int, inner: int) -> float:
    """Bytes of what one layer computes for some tokens."""
    return tokens * (8 * hidden + 3 * inner) * width


def _loss(settings: Sft | Grpo, shape: Shape, longest: int, patches: int) -> dict[str, float]:
    """What a rank holds at the end of the forward pass."""
    width, tower = _width(settings), shape.vision
    tokens, seen = settings.batch * longest, settings.batch * patches
    layer = _layer(width, tokens, shape.hidden, shape.inner)
    scored = settings.batch * (settings.max_completion if isinstance(settings, Grpo) else longest)
    held = {
        "activations": shape.layers * tokens * shape.hidden * width + 2 * layer
        if settings.gradient_checkpointing
        else shape.layers * layer,
        "vision tower": tower.layers * seen * tower.hidden * width
        + 2 * _layer(width, seen, tower.hidden, tower.inner),
        "logits": 2 * 4 * min(scored * shape.vocabulary, TILE),
    }
    if "zero3" in settings.deepspeed:
        held["gathered layers"] = min(shape.parameters, LIVE + shape.vocabulary * shape.hidden) * width
    return held


def _sampling(settings: Grpo, shape: Shape, longest: int, patches: int) -> dict[str, float]:
    """What a rank holds when the last token of the longest completions is sampled, or their prompts are read."""
    width, tower = _width(settings), shape.vision
    completions = settings.batch * settings.accumulation  # TRL samples for all accumulated batches at once
    cache = completions * longest * shape.layers * shape.cached * width
    prompts = completions * (longest - settings.max_completion)
    held = {
        "keys and values": cache * (1 + 2 / shape.layers),  # a layer's are copied when a token is added
        "prompts": 2 * _layer(width, prompts, shape.hidden, shape.inner),
        "vision tower": 2 * _layer(width, completions * patches, tower.hidden, tower.inner),
    }
    if "zero3" in settings.deepspeed:
        held["gathered weights"] = shape.parameters * width
    return held


def check(settings: Sft | Grpo, shape: Shape, longest: int, policy: Model) -> dict[str, float]:
    """The estimate of a rank's memory.

    Raises:
        UserError: there are too few GPUs, or less memory is free.
    """
    needed = estimate(settings, shape, longest, policy)
    gpus, ranks = free_gpus(), settings.ranks_a_node
    if gpus:
        if len(gpus) < ranks:
            raise UserError(f"ranks: {ranks} are configured for this machine and there are {len(gpus)} GPUs")
        needed["process"] = PROCESS["gpu"]
        if isinstance(settings, Grpo) and (share := samplers.of(settings).share(settings)):
            needed["vLLM"] = share * min(total for _, total in gpus[:ranks])
        place, free = "each GPU", min(free for free, _ in gpus[:ranks])
        wanted = sum(needed.values())
    else:
        needed["process"] = PROCESS["cpu"]
        place, free = f"{ranks} processes", float(psutil.virtual_memory().available)
        wanted = ranks * sum(needed.values())
    if wanted > free:
        parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in needed.items())
        raise UserError(
            f"memory: about {wanted / GB:.1f} GB are needed on {place} and {free / GB:.1f} GB are free (a rank: "
            f"{parts}). {_advice(needed)}"
        )
    return needed


def _advice(needed: dict[str, float]) -> str:
    if needed.get("gathered weights", 0.0) > sum(needed.values()) / 2:
        return (
            "Every rank gathers the whole model to sample, so more ranks do not help: take GPUs with more memory, a "
            "smaller model, or let vLLM sample (grpo.generation: vllm_lora)"
        )
    return (
        "End what else runs there, or lower batch, model.max_pixels or the length limit, or set "
        "gradient_checkpointing: true, deepspeed: zero3 or zero3_offload"
    )


def visible_gpus() -> list[str]:
    """The GPUs that the ranks will see, in their order, as CUDA_VISIBLE_DEVICES names them; empty without one."""
    named, count = _named(), len(free_gpus())
    return [str(number) for number in range(count)] if named is None else named[:count]


def _named() -> list[str] | None:
    """What CUDA_VISIBLE_DEVICES lets a program see, as CUDA reads it; None where it is not set.

    Set to nothing it hides all GPUs. What stands behind an invalid entry is hidden, and -1 is the usual one.
    """
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    entries = (entry.strip() for entry in value.split(","))
    return list(takewhile(lambda entry: entry and not entry.startswith("-"), entries))


def free_gpus() -> list[tuple[float, float]]:
    """(free, total) bytes of each GPU that the ranks will see; empty without one.

    Asks nvidia-smi, because a CUDA context of ours would stay on the first GPU for as long as we run.
    """
    command = ["nvidia-smi", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits"]
    named = _named()
    if named == []:
        return []
    if named:
        command.append(f"--id={','.join(named)}")
    try:
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return []
    pairs = [line.split(",") for line in listed.splitlines()]
    return [(float(free) * 2**20, float(total) * 2**20) for free, total in pairs]
