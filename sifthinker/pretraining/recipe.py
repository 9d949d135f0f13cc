"""What decides the outcome of a pre-training: its sizes, its rate, and how many scenes it needs."""

from __future__ import annotations

from dataclasses import dataclass

from sifthinker.pretraining import scene_pool

PASSES = 3  # over a block of scenes, with other lessons each time
BLOCK = 8  # shards; fewer where the whole training needs fewer
WARMUP, FALL = 200, 1 / 3  # steps; share of the steps


@dataclass(frozen=True, slots=True)
class Recipe:
    """The sizes and the rate of one training, and its seed."""

    what: str
    steps: int
    batch: int  # scenes a step
    lessons: int  # a scene (policy)
    rate: float
    seed: int
    looking: int = 0  # first steps, which train the policy's vision tower alone
    width: int = 224
    height: int = 168
    fewest: int = 2  # solids in a scene
    most: int = 5
    alike: float = 0.0  # share of the solids that are like an earlier one
    start: str = ""  # a model's folder (far, lists, next)


RECIPES = {
    "policy": Recipe("policy", steps=10_000, batch=3, lessons=7, rate=1e-3, seed=1, looking=4000),
    "far": Recipe("far", steps=1_400, batch=3, lessons=7, rate=5e-4, seed=2),
    "lists": Recipe("lists", steps=5_000, batch=3, lessons=8, rate=5e-4, seed=4, fewest=3, most=6),
    "next": Recipe("next", steps=1_500, batch=3, lessons=14, rate=5e-4, seed=6, fewest=3, most=6, alike=0.5),
    "depth": Recipe("depth", steps=3_000, batch=8, lessons=0, rate=1e-3, seed=1),
}


def scenes_needed(recipe: Recipe) -> int:
    """Scenes of the whole training, whole blocks of them where it has several."""
    scenes = -(-recipe.steps * recipe.batch // PASSES)
    block = BLOCK * scene_pool.SHARD
    return scenes if scenes <= block else -(-scenes // block) * block


def rate_share(step: int, recipe: Recipe) -> float:
    """The share of the highest rate at a step: it rises, after the first steps again, and falls at the end."""
    fall = recipe.steps * (1 - FALL)
    begun = step - recipe.looking if step >= recipe.looking else step
    return min((begun + 1) / min(WARMUP, recipe.steps), 1.0, (recipe.steps - step) / (recipe.steps - fall))
