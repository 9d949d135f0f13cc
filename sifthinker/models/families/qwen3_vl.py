"""Qwen3-VL: `Qwen/Qwen3-VL-{2B,4B,8B,32B}-Instruct`.

The Thinking checkpoints open `<think>` themselves in the prompt, so that the chain's own tag is lost: their folders are
refused (`template_check`).

Boxes: 0..1000 of the picture (QwenLM/Qwen3-VL, evaluation/ODinW-13/run_odinw.py).
"""

from __future__ import annotations

from sifthinker.models.families.family import Family
from sifthinker.models.families.qwen2_5_vl import PICTURE_TOKENS

FAMILY = Family(
    model_type="qwen3_vl",
    processor="Qwen3VLProcessor",
    pictures="budget",
    picture_tokens=PICTURE_TOKENS,
    frozen=("visual",),
    box_frame="thousand",
    side=32,
    end="<|im_end|>",
    toy="sifthinker.models.toys.qwen:qwen3_vl",
    video_processor="Qwen3VLVideoProcessor",
)
