"""Toys of the families that transformers loads as LLaVA."""

from __future__ import annotations

from typing import Any

import transformers

from sifthinker.models.families.bunny_llama3 import END, FAMILY
from sifthinker.models.toys.text import language, opening_tokenizer

_SIZE = 56  # pixels; 4 x 4 patches
_PATCH = 14
_TOWER = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": _SIZE,
    "patch_size": _PATCH,
}

# Writes what the template of llava-hf/llava-1.5-7b-hf writes: all pictures of a turn before its texts, and no </s>. The
# family's own takes its place when the processor is loaded.
_PUBLISHED = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'] | upper }}: {% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def llava() -> tuple[Any, Any]:
    """The processor and the config of a toy LLaVA-1.5, with the image processor of its checkpoints, CLIP's."""
    tokenizer = opening_tokenizer(("<unk>", "<s>", "</s>", "<image>", "<pad>"), "<s>", "</s>", "<pad>")
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessorPil(
            size={"shortest_edge": _SIZE}, crop_size={"height": _SIZE, "width": _SIZE}
        ),
        tokenizer=tokenizer,
        patch_size=_PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_PUBLISHED,
    )
    return processor, transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**language(tokenizer)),
        vision_config=transformers.CLIPVisionConfig(**_TOWER, projection_dim=96),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
        tie_word_embeddings=True,
    )


def bunny_llama3() -> tuple[Any, Any]:
    """The processor and the config of a toy Bunny-LLaMA3, as the conversion leaves it."""
    begin = "<|begin_of_text|>"
    tokenizer = opening_tokenizer((begin, END, "<image>"), begin, END, END)
    processor = transformers.LlavaProcessor(
        image_processor=transformers.LlavaImageProcessorPil(
            do_pad=True,
            do_center_crop=False,
            size={"height": _SIZE, "width": _SIZE},
            crop_size={"height": _SIZE, "width": _SIZE},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        tokenizer=tokenizer,
        patch_size=_PATCH,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=FAMILY.template,
    )
    return processor, transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**language(tokenizer)),
        vision_config=transformers.SiglipVisionConfig(**_TOWER, vision_use_head=False),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(_SIZE // _PATCH) ** 2,
        vision_feature_select_strategy="full",
        vision_feature_layer=-2,
    )
