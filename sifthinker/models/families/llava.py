"""LLaVA-1.5: `llava-hf/llava-1.5-{7b,13b}-hf`.

The checkpoints' template moves all pictures of a turn before its texts, so that "Original image:" and "Depth image:" lose
theirs, and writes no `</s>` after an answer, so that SFT on it never teaches the end. The family has a template of its
own: Vicuna's form with the pictures where they stand. It writes the `<s>` itself, because TRL's SFT and vLLM's chat
endpoint tokenise without special tokens, and TRL's GRPO with them unless the text begins with one.

Boxes: 0..1 of the picture padded to a square (haotian-liu/LLaVA, issue 606).
"""

from __future__ import annotations

from sifthinker.models.families.family import Family


def vicuna(system: str, end: str) -> str:
    """Vicuna's chat template: `SYSTEM USER: ... ASSISTANT: ...END`, pictures as `<image>` where they stand.

    Args:
        system: the text before the first turn, with the blank that ends it.
        end: the token that ends an answer.
    """
    return (
        "{{ bos_token }}" + system + "{% for message in messages %}"
        "{% if message['role'] == 'user' %}USER: {% elif message['role'] == 'assistant' %}ASSISTANT: {% endif %}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}"
        "{% if message['role'] == 'assistant' %}" + end + "{% else %} {% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )


FAMILY = Family(
    model_type="llava",
    tower="clip_vision_model",
    processor="LlavaProcessor",
    pictures="square",
    picture_tokens=("<image>",),
    frozen=("vision_tower", "multi_modal_projector"),
    box_frame="padded",
    side=1,
    end="</s>",
    toy="sifthinker.models.toys.llava:llava",
    template=vicuna("", "</s>"),
)
