"""The toys' tokenizers, and the language model that they share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
import transformers
from tokenizers import models, processors, trainers

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
LANGUAGE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "initializer_range": 0.06,  # the usual 0.02 learns far more slowly at this width
}


def tokenizer(special: Sequence[str], end: str, padding: str, names: Mapping[str, str] | None = None) -> Any:
    """A byte-level BPE tokenizer, split as Qwen's, trained on `_TEXT`.

    Args:
        special: its special tokens, by their spelling in the family's checkpoints.
        end: of them, its end of sequence.
        padding: of them, its padding.
        names: special tokens that the family's processor asks for by an attribute of the tokenizer.
    """
    bpe = json.loads(_trained().to_str())["model"]
    return transformers.Qwen2TokenizerFast(
        vocab=bpe["vocab"],
        merges=[tuple(pair) for pair in bpe["merges"]],
        unk_token=padding,
        eos_token=end,
        pad_token=padding,
        additional_special_tokens=list(special),
        model_max_length=LANGUAGE["max_position_embeddings"],
        **({"extra_special_tokens": dict(names)} if names else {}),
    )


def opening_tokenizer(
    special: Sequence[str], begin: str, end: str, padding: str, names: Mapping[str, str] | None = None
) -> Any:
    """The same, which begins every text with a token of its own, as those of Llama, LLaMA-3 and Gemma do.

    Args:
        special: its special tokens.
        begin: of them, the one that a text begins with.
        end: of them, its end of sequence.
        padding: of them, its padding.
        names: special tokens that the family's processor asks for by an attribute of the tokenizer.
    """
    made = _trained()
    made.add_special_tokens(list(special))
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, made.token_to_id(begin))]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=begin,
        eos_token=end,
        pad_token=padding,
        model_max_length=LANGUAGE["max_position_embeddings"],
        extra_special_tokens=dict(names or {}),
    )


def _trained() -> tokenizers.Tokenizer:
    stock = transformers.Qwen2TokenizerFast()
    trained = tokenizers.Tokenizer(models.BPE())
    trained.normalizer = stock.backend_tokenizer.normalizer
    trained.pre_tokenizer = stock.backend_tokenizer.pre_tokenizer
    trained.decoder = stock.backend_tokenizer.decoder
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator([_TEXT], trainer)
    return trained


def language(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """The settings of a toy's language model, whose tokens are those of a tokenizer."""
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return {"vocab_size": len(tokenizer), **LANGUAGE, **ends, **more}
