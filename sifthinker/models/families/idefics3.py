"""Idefics3: `HuggingFaceM4/Idefics3-8B-Llama3`.

Boxes: none were taught.
"""

from __future__ import annotations

from sifthinker.models.families.family import Family

PICTURE_TOKENS = (
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)

FAMILY = Family(
    model_type="idefics3",
    processor="Idefics3Processor",
    pictures="split",
    picture_tokens=PICTURE_TOKENS,
    frozen=("vision_model", "connector"),
    box_frame="image",
    side=1,
    end="<end_of_utterance>",
    toy="sifthinker.models.toys.idefics3:idefics3",
)
