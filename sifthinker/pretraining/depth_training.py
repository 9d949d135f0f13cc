"""The depth model's training: the exact depth of every pixel."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from sifthinker.pretraining import build
from sifthinker.pretraining.recipe import Recipe
from sifthinker.pretraining.scene_pool import Seen


class Depth:
    """The depth model's training: the exact depth of every pixel."""

    def __init__(self, recipe: Recipe) -> None:
        """A new model, of the recipe's seed."""
        self.recipe = recipe
        self.model, self.processor = build.build_depth(recipe.seed)
        self.extra = nn.Identity()
        self.mean = np.array(self.processor.image_mean, dtype=np.float32)
        self.std = np.array(self.processor.image_std, dtype=np.float32)
        self.model.train()

    def loss(
        self, seen: list[Seen], rng: np.random.Generator, step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of some scenes, and its parts for the history."""
        images = np.stack([scene.image for scene in seen]).astype(np.float32) / 255
        pixels = torch.from_numpy(((images - self.mean) / self.std).transpose(0, 3, 1, 2).copy())
        truth = torch.from_numpy(np.stack([scene.depth for scene in seen])).float() / 255
        found = self.model(pixel_values=pixels).predicted_depth
        error = (found - truth).abs().mean()
        # Edges stay sharp, as with the gradient loss of Depth Anything.
        slopes = sum(((found - truth).diff(dim=dim)).abs().mean() for dim in (1, 2))
        return error + 2 * slopes, {"error": error.item()}
