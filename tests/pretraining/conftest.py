"""What tests of lists of boxes share: scenes with several things, and a training of an untrained model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sifthinker.pretraining import (
    build,
    policy_training,
    recipe,
    scene_pool,
)

SIZE = {"width": 112, "height": 84}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[scene_pool.Seen]:
    pool = scene_pool.Pool(tmp_path_factory.mktemp("pool"), seed=2, fewest=3, most=6, **SIZE)
    scene_pool._render((pool, 0))
    return scene_pool.read(pool, 0)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> policy_training.Lists:
    start = tmp_path_factory.mktemp("start")
    for part in build.build_policy(seed=3):
        part.save_pretrained(start)
    return policy_training.Lists(replace(recipe.RECIPES["lists"], start=str(start), **SIZE))
