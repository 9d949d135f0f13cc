"""Gemma 3: `google/gemma-3-{4b,12b,27b}-it`; the 1b has no pictures.

A picture is stretched to one square. The template trims every text, so that the line breaks around pictures are the
processor's. A turn ends with `<end_of_turn>`, while the tokenizer's end of sequence is `<eos>`.

Boxes: no frame is documented. Google says that Gemma 3 "likely follows" Gemini's, which has y first.
"""

from __future__ import annotations

from sifthinker.models.families.family import Family

FAMILY = Family(
    model_type="gemma3",
    processor="Gemma3Processor",
    pictures="stretched",
    picture_tokens=("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    frozen=("vision_tower", "multi_modal_projector"),
    box_frame="image",
    side=1,
    end="<end_of_turn>",
    toy="sifthinker.models.toys.gemma3:gemma3",
)
