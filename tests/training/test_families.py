"""Every model family goes through SFT, merge and GRPO; what differs between them is configuration."""

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from sifthinker.models import loading
from sifthinker.models.families import FAMILIES
from sifthinker.training import grpo, merge, sft
from tests.training.canned_grpo import sample as canned

COMMON = {"ranks": 1, "deepspeed": "none", "precision": "fp32", "max_steps": 1, "learning_rate": 1e-3}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_trained_merged_and_trained_again(family, tmp_path, sif, judge, monkeypatch):
    """With gradient checkpointing, which each family wires up in its own way."""
    loading.build_tiny(family, 0, tmp_path / "base")

    def config(name: str, base: str, stage: str, settings: dict, **top: object) -> Path:
        values = {
            "model": str(tmp_path / base),
            "out": str(tmp_path / name),
            "work": str(tmp_path / f"{name}-work"),
        }
        values["settings"] = {"model": {"family": family, "max_pixels": 3136}, stage: settings}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**values, "dataset": [str(sif)], **top}))
        return path

    sft.main(config("sft", "base", "sft", {**COMMON, "batch": 2, "warmup_ratio": 0}))
    merge.main(
        config("merged", "base", "merge", {"precision": "fp32"}, adapter=str(tmp_path / "sft/adapter"))
    )
    monkeypatch.setattr(grpo.Trainer, "_generate_single_turn", canned)
    url = f"http://127.0.0.1:{judge.server_port}/v1"
    settings = {**COMMON, "batch": 4, "accumulation": 1, "generations": 4, "judge": {"model": "fake"}}
    settings |= {"generation": "transformers"}
    grpo.main(
        config("grpo", "merged", "grpo", settings, judge_base_url=url, ledger=str(tmp_path / "l.sqlite"))
    )
    history = json.loads((tmp_path / "grpo/history.jsonl").read_text())
    assert history["grad_norm"] > 0

    adapted = set(load_file(tmp_path / "grpo/adapter/adapter_model.safetensors"))
    assert adapted
    assert not [name for name in adapted if "visual" in name or "vision" in name or "projector" in name]
