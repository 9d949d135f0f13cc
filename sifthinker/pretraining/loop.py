"""The loop of a pre-training: steps, checkpoints from which it resumes exactly, and its history."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sifthinker.core.errors import UserError
from sifthinker.pretraining import scene_pool
from sifthinker.pretraining.depth_training import Depth
from sifthinker.pretraining.policy_training import Far, Lists, Next, Policy
from sifthinker.pretraining.recipe import BLOCK, FALL, PASSES, Recipe, rate_share, scenes_needed
from sifthinker.pretraining.scene_pool import Pool, Rendering, Seen

logger = logging.getLogger(__name__)

LOG = 25  # steps between two lines of the history

TRAININGS: dict[str, Callable[[Recipe], Policy | Depth]] = {
    "policy": Policy,
    "far": Far,
    "lists": Lists,
    "next": Next,
    "depth": Depth,
}


def train(work: Path, recipe: Recipe, save_minutes: float = 3.0, stop_after: int | None = None) -> Path:
    """Trains a model, or resumes its training, and returns the folder of its weights.

    Args:
        work: folder of the checkpoint, the history, the scenes and the weights.
        recipe: what to train, and how.
        save_minutes: time between two checkpoints.
        stop_after: step to stop after, as an interruption would; none trains all of the recipe's steps.

    Raises:
        UserError: the folder holds a training by another recipe; more `steps` are allowed before the rate falls.
    """
    work.mkdir(parents=True, exist_ok=True)
    training = TRAININGS[recipe.what](recipe)
    modules = nn.ModuleList([training.model, training.extra])
    optimiser = _optimiser(modules, recipe.rate)
    first = _resume(work, recipe, modules, optimiser)
    last = min(recipe.steps, stop_after or recipe.steps)
    scenes = Pool(
        work / "pool",
        recipe.seed,
        width=recipe.width,
        height=recipe.height,
        fewest=recipe.fewest,
        most=recipe.most,
        alike=recipe.alike,
    )
    rendering = Rendering(scenes, scenes_needed(recipe))
    try:
        order = SceneOrder(scenes, recipe, rendering)
        started = saved = time.monotonic()
        recent: list[dict[str, float]] = []
        for step in range(first, last):
            rng = np.random.default_rng((recipe.seed, 77, step))
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * rate_share(step, recipe)
            loss, parts = training.loss(order.scenes(step), rng, step)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
            optimiser.step()
            recent.append({"loss": loss.item(), **parts})
            now, done = time.monotonic(), step + 1
            if done % LOG == 0 or done in (recipe.looking, last):
                _log(work, done, recipe, recent, (now - started) / (done - first))
                recent.clear()
            if now - saved > save_minutes * 60 or done == last:
                _save(work, recipe, modules, optimiser, done, training)
                saved = time.monotonic()
    finally:
        rendering.stop()
    return work / "model"


def _optimiser(modules: nn.Module, rate: float) -> torch.optim.Optimizer:
    matrices = [p for p in modules.parameters() if p.ndim > 1]
    others = [p for p in modules.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


class SceneOrder:
    """Which scenes a step sees: blocks of shards in order, each shuffled anew for every pass over it."""

    def __init__(self, scenes: Pool, recipe: Recipe, rendering: Rendering) -> None:
        """The order of a recipe's steps in a pool, whose shards are read when a step first needs them."""
        self.pool, self.recipe, self.rendering = scenes, recipe, rendering
        self.block, self.loaded = -1, list[Seen]()
        self.shards = min(BLOCK, -(-scenes_needed(recipe) // scene_pool.SHARD))
        self.size = self.shards * scene_pool.SHARD

    def scenes(self, step: int) -> list[Seen]:
        """The scenes of a step, from 0; the same whenever it is asked for."""
        start = step * self.recipe.batch
        return [self._scene(number) for number in range(start, start + self.recipe.batch)]

    def _scene(self, number: int) -> Seen:
        turn, place = divmod(number, self.size)
        block = turn // PASSES
        if block != self.block:
            shards = range(block * self.shards, (block + 1) * self.shards)
            self.block, self.loaded = (
                block,
                [seen for shard in shards for seen in scene_pool.read(self.pool, shard, self.rendering)],
            )
        order = np.random.default_rng((self.recipe.seed, 78, turn)).permutation(self.size)
        return self.loaded[order[place]]


def _resume(work: Path, recipe: Recipe, modules: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    path = work / "checkpoint.pt"
    if not path.exists():
        (work / "history.jsonl").unlink(missing_ok=True)
        return 0
    state = torch.load(path, weights_only=True)
    earlier, now = asdict(Recipe(**state["recipe"])), asdict(recipe)  # a checkpoint may be older than a field
    changed = [key for key in now if now[key] != earlier.get(key)]
    falling = state["step"] > earlier["steps"] * (1 - FALL)
    if changed and (changed != ["steps"] or falling or state["step"] > recipe.steps):
        found = ", ".join(f"{key} {earlier.get(key)} -> {now[key]}" for key in changed)
        raise UserError(
            f"{path}: was made by another recipe ({found}); only steps may change, and only before the rate falls"
        )
    modules.load_state_dict(state["modules"])
    optimiser.load_state_dict(state["optimiser"])
    lines = (work / "history.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= state["step"]]
    (work / "history.jsonl").write_text("".join(kept), encoding="utf-8")
    logger.info("%s: resumes at step %d", work, state["step"])
    return int(state["step"])


def _save(
    work: Path,
    recipe: Recipe,
    modules: nn.Module,
    optimiser: torch.optim.Optimizer,
    step: int,
    training: Policy | Depth,
) -> None:
    state = {"recipe": asdict(recipe), "step": step, "modules": modules.state_dict()}
    temporary = work / "checkpoint.tmp"
    torch.save({**state, "optimiser": optimiser.state_dict()}, temporary)
    training.model.save_pretrained(work / "model")
    training.processor.save_pretrained(work / "model")
    temporary.replace(work / "checkpoint.pt")


def _log(work: Path, step: int, recipe: Recipe, recent: list[dict[str, float]], seconds: float) -> None:
    row = {key: statistics.fmean(entry[key] for entry in recent) for key in recent[0]}
    with (work / "history.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "scenes": step * recipe.batch, **row}) + "\n")
    left = (recipe.steps - step) * seconds / 60
    shown = ", ".join(f"{key} {value:.4f}" for key, value in row.items())
    logger.info("step %d of %d: %s; %.3f s a step, %.0f min left", step, recipe.steps, shown, seconds, left)
