"""Merging on a tiny model in fp32."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from sifthinker import models
from sifthinker.config import Lora, UserError
from sifthinker.training import merge, run


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter whose lora_B is not zero, as a trained one's."""
    folder = tmp_path_factory.mktemp("adapter")
    model = get_peft_model(models.load_policy(base, "fp32"), run.lora(Lora(r=4, alpha=8, dropout=0.0)))
    assert isinstance(model.peft_config["default"], LoraConfig)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def merging(tmp_path: Path, base: Path, adapter: Path, **settings: object) -> merge.MergeRun:
    path = tmp_path / "merge.yaml"
    values = {"model": str(base), "adapter": str(adapter), "out": str(tmp_path / "out")}
    dataset = settings.pop("dataset", [])
    values |= {
        "dataset": dataset,
        "settings": {
            "model": {"weights": "tiny", "max_pixels": 3136},
            "merge": {"precision": "fp32", **settings},
        },
    }
    path.write_text(yaml.safe_dump(values))
    return run.load(path, merge.MergeRun)


def test_adapter_and_merged_model_agree_and_the_folder_stands_alone(tmp_path, base, adapter, sif):
    merge.merge(merging(tmp_path, base, adapter, dataset=[str(sif)]))
    notes = json.loads((tmp_path / "out/summary.json").read_text())["notes"]
    # fp32 rounding: (W + BA) x against W x + B (A x), 4 layers, logits of about 1
    assert notes["largest_difference"] < 1e-4
    assert notes["largest_change"] > 0.01
    assert notes["prompts"] == merge.PROMPTS
    model = models.load_policy(tmp_path / "out", "fp32")
    processor = models.load_processor(tmp_path / "out")
    assert processor.image_processor.size["longest_edge"] == 3136, "the pixel budget goes along"
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    assert not list((tmp_path / "out").glob("adapter*"))


def test_a_merge_that_changes_nothing_is_refused_unless_allowed(tmp_path, base, adapter):
    untrained = tmp_path / "untrained"
    untrained.mkdir()
    (untrained / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    zeroed = {name: torch.zeros_like(t) if "lora_B" in name else t for name, t in tensors.items()}
    save_file(zeroed, untrained / "adapter_model.safetensors")
    with pytest.raises(UserError, match="every lora_B is zero"):
        merge.merge(merging(tmp_path, base, untrained))
    merge.merge(merging(tmp_path, base, untrained, unchanged="note"))
    assert json.loads((tmp_path / "out/summary.json").read_text())["notes"]["largest_change"] == 0


def test_a_merge_beyond_the_tolerance_is_refused_and_writes_no_model(tmp_path, base, adapter):
    with pytest.raises(UserError, match=r"more than merge\.tolerance"):
        merge.merge(merging(tmp_path, base, adapter, precision="bf16", tolerance=1e-9))
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_a_folder_without_an_adapter_is_named(tmp_path, base):
    with pytest.raises(UserError, match="cannot read the adapter"):
        merge.merge(merging(tmp_path, base, tmp_path / "nothing"))
