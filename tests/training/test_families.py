"""Every model family goes through SFT, merge, GRPO, merge, serving and evaluation; what differs is configuration.

pytest -m slow tests/training/test_families.py -k gemma3
"""

import contextlib
import json
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from sifthinker import config as configuration
from sifthinker import scenes
from sifthinker.core import depth_maps, images, prompts, tables
from sifthinker.evaluation import evaluate
from sifthinker.models import loading, serving
from sifthinker.models.families import FAMILIES
from sifthinker.training import grpo, merge, sft
from tests.frozen import frozen_modules
from tests.training.canned_grpo import both

COMMON = {"ranks": 1, "deepspeed": "none", "precision": "fp32", "max_steps": 2, "learning_rate": 1e-3}
BUDGET = 6272
FLAT = depth_maps.picture(np.full((30, 40), 0.5, dtype=np.float32))


class Stages:
    """The stages of one family, in a folder."""

    def __init__(self, family: str, folder: Path, dataset: Path) -> None:
        self.family, self.folder, self.dataset = family, folder, dataset
        loading.build_tiny(family, 0, folder / "base")

    def file(self, name: str, base: str, stage: str, settings: dict, **top: object) -> Path:
        values = {
            "model": str(self.folder / base),
            "out": str(self.folder / name),
            "work": str(self.folder / f"{name}-work"),
            "dataset": [str(self.dataset)],
            "settings": {"model": {"family": self.family, "max_pixels": BUDGET}, stage: settings},
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**values, **top}))
        return path

    def merge(self, name: str, base: str, trained: str) -> dict:
        adapter = str(self.folder / trained / "adapter")
        merge.main(self.file(name, base, "merge", {"precision": "fp32"}, adapter=adapter))
        return json.loads((self.folder / name / "summary.json").read_text())["notes"]


@pytest.mark.slow
@pytest.mark.timeout(2400)  # two minutes on an idle machine
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_goes_through_every_stage(family, tmp_path, sif, judge, monkeypatch):
    """With gradient checkpointing, which each family wires up in its own way, and with real sampling."""
    made = Stages(family, tmp_path, sif)
    sft.main(made.file("sft", "base", "sft", {**COMMON, "batch": 2, "warmup_ratio": 0}))
    assert made.merge("warm", "base", "sft")["changed"] > 0.9

    monkeypatch.setattr(grpo.Trainer, "_generate_single_turn", both)  # samples, and then scores chains
    url = f"http://127.0.0.1:{judge.server_port}/v1"
    settings = {**COMMON, "batch": 4, "accumulation": 1, "generations": 4, "max_completion": 24}
    settings |= {"judge": {"model": "fake"}, "generation": "transformers"}
    ledger = str(tmp_path / "calls.sqlite")
    grpo.main(made.file("grpo", "warm", "grpo", settings, judge_base_url=url, ledger=ledger))
    history = [json.loads(line) for line in (tmp_path / "grpo/history.jsonl").read_text().splitlines()]
    assert len(history) == 2 and all(step["grad_norm"] > 0 for step in history)
    for stage in ("sft", "grpo"):
        adapted = set(load_file(tmp_path / stage / "adapter/adapter_model.safetensors"))
        layers = {name.partition(".layers.")[2].partition(".")[0] for name in adapted}
        assert layers == {"0", "1", "2", "3"}
        assert not [name for name in adapted if frozen(name)]
    assert made.merge("model", "warm", "grpo")["changed"] > 0.9

    evaluated(family, tmp_path / "model", tmp_path)


def frozen(name: str) -> bool:
    return re.fullmatch(frozen_modules(), name) is not None


def evaluated(family: str, model: Path, folder: Path) -> None:
    """Asks the merged model, by the embedded server, the questions of a rendered benchmark."""
    asked = configuration.parse({"scenes": {"benchmark_rows": 4}, "model": {"family": family}}, "test")
    scenes.write(folder / "scenes", asked.scenes)
    benchmarks = scenes.benchmarks(folder / "scenes")[:2]
    settings = configuration.Evaluate(benchmarks=benchmarks, max_tokens=16, limit=4)
    with serving.serving(model, "transformers", folder / "server.log") as url:
        summary = evaluate.evaluate(
            contextlib.nullcontext(evaluate.Served(url, serving.MODEL_NAME, family, "digest")),
            asked.model,
            settings,
            folder / "replies.sqlite",
            lambda pairs: [(name, FLAT) for name, _ in pairs],
            folder,
        )
        same_tokens(url, model)
    assert all(score["missing"] is None for score in summary["scores"])
    replies = list(tables.read(folder / "predictions.parquet", ["prompt_tokens", "completion_tokens"]))
    assert replies and all(0 < row["completion_tokens"] <= 16 for row in replies)


def same_tokens(url: str, model: Path) -> None:
    """The server gives the model as many tokens as training does."""
    messages = prompts.policy_messages("Which is nearest?")
    body = {
        "model": serving.MODEL_NAME,
        "messages": prompts.with_images(messages, [images.data_url(FLAT)] * 2),
        "max_tokens": 2,
    }
    reply = httpx.post(f"{url}/chat/completions", json=body, timeout=600, trust_env=False).json()
    inputs = loading.encode(loading.load_processor(model), messages, [images.rgb(FLAT)] * 2)
    assert reply["usage"]["prompt_tokens"] == inputs["input_ids"].shape[1]
