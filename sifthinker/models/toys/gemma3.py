"""A toy of Gemma 3."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import transformers

from sifthinker.models.toys.text import language, opening_tokenizer

_SIZE, _PATCH = 56, 14  # pixels of a picture; 4 x 4 patches, which become 2 x 2 tokens
_NAMES = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
_SPECIAL = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", *_NAMES.values())


def gemma3() -> tuple[Any, Any]:
    """The processor and the config of a toy Gemma 3, whose end of sequence is not its end of turn."""
    tokenizer = opening_tokenizer(_SPECIAL, "<bos>", "<eos>", "<pad>", _NAMES)
    tokens = (_SIZE // _PATCH // 2) ** 2
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessorPil(size={"height": _SIZE, "width": _SIZE}),
        tokenizer=tokenizer,
        image_seq_length=tokens,
        chat_template=files("trl").joinpath("chat_templates", "gemma3.jinja").read_text(encoding="utf-8"),
    )
    text = language(tokenizer, head_dim=32, sliding_window=512, query_pre_attn_scalar=32)
    return processor, transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**text),
        vision_config=transformers.SiglipVisionConfig(
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=_SIZE,
            patch_size=_PATCH,
        ),
        mm_tokens_per_image=tokens,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        tie_word_embeddings=True,
    )
