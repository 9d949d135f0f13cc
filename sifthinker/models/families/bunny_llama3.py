"""Bunny-Llama-3-8B-V, the paper's third base model: SigLIP, a projector of two layers, and LLaMA-3.

`BAAI/Bunny-Llama-3-8B-V` is published with code of its own, which is never run. `sifthinker.models.convert_bunny` writes
its weights as transformers' LLaVA; this entry is of such a folder.

The template is Bunny's `conv_llama`, with the pictures where they stand. LLaMA-3's own turns were never trained.
Boxes: 0..1 of the padded square, since its training data holds LLaVA's (BAAI-DCAI/Bunny, README).
"""

from __future__ import annotations

from sifthinker.models.families.family import Family
from sifthinker.models.families.llava import vicuna

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)
END = "<|end_of_text|>"

FAMILY = Family(
    model_type="llava",
    tower="siglip_vision_model",
    processor="LlavaProcessor",
    pictures="square",
    picture_tokens=("<image>",),
    frozen=("vision_tower", "multi_modal_projector"),
    box_frame="padded",
    side=1,
    end=END,
    toy="sifthinker.models.toys.llava:bunny_llama3",
    template=vicuna(SYSTEM, END),
)
