"""GRPO learns where it must, and learns through its advantage alone: three seeds, 60 steps each, by the real trainer.

The control is the same training with the advantage zeroed. What is left of its loss, the penalty for leaving the
reference, has no gradient at the reference: the policy stays where it was, to the bit, and its rewards are the
reference's. They are therefore also the level that the learning one is held against.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml
from safetensors.torch import load_file
from trl import GRPOConfig

from sifthinker.config import Grpo
from sifthinker.core import chain, records, tables
from sifthinker.llm import standin
from sifthinker.models import loading
from sifthinker.training import adapters, grpo, harness, merge, rows, sft
from tests.training.conftest import row

STEPS = 60
SEEDS = (0, 1, 2)
TEMPERATURE = 0.5  # at 1 the tiny model errs in some token of every chain
LARGE = {"r": 64, "alpha": 128, "dropout": 0.0}
COMMON = {"ranks": 1, "deepspeed": "none", "precision": "fp32", "gradient_checkpointing": False}
COMMON |= {"epochs": 1000, "max_steps": STEPS, "save_steps": 1000, "accumulation": 1, "trackers": []}


class Blind(grpo.Trainer):
    """The trainer with its advantage zeroed: the penalty for leaving the reference is all that is left of the loss."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        made = super()._generate_and_score_completions(inputs)
        made["advantages"].zero_()
        return made


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with half its layers: sampling takes half the time."""
    folder = tmp_path_factory.mktemp("small")
    loading.build_tiny("qwen2_5_vl", 0, folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.text_config.num_hidden_layers = 2
    config.text_config.layer_types = ["full_attention"] * 2
    generation = transformers.GenerationConfig.from_pretrained(folder)
    transformers.set_seed(0)
    made = transformers.AutoModelForImageTextToText.from_config(config)
    made.generation_config = generation
    made.save_pretrained(folder)
    return folder


def halves(rewards: list[float]) -> tuple[float, float]:
    """Mean reward of the first 30 steps and of the last 30."""
    assert len(rewards) == STEPS
    return statistics.mean(rewards[: STEPS // 2]), statistics.mean(rewards[STEPS // 2 :])


def unchanged(adapter: dict[str, Any]) -> bool:
    """Whether an adapter still is what it began as: every lora_B is zero."""
    return not any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)


def favour(
    base: Path, sif: Path, work: Path, seed: int, trainer: type[grpo.Trainer]
) -> tuple[list[float], dict[str, Any]]:
    """Mean rewards of a training in which a completion earns the share of its tokens that are one certain token, and
    the weights that were trained."""
    processor = loading.load_processor(base, 3136)
    processor.tokenizer.padding_side = "left"
    token = processor.tokenizer.convert_tokens_to_ids("Ġyes")

    def share(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [ids.count(token) / len(ids) for ids in completion_ids]

    settings = Grpo(
        **COMMON,
        generation="transformers",
        seed=seed,
        learning_rate=5e-3,
        batch=16,
        max_completion=16,
        lora={"r": 8, "alpha": 16, "dropout": 0.0},
    )
    columns = ["id", "question", "image"]
    made = trainer(
        model=loading.load_policy(base, "fp32"),
        reward_funcs=[share],
        args=GRPOConfig(
            **harness.arguments(settings, work), **{**grpo.grpo_arguments(settings), "reward_weights": None}
        ),
        train_dataset=grpo.examples(rows.open_parquet((sif,), columns, work), False),
        processing_class=processor,
        peft_config=adapters.lora(settings.lora),
    )
    harness.fit(made, None)
    rewards = [entry["reward"] for entry in made.state.log_history if "reward" in entry]
    return rewards, dict(made.model.named_parameters())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_reward_for_one_token_is_learnt_and_without_the_advantage_it_is_not(seed, small, sif, tmp_path):
    rewards, trained = favour(small, sif, tmp_path / "seeing", seed, grpo.Trainer)
    assert not unchanged(trained)
    blind, left = favour(small, sif, tmp_path / "blind", seed, Blind)
    assert unchanged(left)
    before, after = halves(blind)
    assert abs(after - before) < 0.02  # of 7,680 tokens each
    assert halves(rewards)[1] > max(before, after) + 0.5


@pytest.fixture(scope="module")
def warm(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model that SFT has taught two chains of one look to each of eight questions, a right one and one that is
    wrong in box, depth and answer; and the rows of the right ones."""
    folder = tmp_path_factory.mktemp("warm")
    right, wrong = [], []
    for one in map(row, range(8)):
        looks = chain.parse(one["chain"]).steps[-1:]
        right.append({**one, "chain": chain.render(chain.Chain(looks, one["answer"]))})
        elsewhere = (chain.Step((records.Region((0.4, 0.7, 0.6, 0.9), 0.9),), "The patch is gone."),)
        wrong.append({**one, "chain": chain.render(chain.Chain(elsewhere, "nothing"))})
    tables.write(folder / "rows.parquet", tables.SIF, right)
    tables.write(folder / "wrong.parquet", tables.SIF, wrong)
    common = {"dataset": [str(folder / f"{name}.parquet") for name in ("rows", "wrong")], "model": str(small)}
    settings = {**COMMON, "max_steps": 100, "learning_rate": 5e-3, "batch": 8, "lora": LARGE}
    start(sft, folder, "sft", settings, **common)
    start(merge, folder, "merge", {"precision": "fp32"}, adapter=str(folder / "sft/adapter"), **common)
    return folder / "merge", folder / "rows.parquet"


def start(program: Any, folder: Path, stage: str, settings: dict[str, Any], **top: Any) -> None:
    values = {"work": str(folder / f"{stage}-work"), "out": str(folder / stage), **top}
    values["settings"] = {"model": {"weights": "tiny", "max_pixels": 3136}, stage: settings}
    (folder / f"{stage}.yaml").write_text(yaml.safe_dump(values))
    program.main(folder / f"{stage}.yaml")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_four_rewards_are_learnt_and_without_the_advantage_they_are_not(
    seed, warm, tmp_path, monkeypatch
):
    """The whole program: chains of one look, the embedded judge, unit weights. Sampling starts with the right and the
    wrong chain about equally often, 2.4 on average; the right one earns 4."""
    model, dataset = warm
    settings = {**COMMON, "seed": seed, "learning_rate": 2e-4, "batch": 8, "max_completion": 80}
    settings |= {"lora": LARGE, "temperature": TEMPERATURE, "judge": {"model": "standin"}}
    settings |= {"generation": "transformers"}
    found = {}
    with standin.running(tmp_path / "standin.log") as url:
        for name, trainer in {"seeing": grpo.Trainer, "blind": Blind}.items():
            monkeypatch.setattr(grpo, "Trainer", trainer)
            top = {"judge_base_url": url, "ledger": str(tmp_path / "calls.sqlite")}
            (tmp_path / name).mkdir()
            start(grpo, tmp_path / name, "grpo", settings, model=str(model), dataset=[str(dataset)], **top)
            lines = (tmp_path / name / "grpo/history.jsonl").read_text().splitlines()
            adapter = load_file(tmp_path / name / "grpo/adapter/adapter_model.safetensors")
            found[name] = [json.loads(line)["reward"] for line in lines], unchanged(adapter)
    rewards, still = found["seeing"]
    assert not still
    blind, still = found["blind"]
    assert still
    before, after = halves(blind)
    assert abs(after - before) < 0.6  # three to four standard errors: which chain is sampled is chance
    assert halves(rewards)[1] > max(before, after) + 0.7
