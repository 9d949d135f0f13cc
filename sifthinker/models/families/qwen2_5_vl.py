"""Qwen2.5-VL: `Qwen/Qwen2.5-VL-{3B,7B,32B,72B}-Instruct`, the paper's first base model.

Boxes: "absolute for the resized image" (QwenLM/Qwen3-VL, qwen-vl-finetune/tools/process_bbox.ipynb).
"""

from __future__ import annotations

from sifthinker.models.families.family import Family

PICTURE_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

FAMILY = Family(
    model_type="qwen2_5_vl",
    processor="Qwen2_5_VLProcessor",
    pictures="budget",
    picture_tokens=PICTURE_TOKENS,
    frozen=("visual",),
    box_frame="resized",
    side=28,
    end="<|im_end|>",
    toy="sifthinker.models.toys.qwen:qwen2_5_vl",
    video_processor="Qwen2VLVideoProcessor",
)
