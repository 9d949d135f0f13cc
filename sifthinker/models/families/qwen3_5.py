"""Qwen3.5, and what has its architecture: Qwen3.6-27B, Qwen3.8-27B.

The checkpoints think by default (from 4B up). Their template opens `<think>` in the prompt, or closes an empty one, and
cuts `<think>` out of a finished answer: what SFT learns, what is sampled and what is scored would be three texts. So the
family has a template of its own, which renders a conversation as Qwen3-VL's does.

Three of four layers are linear attention, whose kernels (`fla`, `causal_conv1d`) are optional: plain torch is slow. The
`mtp.*` weights of the checkpoints are ignored, and a merged model has none (transformers, `modeling_qwen3_5.py`).

Boxes: integers in 0..1000 of the picture (Qwen3.8-Flash-Next, issue 4).
"""

from __future__ import annotations

from sifthinker.models.families.family import Family
from sifthinker.models.families.qwen2_5_vl import PICTURE_TOKENS

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

FAMILY = Family(
    model_type="qwen3_5",
    processor="Qwen3VLProcessor",
    pictures="budget",
    picture_tokens=PICTURE_TOKENS,
    frozen=("visual",),
    box_frame="thousand",
    side=32,
    end="<|im_end|>",
    toy="sifthinker.models.toys.qwen:qwen3_5",
    template=TEMPLATE,
    video_processor="Qwen3VLVideoProcessor",
)
