"""The miniature's models as they begin: random weights, and a tokenizer made for the pipeline's texts."""

from __future__ import annotations

import itertools
import json
import math
import re
from importlib.resources import files
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import models, trainers
from transformers import (
    AddedToken,
    AutoModelForDepthEstimation,
    AutoModelForImageTextToText,
)

from sifthinker.core import prompts
from sifthinker.llm.standin import replies, seeing
from sifthinker.models.processors import install_processors
from sifthinker.models.toys import depth_anything, generation, random_model
from sifthinker.models.toys.qwen import QWEN_SPECIAL, qwen_tokens, qwen_video
from sifthinker.scenes import questions, render

POLICY_NAME, DEPTH_NAME = "miniature-qwen2_5_vl", "miniature-depth_anything"
_VOCABULARY = 1000  # bytes and words; the texts give fewer
_LONGEST = 4096  # tokens
_WAVES = 32  # of the numbers' embeddings

OPENINGS = ('[{"bbox_2d": [', '}, {"bbox_2d": [')  # of a box

# What the chains' JSON is made of, each one token: a reply of a box and a depth takes about 14. Numbers are two
# decimals and, where there is one, the third with what follows it: neighbouring numbers share their first token.
_JSON = (
    *OPENINGS,
    '], "depth": ',
    ', "label": "',
    '"}',
    "}]",
    ", ",
    "1.0",
    *(f"0.{digit}" for digit in range(10)),
    *(f"0.{number:02}" for number in range(100)),
    *(f"{digit}, " for digit in range(10)),
    *(
        "<think>\n<area>",
        "</area>\n<text>",
        "</text>\n<area>",
        "</text>\n</think>\n<answer>\n",
        "\n</answer>",
    ),
)


def build_policy(seed: int) -> tuple[Any, Any]:
    """The policy with random weights, and its processor."""
    install_processors()
    stock = "Qwen2_5_VLProcessor"
    tokenizer = build_tokenizer()
    processor = getattr(transformers, stock)(
        image_processor=transformers.Qwen2VLImageProcessorPil(patch_size=14),
        tokenizer=tokenizer,
        chat_template=files("trl").joinpath("chat_templates", "qwen2_5_vl.jinja").read_text(encoding="utf-8"),
        **qwen_video(stock),
    )
    hidden = 160
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 5,
            "num_key_value_heads": 5,
            "max_position_embeddings": _LONGEST,
            "initializer_range": 0.06,  # the usual 0.02 learns far more slowly at this width
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "out_hidden_size": hidden,
            "fullatt_block_indexes": [0, 1, 2],  # pictures are so small that windows would save nothing
            "initializer_range": 0.06,
        },
        tie_word_embeddings=True,
        **qwen_tokens(tokenizer),
    )
    model = random_model(AutoModelForImageTextToText, config, POLICY_NAME, seed)
    _order_numbers(model, tokenizer, seed)
    model.generation_config = generation(processor)
    return model, processor


def _order_numbers(model: Any, tokenizer: Any, seed: int) -> None:
    """Gives neighbouring numbers like embeddings: what is learnt of one then holds for the next.

    Each is a sum of random directions, weighted by the cosines and sines of its value at growing frequencies.
    """
    values = {f"0.{number:02}": number / 100 + 0.005 for number in range(100)}
    values |= {f"0.{digit}": digit / 10 for digit in range(10)} | {"1.0": 1.0}
    weight = model.get_input_embeddings().weight
    waves = torch.arange(_WAVES) * math.pi * torch.tensor(list(values.values()))[:, None]
    fading = (1 + (torch.arange(_WAVES) / 6) ** 2) ** -0.5
    features = torch.cat([waves.cos() * fading, waves.sin() * fading], dim=1)
    directions = torch.randn(2 * _WAVES, weight.shape[1], generator=torch.Generator().manual_seed(seed))
    found = features @ directions
    with torch.no_grad():
        weight[tokenizer.convert_tokens_to_ids(list(values))] = found * (weight.std() / found.std())


def build_depth(seed: int) -> tuple[Any, Any]:
    """The depth model with random weights, and its image processor."""
    config, images = depth_anything(hidden=64, side=168, positions=224)
    model = random_model(AutoModelForDepthEstimation, config, DEPTH_NAME, seed)
    return model, images


def build_tokenizer() -> Any:
    """Byte-level BPE, split as Qwen's, with the words of prompts, questions and the stand-in's chains as tokens.

    Any text comes back as it was; one that is foreign to the scenes takes a token a letter.
    """
    stock = transformers.Qwen2TokenizerFast()
    trained = tokenizers.Tokenizer(models.BPE())
    trained.normalizer = stock.backend_tokenizer.normalizer
    trained.pre_tokenizer = stock.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(_texts(), trainer)
    bpe = json.loads(trained.to_str())["model"]
    tokenizer = transformers.Qwen2TokenizerFast(
        vocab=bpe["vocab"],
        merges=[tuple(pair) for pair in bpe["merges"]],
        unk_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(QWEN_SPECIAL),
        model_max_length=_LONGEST,
    )
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in _JSON])
    return tokenizer


def _texts() -> list[str]:
    """Every word that is said, at least twice, with the space that it is said with."""
    names = [
        questions.phrase(*values)
        for values in itertools.product(render.SIZES, render.COLORS, (*render.SHAPES, "object"))
    ]
    relations = list(questions.RELATIONS.values())
    said = [
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nOriginal image: \nDepth image: \n",
        prompts.THINK_SUFFIX,
        prompts.REC_QUESTION,
        prompts.OVD_QUESTION,
        questions.LETTER,
        "assistant\nuser\nsystem\n",
        *(f" the {name}s the {name}? {name}. {name}" for name in names),
        *(f" {relation} the camera" for relation in relations),
        *LESSONS,
        "What color is the cube? What is the shape of the cube? Is the cube large or small? Is the cube red?",
        "Is the cube to the left or to the right of the cone? Is the cube on the left or right side of the cone?",
        "Is the cube in front of or behind the cone? Which is closer to the camera, the cube or the cone?",
        "Which object is closest to the camera? Which object is farthest from the camera?",
        "Is there a cube behind the cone? Is there an orange cube in the image? Is there a white cube in the image?",
        "How many cubes are there? How many red objects are there? How many objects are in front of the cone?",
        "Is the cube larger than the cone? Is the cube smaller than the cone? Answer with Yes or No. Answer with a number.",
        "(A) red (B) left (C) yes (D) no\nyes no Yes No left right in front behind 1 2 3 4 5 6 7 8 9 0 A B C D",
    ]
    steps = [
        [(0.0, 0.0, 1.0, 1.0, 0.5)],
        *(
            [(x, y, x + 0.2, y + 0.2, depth)] * count
            for x, y, depth, count in itertools.product((0.1, 0.4, 0.7), (0.1, 0.4, 0.7), (0.2, 0.8), (1, 2))
        ),
        [(0.4, 0.4, 0.6, 0.6, 0.8)],
    ]
    areas = [
        json.dumps([{"bbox_2d": list(region[:4]), "depth": region[4]} for region in step]) for step in steps
    ]
    said += [replies.chain(areas, "red", bytes([name])).replace("```", "") for name in range(60)]
    # A word that follows one of `_JSON` stands without its space.
    words = sorted({word for text in said for word in re.findall(r"[A-Za-z]+", text)})
    return [text for text in (*said, *words) for _ in range(2)]


# What pre-training asks beside the scenes' own questions.
LIST = "List the objects with box and depth, nearest first."
WHERE = "Where is the {query}?"
WHERE_ALL = "Where are all {query}s?"
LOOK = "Where to look for this: {query}"
WHAT = "What is at {query}?"
HOW_DEEP = "How deep is {query}?"
SAY = "Say: {query}"
LESSONS = (LIST, WHERE, WHERE_ALL, LOOK, WHAT, HOW_DEEP, SAY)  # the tokenizer is made from these
WHICH = "Which objects are {query}?"
# As the texts of a chain that looks at one thing after another: in the model's own turn, which goes on after them.
FIRST, NO_MORE = seeing.FIRST, f" {seeing.NO_MORE}, {{number}}."
SEEN = "{region}</area>\n<text>"  # a look has just been written
LOOKED = "</text>\n<area>" + SEEN  # what is said ends, and a look follows
BEGUN = "<think>\n<area>" + SEEN
