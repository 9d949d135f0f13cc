"""The pixel budget of folders that were not merged here."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from sifthinker.core import prompts
from sifthinker.models import loading
from sifthinker.models.budget import as_merged, budgeted, holds, otherwise, prepares
from sifthinker.models.families import FAMILIES

BUDGET = 112 * 84


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    loading.build_tiny("qwen2_5_vl", 0, folder)
    return folder


def tokens(folder: Path) -> int:
    """Of a prompt with two large pictures."""
    pictures = [Image.new("RGB", (640, 480))] * 2
    encoded = loading.encode(loading.load_processor(folder), prompts.policy_messages("What?"), pictures)
    return int(encoded["input_ids"].shape[1])


def test_a_base_models_folder_is_served_with_the_budget_and_its_own_weights(base, tmp_path):
    """The files that publishers used to write say `max_pixels`, others `size`: what counts is what a server reads."""
    served = budgeted(base, BUDGET, tmp_path / "served")
    assert served != base and not holds(base, BUDGET) and holds(served, BUDGET)
    assert tokens(base) - tokens(served) > 300
    assert (served / "model.safetensors").resolve() == (base / "model.safetensors").resolve()
    assert {file.name for file in base.iterdir()} <= {file.name for file in served.iterdir()}
    assert budgeted(base, BUDGET, tmp_path / "served") == served, "a second try replaces the first"
    assert loading.load_policy(served, "fp32").config.model_type == "qwen2_5_vl"


def test_a_folder_that_holds_the_budget_is_served_as_it_is(base, tmp_path):
    merged = budgeted(base, BUDGET, tmp_path / "merged")
    assert budgeted(merged, BUDGET, tmp_path / "served") == merged
    assert not (tmp_path / "served").exists()


def test_a_family_without_a_budget_is_served_as_it_is(tmp_path):
    loading.build_tiny("bunny_llama3", 0, tmp_path / "base")
    assert budgeted(tmp_path / "base", BUDGET, tmp_path / "served") == tmp_path / "base"
    assert holds(tmp_path / "base", 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_server_that_knows_no_families_reads_what_the_training_used(family, tmp_path):
    loading.build_tiny(family, 0, tmp_path / "base")
    if FAMILIES[family].template:  # the file of an older transformers, which readers prefer
        (tmp_path / "base" / "chat_template.json").write_text('{"chat_template": "of the publisher"}')
    served = budgeted(tmp_path / "base", BUDGET, tmp_path / "served")
    assert holds(served, BUDGET)
    pictures, messages = [Image.new("RGB", (640, 480))] * 2, prompts.policy_messages("What?")
    wanted = loading.encode(loading.load_processor(tmp_path / "base", BUDGET), messages, pictures)
    found = loading.encode(AutoProcessor.from_pretrained(served), messages, pictures)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert AutoProcessor.from_pretrained(served).tokenizer.eos_token == FAMILIES[family].end
    assert budgeted(served, BUDGET, tmp_path / "again") == served


PUBLISHERS = {  # what vLLM does otherwise with the publisher's folder than with the one that a stage has it serve
    "qwen2_5_vl": [],  # its pictures are sent at their final size
    "qwen3_5": ["chat template"],
    "llava": ["chat template", "pictures"],
    "gemma3": ["end of an answer", "pictures"],
    "internvl": ["pictures"],  # more tiles than the budget holds
    "bunny_llama3": [],
}


@pytest.mark.parametrize("family", PUBLISHERS)
def test_a_running_server_of_a_publishers_folder_is_told_from_one_that_a_stage_starts(family, tmp_path):
    loading.build_tiny(family, 0, tmp_path / "base")
    served = budgeted(tmp_path / "base", BUDGET, tmp_path / "served")
    assert otherwise(tmp_path / "base", False, tmp_path / "base", BUDGET) == PUBLISHERS[family]
    assert otherwise(served, False, tmp_path / "base", BUDGET) == []
    if "chat template" in PUBLISHERS[family]:  # the embedded server knows the families
        assert "chat template" not in otherwise(tmp_path / "base", True, tmp_path / "base", BUDGET)
        assert prepares(tmp_path / "base") != prepares(tmp_path / "base", knows=False)
    assert prepares(served) == prepares(served, knows=False)


def test_a_running_server_that_shows_less_than_the_budget_is_told_from_one_that_holds_it(base, tmp_path):
    small = budgeted(base, BUDGET // 2, tmp_path / "small")
    assert otherwise(small, False, base, BUDGET) == ["pictures"]
    assert holds(small, BUDGET), "no picture that is sent would be sized down for it"


def test_a_server_with_another_tokenizer_is_told_too(base, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(base, other)
    file = other / "tokenizer.json"
    found = json.loads(file.read_text())
    found["model"]["merges"].pop()
    file.write_text(json.dumps(found))
    assert otherwise(other, False, base, BUDGET) == ["tokenizer"]
    assert prepares(other) != prepares(base)


def test_who_asks_without_a_configuration_gets_the_budget_of_the_training(base, tmp_path):
    merged = budgeted(base, BUDGET, tmp_path / "merged")
    (merged / "summary.json").write_text("{}")
    assert as_merged(merged, 56 * 56, tmp_path / "served") == merged
    assert holds(as_merged(base, 56 * 56, tmp_path / "served"), 56 * 56)
