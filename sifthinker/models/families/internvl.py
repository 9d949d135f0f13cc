"""InternVL3 and InternVL3.5, the checkpoints in transformers' own layout: `OpenGVLab/InternVL3-{1B,...,78B}-hf`.

The others of their name hold remote code and are refused, since their config has another `model_type`.

Pictures are cut into tiles. The pixel budget becomes a number of tiles, to which a thumbnail is added where there is more
than one. `crop_to_patches` stays on, because TRL counts the tiles of a sample with it (`grpo_trainer.py`).

Boxes: 0..1000 of the picture (OpenGVLab/InternVL, issue 285).
"""

from __future__ import annotations

from sifthinker.models.families.family import Family

FAMILY = Family(
    model_type="internvl",
    processor="InternVLProcessor",
    pictures="tiles",
    picture_tokens=("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
    frozen=("vision_tower", "multi_modal_projector"),
    box_frame="thousand",
    side=1,
    end="<|im_end|>",
    toy="sifthinker.models.toys.internvl:internvl",
    video_processor="InternVLVideoProcessor",
)
