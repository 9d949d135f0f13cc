"""GRPO learns where it must, and learns through its advantage alone: three seeds, 60 steps each, by the real trainer."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from trl import GRPOConfig

from sifthinker import models, sample, standin
from sifthinker.config import Grpo
from sifthinker.training import grpo, merge, rows, run, sft
from tests.training.conftest import row

STEPS = 60
SEEDS = (0, 1, 2)
COMMON = {"ranks": 1, "deepspeed": "none", "precision": "fp32", "gradient_checkpointing": False}
COMMON |= {"epochs": 1000, "max_steps": STEPS, "save_steps": 1000, "accumulation": 1, "trackers": []}


class Blind(grpo.Trainer):
    """The trainer with its advantage zeroed: the penalty for leaving the reference is all that is left of the loss."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        made = super()._generate_and_score_completions(inputs)
        made["advantages"].zero_()
        return made


def ends(rewards: list[float]) -> tuple[float, float]:
    """Mean reward of the first and of the last ten steps."""
    assert len(rewards) == STEPS
    return statistics.mean(rewards[:10]), statistics.mean(rewards[-10:])


def favour(base: Path, sif: Path, work: Path, seed: int, trainer: type[grpo.Trainer]) -> list[float]:
    """Mean rewards of a training in which a completion earns the share of its tokens that are one certain token."""
    processor = models.load_processor(base, 3136)
    processor.tokenizer.padding_side = "left"
    token = processor.tokenizer.convert_tokens_to_ids("Ġyes")  # 2 % of what the tiny model says

    def share(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [ids.count(token) / len(ids) for ids in completion_ids]

    settings = Grpo(
        **COMMON,
        seed=seed,
        learning_rate=5e-3,
        batch=16,
        max_completion=16,
        lora={"r": 8, "alpha": 16, "dropout": 0.0},
    )
    columns = ["id", "question", "image"]
    made = trainer(
        model=models.load_policy(base, "fp32"),
        reward_funcs=[share],
        args=GRPOConfig(
            **run.arguments(settings, work), **{**grpo.grpo_arguments(settings), "reward_weights": None}
        ),
        train_dataset=grpo.examples(rows.open_parquet((sif,), columns, work), False),
        processing_class=processor,
        peft_config=run.lora(settings.lora),
    )
    run.fit(made, None)
    return [entry["reward"] for entry in made.state.log_history if "reward" in entry]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_reward_for_one_token_is_learnt_and_without_the_advantage_it_is_not(seed, base, sif, tmp_path):
    first, last = ends(favour(base, sif, tmp_path / "seeing", seed, grpo.Trainer))
    assert last > first + 0.5
    blind_first, blind_last = ends(favour(base, sif, tmp_path / "blind", seed, Blind))
    assert abs(blind_last - blind_first) < 0.02
