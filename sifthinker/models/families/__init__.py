"""The model families: all that differs between them, one entry each. A new family is one module here and one line below.

A family goes by the name in `model.family`. Nothing here imports torch or transformers, so that a configuration can be
checked on any machine. Of the entries only that of the configured family is part of a stage's key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sifthinker.models.families import (
    bunny_llama3,
    gemma3,
    idefics3,
    internvl,
    llava,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_5,
    qwen3_vl,
    smolvlm,
)
from sifthinker.models.families.family import TRAINED, Family

__all__ = ["FAMILIES", "TRAINED", "Family", "named", "of_processor"]

FAMILIES: dict[str, Family] = {
    "qwen2_5_vl": qwen2_5_vl.FAMILY,
    "qwen2_vl": qwen2_vl.FAMILY,
    "qwen3_vl": qwen3_vl.FAMILY,
    "qwen3_5": qwen3_5.FAMILY,
    "llava": llava.FAMILY,
    "bunny_llama3": bunny_llama3.FAMILY,
    "internvl": internvl.FAMILY,
    "gemma3": gemma3.FAMILY,
    "smolvlm": smolvlm.FAMILY,
    "idefics3": idefics3.FAMILY,
}


def named(config: Mapping[str, Any]) -> str | None:
    """The name of the family of a checkpoint's config.json; None where it is of none."""
    vision = config.get("vision_config")
    tower = vision.get("model_type", "") if isinstance(vision, Mapping) else ""
    return next(
        (
            name
            for name, family in FAMILIES.items()
            if family.model_type == config.get("model_type")
            and (not (tower and family.tower) or tower == family.tower)
        ),
        None,
    )


def of_processor(name: str) -> list[Family]:
    """The families whose processor is of a class."""
    return [family for family in FAMILIES.values() if family.processor == name]
