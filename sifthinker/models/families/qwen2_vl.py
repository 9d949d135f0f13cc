"""Qwen2-VL: `Qwen/Qwen2-VL-{2B,7B}-Instruct`.

Boxes: "relative, 0-1000" (QwenLM/Qwen3-VL, qwen-vl-finetune/tools/process_bbox.ipynb).
"""

from __future__ import annotations

from sifthinker.models.families.family import Family
from sifthinker.models.families.qwen2_5_vl import PICTURE_TOKENS

FAMILY = Family(
    model_type="qwen2_vl",
    processor="Qwen2VLProcessor",
    pictures="budget",
    picture_tokens=PICTURE_TOKENS,
    frozen=("visual",),
    box_frame="thousand",
    side=28,
    end="<|im_end|>",
    toy="sifthinker.models.toys.qwen:qwen2_vl",
    video_processor="Qwen2VLVideoProcessor",
)
