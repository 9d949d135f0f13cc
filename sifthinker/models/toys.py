"""Random toys of the real architectures, built on the spot where the real weights cannot be had.

A policy has about a million parameters, a depth model far fewer; fp32, and the same files for the same seed. They
know nothing, and say so in their config (`toy`) and README.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from PIL import Image
from tokenizers import models, trainers
from transformers import AutoModelForDepthEstimation, AutoModelForImageTextToText, GenerationConfig

from sifthinker.core.errors import UserError
from sifthinker.models.families import FAMILIES
from sifthinker.models.processors import install_processors, picture_tokens

logger = logging.getLogger(__name__)

DEPTH = "depth_anything"  # model_type of Depth Anything V2

# What the toy's tokenizer is trained on: the words of prompts and chains, once each way that they are spaced.
_TEXT = """\
Original image: Depth image: Please first output the thinking process in <think></think>, where the bounding box with \
depth is enclosed in <area></area> and the text analysis in <text></text>, alternating to iteratively refine the focused \
area; then output the final answer in <answer></answer>.
Please provide the bounding box coordinate(s) of the region this sentence describes: the object on the left.
<think>
<area>[{"bbox_2d": [0.0, 0.0, 1.0, 1.0], "depth": 0.512}]</area>
<text>The whole scene opens up, with the floor in front and a wall behind.</text>
<area>[{"bbox_2d": [0.322, 0.151, 0.714, 0.902], "depth": 0.304}, {"bbox_2d": [0.1, 0.2, 0.3, 0.4], "depth": 0.67}]</area>
<text>Nearer than the rest of the picture, this part does not help; the focus moves on to the next region.</text>
</think>
<answer>
The ball is red.
</answer>
Answer with the option's letter from the given choices directly. (A) yes (B) no (C) left (D) right
What color is the cube? How many objects are in the image? Is there a green sphere in front of the blue box?
Which is closer to the camera, the yellow cone or the cylinder? The nearest one. The farthest one, behind. two three four
small large purple orange white black gray brown cyan pyramid above below between next to farther further near far
You are a helpful assistant. system user assistant USER ASSISTANT
"""
_VOCABULARY = 800  # 256 bytes and about 540 merges; the text gives no more
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
_LLAVA_SPECIAL = ("</s>", "<pad>", "<image>")
# Vicuna's form, images where they stand in the text (the checkpoint's own template moves them all to the front).
_LLAVA_TEMPLATE = """\
{% for message in messages %}{% if message['role'] == 'user' %}USER: {% elif message['role'] == 'assistant' %}ASSISTANT: \
{% endif %}{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'image' %}<image>{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}\
{% if message['role'] == 'assistant' %}</s>{% else %} {% endif %}{% endfor %}\
{% if add_generation_prompt %}ASSISTANT:{% endif %}"""
_LANGUAGE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "initializer_range": 0.06,  # the usual 0.02 learns far more slowly at this width
}
_VISION: dict[str, Any] = {"depth": 2, "num_heads": 4, "initializer_range": 0.06}


def build_tiny(family: str, seed: int, out: Path) -> None:
    """Builds a random toy policy with its processor: about a million parameters, fp32, the same files for one seed.

    Raises:
        UserError: the family is not known.
    """
    if family not in FAMILIES:
        raise UserError(f"model.family: {family!r} is not known; known are {', '.join(FAMILIES)}")
    install_processors()
    module, _, builder = FAMILIES[family].toy.partition(":")
    processor, config = getattr(importlib.import_module(module), builder)()
    model = random_model(AutoModelForImageTextToText, config, f"tiny-random-{family}-seed{seed}", seed)
    model.generation_config = generation(processor)
    _save(model, out, processor)


def generation(processor: Any) -> GenerationConfig:
    """How a toy policy answers."""
    return GenerationConfig(
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        suppress_tokens=picture_tokens(processor),
        max_new_tokens=1024,
    )


def depth_anything(hidden: int, side: int, positions: int | None = None) -> tuple[Any, Any]:
    """A small Depth Anything V2's configuration and image processor.

    Args:
        hidden: width of the backbone.
        side: pixels of the input's shorter side.
        positions: side that the position embeddings are made for; none: `side`.
    """
    backbone = transformers.Dinov2Config(
        hidden_size=hidden,
        num_hidden_layers=4,
        num_attention_heads=4,
        mlp_ratio=2,
        image_size=positions or side,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
        initializer_range=0.06,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=hidden,
        neck_hidden_sizes=[16, 24, 32, 48],
        fusion_hidden_size=24,
        head_hidden_size=16,
        initializer_range=0.06,
    )
    images = transformers.DPTImageProcessorPil(
        size={"height": side, "width": side},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        do_pad=False,
        resample=Image.Resampling.BICUBIC,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    return config, images


def build_tiny_depth(seed: int, out: Path) -> None:
    """Builds a random toy Depth Anything V2 with its image processor; fp32, the same files for one seed."""
    config, images = depth_anything(hidden=48, side=518)  # the side of the published checkpoints
    model = random_model(AutoModelForDepthEstimation, config, f"tiny-random-{DEPTH}-seed{seed}", seed)
    _save(model, out, images)


def random_model(auto: Any, config: Any, name: str, seed: int) -> Any:
    """A model of a config with random weights of a seed, which says in its config that it is a toy."""
    config.toy = name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return auto.from_config(config, dtype=torch.float32).eval()


def _save(model: Any, out: Path, processor: Any) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    name, count = model.config.toy, sum(parameter.numel() for parameter in model.parameters())
    (out / "README.md").write_text(
        f"# {name}\n\nA toy: random weights ({count:,} parameters) in the architecture {type(model).__name__}. "
        "It has learned nothing; whatever it says or measures means nothing.\n",
        encoding="utf-8",
    )
    logger.info("built %s, %d parameters", name, count)


def _tokenizer(special: Sequence[str], end: str, padding: str) -> Any:
    """A byte-level BPE tokenizer, split as Qwen's, trained on `_TEXT`."""
    stock = transformers.Qwen2TokenizerFast()
    trained = tokenizers.Tokenizer(models.BPE())
    trained.normalizer = stock.backend_tokenizer.normalizer
    trained.pre_tokenizer = stock.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator([_TEXT], trainer)
    bpe = json.loads(trained.to_str())["model"]
    return transformers.Qwen2TokenizerFast(
        vocab=bpe["vocab"],
        merges=[tuple(pair) for pair in bpe["merges"]],
        unk_token=padding,
        eos_token=end,
        pad_token=padding,
        additional_special_tokens=list(special),
        model_max_length=_LANGUAGE["max_position_embeddings"],
    )


def _qwen(stock: str, template: str, patch_size: int) -> Any:
    """The processor of a Qwen family, with TRL's copy of the checkpoints' chat template, which its trainers know."""
    return getattr(transformers, stock)(
        image_processor=transformers.Qwen2VLImageProcessorPil(patch_size=patch_size),
        tokenizer=_tokenizer(QWEN_SPECIAL, end="<|im_end|>", padding="<|endoftext|>"),
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


def _language(tokenizer: Any, **more: Any) -> dict[str, Any]:
    ends = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return {"vocab_size": len(tokenizer), **_LANGUAGE, **ends, **more}


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
        text_config=_language(processor.tokenizer, rope_parameters=_rope([4, 6, 6])),
        vision_config={**_VISION, **vision},
        tie_word_embeddings=True,
        **qwen_tokens(processor.tokenizer),
    )


def qwen2_vl() -> tuple[Any, Any]:
    """The processor and the config of a toy Qwen2-VL."""
    processor = _qwen("Qwen2VLProcessor", "qwen2_5_vl.jinja", patch_size=14)
    return processor, transformers.Qwen2VLConfig(
        text_config=_language(processor.tokenizer, rope_parameters=_rope([4, 6, 6])),
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
        text_config=_language(processor.tokenizer, head_dim=32, rope_parameters=rope),
        vision_config={**_VISION, **vision},
        tie_word_embeddings=True,
        **qwen_tokens(processor.tokenizer),
    )


def llava() -> tuple[Any, Any]:
    """The processor and the config of a toy LLaVA-1.5."""
    size = 56  # pixels; 4 x 4 patches
    tokenizer = _tokenizer(_LLAVA_SPECIAL, end="</s>", padding="<pad>")
    processor = transformers.LlavaProcessor(
        image_processor=transformers.LlavaImageProcessorPil(
            do_pad=True, size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_LLAVA_TEMPLATE,
    )
    vision = transformers.CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=96,
        image_size=size,
        patch_size=14,
    )
    return processor, transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**_language(tokenizer)),
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
        tie_word_embeddings=True,
    )


def _rope(sections: list[int]) -> dict[str, Any]:
    """Multimodal rotary embedding over time, height and width; the sections fill half a head of 32."""
    return {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": sections}
