"""A toy of InternVL3."""

from __future__ import annotations

import importlib.util
from typing import Any

import transformers

from sifthinker.models.toys.text import language, tokenizer

_SIZE, _PATCH = 56, 14  # pixels of a tile; 4 x 4 patches, which become 2 x 2 tokens
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
_NAMES = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}

# Writes what the template of OpenGVLab/InternVL3-*-hf writes for texts and pictures.
_PUBLISHED = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def internvl() -> tuple[Any, Any]:
    """The processor and the config of a toy InternVL3."""
    made = tokenizer(_SPECIAL, end="<|im_end|>", padding="<|endoftext|>", names=_NAMES)
    video = {}
    if importlib.util.find_spec("torchvision") is not None:
        video["video_processor"] = transformers.InternVLVideoProcessor()
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessorPil(
            size={"height": _SIZE, "width": _SIZE}, crop_to_patches=True
        ),
        tokenizer=made,
        image_seq_length=(_SIZE // _PATCH // 2) ** 2,
        chat_template=_PUBLISHED,
        **video,
    )
    return processor, transformers.InternVLConfig(
        text_config=transformers.Qwen2Config(**language(made)),
        vision_config=transformers.InternVLVisionConfig(
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=[_SIZE, _SIZE],
            patch_size=[_PATCH, _PATCH],
        ),
        image_token_id=made.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=processor.image_seq_length,
        tie_word_embeddings=True,
    )
