"""Toys of Idefics3 and SmolVLM."""

from __future__ import annotations

import importlib.util
from importlib.resources import files
from typing import Any

import transformers

from sifthinker.models.families.idefics3 import PICTURE_TOKENS
from sifthinker.models.toys.text import language, opening_tokenizer, tokenizer

_SIZE, _PATCH = 56, 14  # pixels of a tile; 4 x 4 patches, which become 2 x 2 tokens
_TOKENS = (_SIZE // _PATCH // 2) ** 2
_TOWER = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": _SIZE,
    "patch_size": _PATCH,
}
_TILES = {"size": {"longest_edge": 2 * _SIZE}, "max_image_size": {"longest_edge": _SIZE}}


def idefics3() -> tuple[Any, Any]:
    """The processor and the config of a toy Idefics3."""
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    special = (begin, end, "<end_of_utterance>", *PICTURE_TOKENS)
    made = opening_tokenizer(special, begin, end, end)
    processor = transformers.Idefics3Processor(
        image_processor=transformers.Idefics3ImageProcessorPil(**_TILES),
        tokenizer=made,
        image_seq_len=_TOKENS,
        chat_template=_template("idefics3.jinja"),
    )
    return processor, transformers.Idefics3Config(
        text_config=transformers.LlamaConfig(**language(made)),
        vision_config=_TOWER,
        image_token_id=made.convert_tokens_to_ids("<image>"),
        pad_token_id=made.pad_token_id,
        scale_factor=2,
        tie_word_embeddings=True,
    )


def smolvlm() -> tuple[Any, Any]:
    """The processor and the config of a toy SmolVLM."""
    special = ("<|endoftext|>", "<|im_start|>", "<end_of_utterance>", *PICTURE_TOKENS, "<video>")
    made = tokenizer(special, end="<end_of_utterance>", padding="<|endoftext|>")
    video = {}
    if importlib.util.find_spec("torchvision") is not None:
        video["video_processor"] = transformers.SmolVLMVideoProcessor()
    processor = transformers.SmolVLMProcessor(
        image_processor=transformers.SmolVLMImageProcessorPil(**_TILES),
        tokenizer=made,
        image_seq_len=_TOKENS,
        chat_template=_template("smolvlm.jinja"),
        **video,
    )
    return processor, transformers.SmolVLMConfig(
        text_config=transformers.LlamaConfig(**language(made)),
        vision_config=_TOWER,
        image_token_id=made.convert_tokens_to_ids("<image>"),
        pad_token_id=made.pad_token_id,
        scale_factor=2,
        tie_word_embeddings=True,
    )


def _template(name: str) -> str:
    return files("trl").joinpath("chat_templates", name).read_text(encoding="utf-8")
