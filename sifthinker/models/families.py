"""The model families: all that differs between them, one entry each. A new family is one entry here.

A family goes by the `model_type` of its checkpoints' config. This module imports neither torch nor transformers, so
that a configuration can be checked against it on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Family:
    """What the project has to know of an architecture.

    Attributes:
        processor: Name of the processor's class in transformers; it tells the family of a processor.
        pictures: How pictures are sized. "budget": at their aspect, under a number of pixels, with a token for each
            patch. "square": padded to a square of one size.
        picture_tokens: Tokens that stand for a picture. A model that writes one makes a text that no longer fits its
            images, so they are never sampled.
        frozen: Parts of the names of modules that LoRA leaves alone: vision tower and projector.
        box_frame: The frame in which it was taught to write boxes. "resized": pixels of the picture as its processor
            resized it. "thousand": 0..1000 of the picture. "padded": 0..1 of the picture padded to a square.
        side: Pixels; its processor makes the sides of a picture multiples of it. 1 where pictures are squares.
        toy: The builder of a random model of the architecture, as module:function. It returns processor and config.
        video_processor: Class that the processor insists on although no video is shown; it needs torchvision, so
            `processors.install_processors` goes without it.
    """

    processor: str
    pictures: Literal["budget", "square"]
    picture_tokens: tuple[str, ...]
    frozen: tuple[str, ...]
    box_frame: Literal["resized", "thousand", "padded"]
    side: int
    toy: str
    video_processor: str = ""


_QWEN_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

FAMILIES: dict[str, Family] = {
    "qwen2_5_vl": Family(
        processor="Qwen2_5_VLProcessor",
        pictures="budget",
        picture_tokens=_QWEN_TOKENS,
        frozen=("visual",),
        box_frame="resized",
        side=28,
        toy="sifthinker.models.toys:qwen2_5_vl",
        video_processor="Qwen2VLVideoProcessor",
    ),
    "qwen2_vl": Family(
        processor="Qwen2VLProcessor",
        pictures="budget",
        picture_tokens=_QWEN_TOKENS,
        frozen=("visual",),
        box_frame="thousand",
        side=28,
        toy="sifthinker.models.toys:qwen2_vl",
        video_processor="Qwen2VLVideoProcessor",
    ),
    "qwen3_vl": Family(
        processor="Qwen3VLProcessor",
        pictures="budget",
        picture_tokens=_QWEN_TOKENS,
        frozen=("visual",),
        box_frame="thousand",
        side=32,
        toy="sifthinker.models.toys:qwen3_vl",
        video_processor="Qwen3VLVideoProcessor",
    ),
    "llava": Family(
        processor="LlavaProcessor",
        pictures="square",
        picture_tokens=("<image>",),
        frozen=("vision_tower", "multi_modal_projector"),
        box_frame="padded",
        side=1,
        toy="sifthinker.models.toys:llava",
    ),
}


def picture_tokens() -> tuple[str, ...]:
    """The tokens that stand for pictures in any family."""
    return tuple(dict.fromkeys(token for family in FAMILIES.values() for token in family.picture_tokens))


def frozen_modules() -> str:
    """The pattern of the modules that are not trained, in any family: it matches a whole name."""
    parts = dict.fromkeys(part for family in FAMILIES.values() for part in family.frozen)
    return f".*({'|'.join(parts)}).*"
