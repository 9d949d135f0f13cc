"""The losses that the policy has besides its text: what the tokens of its vision tower show, and where its heads look."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sifthinker.pretraining import packed_attention
from sifthinker.pretraining.scene_pool import Seen
from sifthinker.scenes import render

_BLUR = 0.02  # standard deviation of the numbers that a cell is to show, in 0..1
_KINDS = {"color": list(render.COLORS), "shape": list(render.SHAPES), "size": list(render.SIZES)}


class Cells(nn.Module):
    """What a token of the vision tower shows.

    A thing's colour, shape and size are read off by their words' own embeddings, its box and depth by those of the
    numbers, behind one layer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        """Reads the tokens of `model` by its own embeddings; random, as torch's seed says."""
        super().__init__()
        self.words = [word_ids(tokenizer, names) for names in _KINDS.values()]
        # In a list, so that the model's embedding is not a part of this module too.
        self.embedding = [model.model.language_model.embed_tokens]
        self.numbers = torch.tensor(
            tokenizer.convert_tokens_to_ids([f"0.{number:02}" for number in range(100)])
        )
        self.scale, self.nothing = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(3))
        self.read = nn.Linear(self.embedding[0].embedding_dim, 5 * self.embedding[0].embedding_dim)

    def loss(self, tokens: torch.Tensor, seen: list[Seen]) -> torch.Tensor:
        """The loss of the tokens of the scenes' photographs: (scenes, cells, hidden)."""
        table: list[list[int]] = []
        boxes: list[list[float]] = []
        cells = []
        for scene in seen:
            start = len(table)
            for thing in scene.facts["things"]:
                table.append([names.index(thing[key]) for key, names in _KINDS.items()])
                boxes.append([*thing["box"], thing["depth"]])
            table.append([len(names) for names in _KINDS.values()])
            boxes.append([0.0] * 5)
            found = np.array(scene.facts["cells"]).ravel()
            cells.append(np.where(found < 0, len(table) - 1, found + start))
        index = torch.from_numpy(np.concatenate(cells))
        truth, places = torch.tensor(table)[index], torch.tensor(boxes)[index]
        flat = tokens.flatten(0, 1)
        total = flat.new_zeros(())
        for part, words in enumerate(self.words):
            read = flat @ self.embedding[0].weight[words].T * self.scale[part]
            read = torch.cat([read, self.nothing[part].expand(len(flat), 1)], dim=1)
            total = total + functional.cross_entropy(read, truth[:, part])
        there = truth[:, 0] < len(render.COLORS)
        read = self.read(flat[there]).unflatten(1, (5, -1)) @ self.embedding[0].weight[self.numbers].T
        away = (places[there][..., None] - (torch.arange(100) + 0.5) / 100) / _BLUR
        wanted = (-(away**2) / 2).softmax(-1)
        return total + functional.cross_entropy(read.flatten(0, 1) * self.scale[3], wanted.flatten(0, 1))


def word_ids(tokenizer: Any, words: list[str]) -> torch.Tensor:
    """The tokens of words in the midst of a text: (words,). Each word must be one token."""
    ids = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
    return torch.tensor(ids).squeeze(1)


class Looks:
    """Tokens, the places in their rows that they are to look at, and how much each counts."""

    def __init__(self, length: int) -> None:
        """None so far, in rows of `length` tokens."""
        self.length = length
        self.tokens, self.places, self.weights = list[int](), list[list[int]](), list[float]()

    def add(self, token: int, places: list[int], weight: float) -> None:
        """Adds a token; without places nothing, since some answers are about nothing and some things fill no cell."""
        if places:
            self.tokens.append(token)
            self.places.append(places)
            self.weights.append(weight)

    def asked(self, layer: int, heads: int) -> packed_attention.Look:
        """The request for the attention of these tokens in the first `heads` of a layer."""
        return packed_attention.Look(layer, heads, torch.tensor(self.tokens, dtype=torch.long))

    def missed(self, looked: torch.Tensor) -> torch.Tensor:
        """How little of the attention (tokens, heads, places) is where it should be: a mean of minus its logarithms."""
        if not self.tokens:
            return looked.new_zeros(())
        there = torch.zeros(len(self.tokens), self.length, dtype=torch.bool)
        for number, places in enumerate(self.places):
            there[number, places] = True
        weights = torch.tensor(self.weights)
        mass = looked.masked_fill(~there[:, None], -torch.inf).logsumexp(-1).mean(1)
        return -(mass * weights).sum() / weights.sum()
