"""Toys of the Qwen families."""

from __future__ import annotations

import importlib.util
from importlib.resources import files
from typing import Any

import transformers

from sifthinker.models.toys.text import language, tokenizer

QWEN_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_VISION: dict[str, Any] = {"depth": 2, "num_heads": 4, "initializer_range": 0.06}


def _qwen(stock: str, template: str, patch_size: int) -> Any:
    """The processor of a Qwen family, with TRL's copy of the checkpoints' chat template, which its trainers know."""
    return getattr(transformers, stock)(
        image_processor=transformers.Qwen2VLImageProcessorPil(patch_size=patch_size),
        tokenizer=tokenizer(QWEN_SPECIAL, end="<|im_end|>", padding="<|endoftext|>"),
        chat_template=files("trl").joinpath("chat_templates", template).read_text(encoding="utf-8"),
        **qwen_video(stock),
    )


def qwen_video(stock: str) -> dict[str, Any]:
    """The part that a stock Qwen processor insists on, where torchvision makes it possible."""
    if importlib.util.find_spec("torchvision") is None:
        return {}
    video = "Qwen3VLVideoProcessor" if "3" in stock else "Qwen2VLVideoProcessor"
    return {"video_processor": getattr(transformers, video)()}


def qwen_tokens(tokenizer: Any) -> dict[str, int]:
    """What the config of a Qwen family says about its tokens."""
    names = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    names |= {"vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end"}
    return {key: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in names.items()}


def qwen2_5_vl() -> tuple[Any, Any]:
    """The processor and the config of a toy Qwen2.5-VL."""
    processor = _qwen("Qwen2_5_VLProcessor", "qwen2_5_vl.jinja", patch_size=14)
    vision = {
        "hidden_size": 96,
        "intermediate_size": 192,
        "out_hidden_size": 128,
        "fullatt_block_indexes": [1],
    }
    return processor, transformers.Qwen2_5_VLConfig(
        text_config=language(processor.tokenizer, rope_parameters=_rope([4, 6, 6])),
        vision_config={**_VISION, **vision},
        tie_word_embeddings=True,
        **qwen_tokens(processor.tokenizer),
    )


def qwen2_vl() -> tuple[Any, Any]:
    """The processor and the config of a toy Qwen2-VL."""
    processor = _qwen("Qwen2VLProcessor", "qwen2_5_vl.jinja", patch_size=14)
    return processor, transformers.Qwen2VLConfig(
        text_config=language(processor.tokenizer, rope_parameters=_rope([4, 6, 6])),
        vision_config={**_VISION, "embed_dim": 96, "hidden_size": 128, "mlp_ratio": 2},
        tie_word_embeddings=True,
        **qwen_tokens(processor.tokenizer),
    )


def qwen3_vl() -> tuple[Any, Any]:
    """The processor and the config of a toy Qwen3-VL."""
    processor = _qwen("Qwen3VLProcessor", "qwen3_vl.jinja", patch_size=16)
    rope = {**_rope([6, 5, 5]), "mrope_interleaved": True}
    vision: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 192, "out_hidden_size": 128}
    vision |= {"patch_size": 16, "num_position_embeddings": 256, "deepstack_visual_indexes": [0]}
    return processor, transformers.Qwen3VLConfig(
        text_config=language(processor.tokenizer, head_dim=32, rope_parameters=rope),
        vision_config={**_VISION, **vision},
        tie_word_embeddings=True,
        **qwen_tokens(processor.tokenizer),
    )


def qwen3_5() -> tuple[Any, Any]:
    """The processor and the config of a toy Qwen3.5; one of its four layers has full attention, as in the checkpoints."""
    processor = _qwen("Qwen3VLProcessor", "qwen3_5_think.jinja", patch_size=16)
    rope = {**_rope([2, 1, 1]), "mrope_interleaved": True, "partial_rotary_factor": 0.25}
    linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    linear |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
    vision: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 192, "out_hidden_size": 128}
    vision |= {"patch_size": 16, "num_position_embeddings": 256}
    return processor, transformers.Qwen3_5Config(
        text_config=language(processor.tokenizer, head_dim=32, rope_parameters=rope, **linear),
        vision_config={**_VISION, **vision},
        tie_word_embeddings=True,
        **qwen_tokens(processor.tokenizer),
    )


def _rope(sections: list[int]) -> dict[str, Any]:
    """Multimodal rotary embedding over time, height and width; the sections fill half a head of 32."""
    return {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": sections}
