"""Merging: right merges of small and large adapters pass in both data types, wrong ones never do."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from sifthinker.config import Lora, Merge
from sifthinker.core.errors import UserError
from sifthinker.models import loading, miniature
from sifthinker.training import adapters, harness, merge, merge_check
from sifthinker.training.merge_check import Difference
from tests.frozen import frozen_modules

Adapter = Callable[..., Path]


def notes(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "out/summary.json").read_text())["notes"]


def make_adapter(base: Path, folder: Path, std: float, config: LoraConfig, seed: int = 0) -> Path:
    """An adapter whose lora_B is not zero, as a trained one's; so is everything else that it may train."""
    model = get_peft_model(loading.load_policy(base, "fp32"), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_A" not in name:
                parameter += torch.randn_like(parameter) * std
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = adapters.lora(Lora(r=4, alpha=8, dropout=0.0))
    return make_adapter(base, tmp_path_factory.mktemp("adapter"), 0.05, config)


def merging(tmp_path: Path, base: Path, adapter: Path, **settings: object) -> merge.MergeRun:
    path = tmp_path / "merge.yaml"
    values = {"model": str(base), "adapter": str(adapter), "out": str(tmp_path / "out")}
    dataset = settings.pop("dataset", [])
    values |= {
        "dataset": dataset,
        "settings": {"model": {"weights": "tiny", "max_pixels": 3136}, "merge": settings},
    }
    path.write_text(yaml.safe_dump(values))
    return harness.load(path, merge.MergeRun)


@pytest.mark.parametrize("std", [1e-4, 0.002, 0.01, 0.03, 1.0])
@pytest.mark.parametrize("settings", [{}, {"precision": "fp32"}], ids=["default", "fp32"])
def test_a_right_merge_passes_whatever_the_size_of_the_adapter(tmp_path, sif, std, settings):
    """The miniature's logits reach 20, where bf16 has steps of 0.125."""
    base = miniature.folder("policy")
    config = adapters.lora(Lora(r=8, alpha=16, dropout=0.0))
    adapter = make_adapter(base, tmp_path / "adapter", std, config)
    merge.merge(merging(tmp_path, base, adapter, dataset=[str(sif)], **settings))
    found = notes(tmp_path)
    assert found["precision"] == settings.get("precision", Merge().precision)
    assert found["prompts"] == Merge().prompts
    assert 0 < found["kl_fold"] < 1e-3 * found["kl_cast"]
    assert found["kl_adapter"] > 1e-6
    expected = found["kl_cast"] if found["precision"] == "bf16" else found["kl_fold"]
    assert found["kl"] == pytest.approx(expected, rel=0.01)
    dtypes = {tensor.dtype for tensor in load_file(tmp_path / "out/model.safetensors").values()}
    assert dtypes == {merge.DTYPES[found["precision"]]}


def test_the_folder_stands_alone(tmp_path, base, adapter, sif):
    merge.merge(merging(tmp_path, base, adapter, dataset=[str(sif)]))
    model = loading.load_policy(tmp_path / "out", "bf16")
    processor = loading.load_processor(tmp_path / "out")
    assert processor.image_processor.size["longest_edge"] == 3136, "the pixel budget goes along"
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not [name for name in names if name.startswith(("adapter", "answers", "merged"))]


def test_a_large_model_is_written_in_shards_with_an_index(tmp_path, base, adapter, monkeypatch):
    monkeypatch.setattr(merge, "SHARD", "1MB")
    merge.merge(merging(tmp_path, base, adapter))
    shards = set(
        json.loads((tmp_path / "out/model.safetensors.index.json").read_text())["weight_map"].values()
    )
    assert len(shards) > 1
    assert shards == {path.name for path in (tmp_path / "out").glob("*.safetensors")}
    assert notes(tmp_path)["prompts_from"] == "made-up picture"


# --- wrong merges -----------------------------------------------------------------------------------------------


def not_applied(adapted: Any) -> None:
    for layer in merge_check.adapted_layers(adapted).values():
        torch.nn.init.zeros_(layer.lora_B["default"].weight)


def wrong_scale(adapted: Any) -> None:
    for layer in merge_check.adapted_layers(adapted).values():
        layer.scaling["default"] *= 1.05


def one_layer_left_out(adapted: Any) -> None:
    layers = merge_check.adapted_layers(adapted)
    torch.nn.init.zeros_(list(layers.values())[-1].lora_B["default"].weight)


def another_adapter(adapted: Any) -> None:
    torch.manual_seed(7)
    for layer in merge_check.adapted_layers(adapted).values():
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.002)


@pytest.mark.parametrize("wrong", [not_applied, wrong_scale, one_layer_left_out, another_adapter])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("by_layer", [True, False], ids=["layers", "distributions"])
def test_a_wrong_fold_is_refused(tmp_path, monkeypatch, sif, wrong, precision, by_layer):
    """An adapter so small that the cast costs more than it brings: each rule sees through that, alone as well."""
    base = miniature.folder("policy")
    config = adapters.lora(Lora(r=8, alpha=16, dropout=0.0))
    adapter = make_adapter(base, tmp_path / "adapter", 0.002, config)
    right = merge.fold

    def fold(adapted: Any, dtype: torch.dtype) -> Any:
        with torch.no_grad():
            wrong(adapted)
        return right(adapted, dtype)

    monkeypatch.setattr(merge, "fold", fold)
    message = "does not hold its adapter"
    if not by_layer:
        monkeypatch.setattr(merge_check, "check_layers", lambda merged, probes: 0.0)
        message = "in fp32 their largest KL divergence"
    task = merging(tmp_path, base, adapter, precision=precision, unchanged="note", dataset=[str(sif)])
    with pytest.raises(UserError, match=message):
        merge.merge(task)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("damaged", ["layers.2.mlp.up_proj.weight", "model.norm.weight"])
def test_damaged_files_are_refused(tmp_path, base, adapter, monkeypatch, sif, precision, damaged):
    right = merge.save

    def save(model: Any, folder: Path) -> None:
        right(model, folder)
        tensors = load_file(folder / "model.safetensors")
        [name] = [name for name in tensors if name.endswith(damaged)]
        tensors[name] = tensors[name] * 1.5
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(merge, "save", save)
    with pytest.raises(UserError, match="the saved model does not answer"):
        merge.merge(merging(tmp_path, base, adapter, precision=precision, dataset=[str(sif)]))
    assert not list((tmp_path / "out").iterdir())


def test_numbers_that_are_not_finite_are_refused():
    cast = Difference(0.01, 2, 100)
    for kl in (math.nan, math.inf):
        with pytest.raises(UserError, match="merged model does not answer"):
            merge_check.check_fold(Difference(kl, 0, 100), cast)
        with pytest.raises(UserError, match="saved model does not answer"):
            merge_check.check_saved(Difference(kl, 0, 100), cast, "bf16")
    broken = torch.zeros(40, 5)
    broken[3, 1] = math.nan
    assert math.isnan(merge_check.difference(broken, torch.zeros(40, 5)).kl)


def test_the_difference_is_the_largest_kl_divergence_and_counts_moved_positions():
    left = torch.log(torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]))
    right = torch.log(torch.tensor([[0.5, 0.5], [0.4, 0.6], [0.2, 0.8]])) + 3  # logits have no origin
    found = merge_check.difference(left, right)
    assert found.kl == pytest.approx(0.9 * math.log(0.9 / 0.4) + 0.1 * math.log(0.1 / 0.6), rel=1e-5)
    assert (found.moved, found.positions, found.argmax_share) == (1, 3, pytest.approx(2 / 3))


def test_more_moved_positions_than_the_cast_accounts_for_are_refused():
    cast = Difference(0.01, 3, 100)
    merge_check.check_saved(Difference(0.01, 7, 100), cast, "bf16")
    with pytest.raises(UserError, match="differs at 8 of 100 positions"):
        merge_check.check_saved(Difference(0.01, 8, 100), cast, "bf16")
    with pytest.raises(UserError, match="differs at 2 of 100 positions"):
        merge_check.check_saved(Difference(0.0, 2, 100), cast, "fp32")


# --- kinds of adapters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"bias": "lora_only"},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 1}},
        {"modules_to_save": ["merger"]},
        {"modules_to_save": ["lm_head"]},  # tied in the base model, no longer in the merged one
    ],
    ids=lambda kind: "-".join(map(str, kind.values())) if "modules_to_save" in kind else next(iter(kind)),
)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_adapters_of_other_kinds_are_merged_right(tmp_path, base, kind, precision):
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", exclude_modules=frozen_modules(), **kind
    )
    adapter = make_adapter(base, tmp_path / "adapter", 0.02, config)
    merge.merge(merging(tmp_path, base, adapter, precision=precision))
    assert notes(tmp_path)["kl_adapter"] > 1e-4


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"target_modules": ["embed_tokens"]}, r"embed_tokens \(Embedding\); only adapters of linear layers"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head, which shares its weights with the embedding"),
    ],
)
def test_an_adapter_that_cannot_be_merged_right_is_refused(tmp_path, base, kind, message):
    adapter = make_adapter(base, tmp_path / "adapter", 0.02, LoraConfig(r=4, lora_alpha=8, **kind))
    with pytest.raises(UserError, match=message):
        merge.merge(merging(tmp_path, base, adapter))
    assert not list((tmp_path / "out").iterdir())


def edited(
    adapter: Path, folder: Path, edit: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]
) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(dict(edit(*item) for item in tensors.items()), folder / "adapter_model.safetensors")
    return folder


def test_a_merge_that_changes_nothing_is_refused_unless_allowed(tmp_path, base, adapter):
    untrained = edited(
        adapter, tmp_path / "untrained", lambda n, t: (n, torch.zeros_like(t) if "lora_B" in n else t)
    )
    with pytest.raises(UserError, match="every lora_B is zero"):
        merge.merge(merging(tmp_path, base, untrained))
    merge.merge(merging(tmp_path, base, untrained, unchanged="note"))
    assert (notes(tmp_path)["kl_adapter"], notes(tmp_path)["changed"]) == (0, 0)


def test_an_adapter_that_rounding_loses_is_refused_unless_allowed(tmp_path, base, adapter):
    faint = edited(adapter, tmp_path / "faint", lambda n, t: (n, t * 1e-12 if "lora_B" in n else t))
    with pytest.raises(UserError, match="in bf16 the adapter is lost by rounding"):
        merge.merge(merging(tmp_path, base, faint))
    merge.merge(merging(tmp_path, base, faint, unchanged="note"))
    assert notes(tmp_path)["changed"] == 0


def test_an_adapter_whose_tensors_have_no_place_in_the_model_is_refused(tmp_path, base, adapter):
    """PEFT warns of it and goes on without them."""
    other = edited(adapter, tmp_path / "other", lambda n, t: (n.replace("layers.3.", "layers.7."), t))
    with pytest.raises(UserError, match="does not fit the model"):
        merge.merge(merging(tmp_path, base, other))


def test_an_adapter_of_another_size_is_refused(tmp_path, adapter):
    with pytest.raises(UserError, match="does not fit the model"):
        merge.merge(merging(tmp_path, miniature.folder("policy"), adapter))


def test_an_adapter_that_is_not_finite_is_refused(tmp_path, base, adapter):
    broken = edited(adapter, tmp_path / "broken", lambda n, t: (n, t * math.inf if "lora_B" in n else t))
    with pytest.raises(UserError, match="NaN"):
        merge.merge(merging(tmp_path, base, broken))


def test_a_folder_without_an_adapter_is_named(tmp_path, base):
    with pytest.raises(UserError, match="cannot read the adapter"):
        merge.merge(merging(tmp_path, base, tmp_path / "nothing"))
