"""Qwen2.5-VL trained on many short conversations about one pair of pictures at the cost of little more than one.

A row is the pictures once, and after them the conversations, none of which sees another: each has the positions and
sees the tokens that it would alone. The vision tower runs on all pictures of a batch at once. Losses and gradients are
those of the plain model on the conversations one by one (a test compares them).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    apply_rotary_pos_emb,
    apply_rotary_pos_emb_vision,
)
from transformers.vision_utils import get_vision_position_ids

_BLOCKS = "blocks of conversations"  # name of an attention in transformers' table
_BLOCK = 160  # tokens: conversations that are attended to together


class Packer:
    """Conversations of a processor's policy as rows of tokens; all pictures have one size (multiples of 28 pixels)."""

    def __init__(self, model: Any, processor: Any, width: int, height: int) -> None:
        """For pictures of `width` x `height` pixels, with the tokens of `model` and `processor`."""
        from sifthinker.core import prompts

        self.processor, self.tokenizer = processor, processor.tokenizer
        images = processor.image_processor
        self.patch, self.merge = images.patch_size, images.merge_size
        self.grid = (height // self.patch, width // self.patch)
        tokens = self.grid[0] * self.grid[1] // self.merge**2
        self.mean = np.array(images.image_mean, dtype=np.float32)
        self.std = np.array(images.image_std, dtype=np.float32)
        self.pad = model.config.image_token_id
        self.prefixes: dict[bool, tuple[list[int], torch.Tensor, int]] = {}
        for depth_input in (True, False):
            text = self._chat(prompts.policy_messages("\x00", depth_input, think=False))
            before, self.after = text.split("\x00")
            before = before.replace("<|image_pad|>", "<|image_pad|>" * tokens)
            ids = self._ids(before)
            grid = torch.tensor([[1, *self.grid]] * (1 + depth_input))
            kinds = torch.tensor([[int(id == self.pad) for id in ids]])
            positions, _ = model.model.get_rope_index(
                torch.tensor([ids]), mm_token_type_ids=kinds, image_grid_thw=grid
            )
            self.prefixes[depth_input] = (ids, positions[:, 0], int(positions.max()) + 1)

    def conversation(self, asked: str, answer: str, said: str = "") -> tuple[list[int], list[int]]:
        """Tokens of the question up to the assistant's turn, and of the answer with its end.

        With what the model has `said`, the question ends in that, and the answer goes on from it and has no end.
        """
        end = [] if said else [self.tokenizer.eos_token_id]
        return self._ids(asked + self.after) + self._ids(said), [*self._ids(answer), *end]

    def pixels(self, images: Sequence[npt.NDArray[np.uint8]]) -> torch.Tensor:
        """(N, patches, 3 * patch * patch) of pictures (H, W, 3), in the processor's order."""
        values = (np.stack(images).astype(np.float32) / 255 - self.mean) / self.std
        rows, columns = (side // self.merge for side in self.grid)
        shape = (len(images), rows, self.merge, self.patch, columns, self.merge, self.patch, 3)
        patches = values.reshape(shape).transpose(0, 1, 4, 2, 5, 7, 3, 6)
        return torch.from_numpy(np.ascontiguousarray(patches).reshape(len(images), -1, 3 * self.patch**2))

    def rows(
        self,
        conversations: Sequence[Sequence[tuple[list[int], list[int], float]]],
        depth_input: bool,
        gaps: Iterator[int] | None = None,
        ahead: Iterator[int] | None = None,
    ) -> dict[str, torch.Tensor]:
        """A batch: ids and positions of each row, what each token may see, and the targets with their weights.

        `gaps` gives how many positions each answer stands farther from its question than it would, `ahead` how
        many each question stands farther from the pictures.
        """
        gaps, ahead = gaps or itertools.repeat(0), ahead or itertools.repeat(0)
        prefix, prefix_positions, start = self.prefixes[depth_input]
        length = len(prefix) + max(sum(len(a) + len(b) for a, b, _ in row) for row in conversations)
        count = len(conversations)
        ids = torch.full((count, length), self.tokenizer.pad_token_id)
        positions = torch.zeros((3, count, length), dtype=torch.long)
        part = torch.full((count, length), -1)  # 0 the pictures, 1.. a conversation, -1 padding
        sources, targets, weights = [], [], []
        for index, row in enumerate(conversations):
            ids[index, : len(prefix)] = torch.tensor(prefix)
            positions[:, index, : len(prefix)] = prefix_positions
            part[index, : len(prefix)] = 0
            at = len(prefix)
            for number, (asked, answer, weight) in enumerate(row, 1):
                end = at + len(asked) + len(answer)
                ids[index, at:end] = torch.tensor(asked + answer)
                positions[:, index, at:end] = start + next(ahead) + torch.arange(end - at)
                positions[:, index, at + len(asked) : end] += next(gaps)
                part[index, at:end] = number
                sources.append(index * length + torch.arange(at + len(asked) - 1, end - 1))
                targets.append(torch.tensor(answer))
                weights.append(torch.full((len(answer),), weight))
                at = end
        seen = (part[:, None, :] == part[:, :, None]) | (part[:, None, :] == 0)
        seen &= torch.ones(length, length, dtype=torch.bool).tril()
        seen |= torch.eye(length, dtype=torch.bool)  # padding sees itself, so that its softmax is defined
        return {
            "ids": ids,
            "positions": positions,
            "seen": seen[:, None],
            "part": part,
            "sources": torch.cat(sources),
            "targets": torch.cat(targets),
            "weights": torch.cat(weights),
        }

    def _chat(self, messages: list[dict[str, Any]]) -> str:
        text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return str(text)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def look(model: Any, pixels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The vision tower on N pictures of one size at once: (N, patches, values) -> (N, tokens, hidden).

    Equal to the model's own for pictures of one frame and full attention in every block.
    """
    tower = model.model.visual
    where = get_vision_position_ids(torch.tensor([[1, *grid]]), tower.spatial_merge_size)
    cos, sin = tower.rotary_pos_emb(pixels, where)
    kernel = tower.patch_embed.proj.weight.sum(dim=2).flatten(1)  # both frames are the picture
    x = functional.linear(pixels, kernel)
    count, patches, hidden = x.shape
    for block in tower.blocks:
        attention = block.attn
        q, k, v = (
            attention.qkv(block.norm1(x))
            .view(count, patches, 3, attention.num_heads, -1)
            .permute(2, 0, 1, 3, 4)
        )
        q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)
        mixed = functional.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)))
        x = x + attention.proj(mixed.transpose(1, 2).reshape(count, patches, hidden))
        x = x + block.mlp(block.norm2(x))
    merged: torch.Tensor = tower.merger(x).view(count, patches // tower.spatial_merge_unit, -1)
    return merged


@dataclass(frozen=True, slots=True)
class Look:
    """Whose attention is told: a layer's first `heads` heads, at the tokens `sources` of the rows."""

    layer: int
    heads: int
    sources: torch.Tensor  # (positions,), ascending: row * length + place in the row


def logits(
    model: Any, pictures: torch.Tensor, batch: dict[str, torch.Tensor], looks: Sequence[Look] = ()
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What the model expects at the batch's targets, and what it looks at.

    Args:
        model: the policy.
        pictures: (rows, tokens of all pictures of a row, hidden), from `look`.
        batch: from `Packer.rows`.
        looks: whose attention is told.

    Returns:
        Logits (targets, vocabulary), and of each look log-probabilities (positions, heads, places in the row).
    """
    text = model.model.language_model
    caught: dict[int, dict[str, Any]] = {}
    hooks = [
        text.layers[wanted.layer].self_attn.register_forward_pre_hook(
            lambda _, args, given, number=number: caught.__setitem__(number, given), with_kwargs=True
        )
        for number, wanted in enumerate(looks)
    ]
    embedded = text.embed_tokens(batch["ids"])
    places = (batch["ids"] == model.config.image_token_id)[..., None]
    embedded = embedded.masked_scatter(places, pictures)
    usual, text.config._attn_implementation = text.config._attn_implementation, _BLOCKS
    try:
        hidden = text(
            inputs_embeds=embedded,
            position_ids=batch["positions"],
            attention_mask={"full_attention": (batch["seen"], blocks(batch["part"]))},
            use_cache=False,
        ).last_hidden_state
    finally:
        text.config._attn_implementation = usual
    found: torch.Tensor = model.lm_head(hidden.flatten(0, 1)[batch["sources"]])
    for hook in hooks:
        hook.remove()
    return found, [
        _attention(text.layers[wanted.layer].self_attn, wanted, caught[number], batch)
        for number, wanted in enumerate(looks)
    ]


def blocks(part: torch.Tensor) -> tuple[int, list[list[tuple[int, int]]]]:
    """The length of the pictures' part of a batch's rows, and of each row blocks (start, end) of whole conversations.

    A conversation sees the pictures and itself alone, so that most of a row is nothing to it.
    """
    prefix = int((part[0] == 0).sum())
    rows = []
    for row in part[:, prefix:].tolist():
        found: list[tuple[int, int]] = []
        at = 0
        for _, tokens in itertools.groupby(row):
            at, start = at + len([*tokens]), at
            if found and at - found[-1][0] <= _BLOCK:
                start = found.pop()[0]
            found.append((start, at))
        rows.append([(prefix + start, prefix + end) for start, end in found])
    return prefix, rows


def _in_blocks(
    module: Any,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attention_mask: Any,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers asks for it, over (rows, heads, places, values), without the pairs that see nothing."""
    seen, (prefix, rows) = attention_mask
    pictures = functional.scaled_dot_product_attention(
        queries[:, :, :prefix], keys[:, :, :prefix], values[:, :, :prefix], is_causal=True, scale=scaling
    )
    mixed = []
    for row, found in enumerate(rows):
        parts = [pictures[row]]
        for start, end in found:
            visible = torch.cat([torch.arange(prefix), torch.arange(start, end)])
            parts.append(
                functional.scaled_dot_product_attention(
                    queries[row, :, start:end],
                    keys[row, :, visible],
                    values[row, :, visible],
                    attn_mask=seen[row, :, start:end, visible],
                    scale=scaling,
                )
            )
        mixed.append(torch.cat(parts, dim=1))
    return torch.stack(mixed).transpose(1, 2), None


AttentionInterface.register(_BLOCKS, _in_blocks)


def _attention(
    layer: Any, wanted: Look, caught: dict[str, Any], batch: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Log-probabilities (positions, heads, places in the row) of what a layer's first heads look at."""
    hidden, count = caught["hidden_states"], wanted.heads
    rows, length, _ = hidden.shape
    row, at = wanted.sources // length, wanted.sources % length
    cos, sin = (part.expand(rows, -1, -1) for part in caught["position_embeddings"])
    keys = layer.k_proj(hidden).view(rows, length, -1, layer.head_dim)[:, :, :count]
    queries = layer.q_proj(hidden[row, at]).unflatten(-1, (-1, layer.head_dim))[:, :count]
    queries, _ = apply_rotary_pos_emb(queries, queries, cos[row, at], sin[row, at])
    _, keys = apply_rotary_pos_emb(keys, keys, cos, sin, unsqueeze_dim=2)
    scores = torch.cat([torch.einsum("thd,lhd->thl", queries[row == r], keys[r]) for r in range(rows)])
    return (
        (scores * layer.scaling).masked_fill(~batch["seen"][row, 0, at][:, None], -torch.inf).log_softmax(-1)
    )
