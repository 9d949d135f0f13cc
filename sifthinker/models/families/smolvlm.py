"""SmolVLM and SmolVLM2: `HuggingFaceTB/SmolVLM2-{256M,500M,2.2B}-*`.

Boxes: none were taught.
"""

from __future__ import annotations

from sifthinker.models.families.family import Family
from sifthinker.models.families.idefics3 import PICTURE_TOKENS

FAMILY = Family(
    model_type="smolvlm",
    processor="SmolVLMProcessor",
    pictures="split",
    picture_tokens=(*PICTURE_TOKENS, "<video>"),
    frozen=("vision_model", "connector"),
    box_frame="image",
    side=1,
    end="<end_of_utterance>",
    toy="sifthinker.models.toys.idefics3:smolvlm",
    video_processor="SmolVLMVideoProcessor",
)
