"""The table of model families: each entry against the real architecture, tokenizer and chat template of its toy."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from trl.data_utils import prepare_multimodal_messages
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from sifthinker import config
from sifthinker.core import prompts, special_tokens
from sifthinker.core.errors import UserError
from sifthinker.models import families, folders, loading, processors
from sifthinker.models.families import FAMILIES, TRAINED
from sifthinker.models.template_check import check_template
from sifthinker.training import rows
from tests.frozen import frozen_modules

Toy = Callable[[str], Path]
QUESTION = "Which colour is it?"
CHAIN = "<think>\n<area>[]</area>\n<text>It is red.</text>\n</think>\n<answer>\nred\n</answer>"
PICTURES = [Image.linear_gradient("L").resize((224, 168)), Image.radial_gradient("L").resize((150, 210))]
BUDGET = 25_088


def test_a_configuration_names_a_family_of_the_table() -> None:
    with pytest.raises(
        UserError, match=r"model.family: there is no family named 'qwen25_vl'; did you mean 'qwen2_5_vl'\?"
    ):
        config.parse({"scenes": {}, "model": {"family": "qwen25_vl"}}, "x")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_of_the_family_that_its_config_says(family: str, toy: Toy) -> None:
    assert folders.family(toy(family)) == family


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"}}, "llava"),
        ({"model_type": "llava", "vision_config": {"model_type": "siglip_vision_model"}}, "bunny_llama3"),
        # a tower that no family has
        ({"model_type": "llava", "vision_config": {"model_type": "pixtral"}}, None),
        ({"model_type": "llava", "vision_config": {}}, "llava"),
        ({"model_type": "llava"}, "llava"),
        # a Qwen's tower says nothing: its model_type is enough
        ({"model_type": "qwen2_vl", "vision_config": {"model_type": "qwen2_vl_vision"}}, "qwen2_vl"),
        ({"model_type": "bunny-llama"}, None),
        ({}, None),
    ],
)
def test_families_are_told_apart_by_model_type_and_tower(values: dict[str, Any], name: str | None) -> None:
    assert families.named(values) == name


@pytest.mark.parametrize("family", ["llava", "bunny_llama3"])
def test_a_llava_keeps_the_names_of_published_folders_on_disk(family: str, toy: Toy, tmp_path: Path) -> None:
    loading.load_policy(toy(family), "fp32").save_pretrained(tmp_path)  # as a merge does
    for folder in (toy(family), tmp_path):
        with safe_open(folder / "model.safetensors", framework="pt") as opened:
            tower = [name for name in opened.keys() if "vision_tower" in name]  # noqa: SIM118
        assert tower and all("vision_tower.vision_model." in name for name in tower)


# --- what is trained ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_trains_the_linear_layers_of_the_language_model_and_nothing_else(family: str, toy: Toy) -> None:
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(toy(family)))
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    trained = {name for name, _ in model.named_modules() if re.fullmatch(TRAINED, name)}
    frozen = {name for name in linear if re.fullmatch(frozen_modules(), name)}
    assert trained | frozen | {"lm_head"} == linear
    assert not trained & frozen
    assert {
        name for name in linear if re.search(r"\.layers\.\d+\.(self_attn|mlp|linear_attn)\.", name)
    } - frozen == trained
    tower = [name for name, _ in model.named_parameters() if re.fullmatch(frozen_modules(), name)]
    assert tower and not [name for name in tower if "language_model" in name or "text_model.layers" in name]


# --- chat templates ----------------------------------------------------------------------------------------------


def rendered(processor: Any, chain: str | None = None) -> str:
    return str(
        processor.apply_chat_template(
            prompts.policy_messages(QUESTION, chain=chain),
            tokenize=False,
            add_generation_prompt=chain is None,
        )
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_stand_where_the_prompt_puts_them_and_a_prompt_begins_the_conversation(
    family: str, toy: Toy
) -> None:
    processor = loading.load_processor(toy(family))
    check_template(processor, toy(family))
    prompt, whole = rendered(processor), rendered(processor, CHAIN)
    mark = re.escape(getattr(processor, "boi_token", None) or processor.image_token)
    assert re.search(rf"Original image:.*{mark}.*\nDepth image:.*{mark}.*{QUESTION}", prompt, re.S) or (
        family == "gemma3" and re.search(rf"Original image:{mark}Depth image:{mark}{QUESTION}", prompt)
    )
    assert len(re.findall(mark, prompt)) == 2
    assert whole.startswith(prompt)
    assert whole[len(prompt) :].strip() == CHAIN + FAMILIES[family].end


@pytest.mark.parametrize("family", FAMILIES)
def test_a_toy_has_the_template_of_its_checkpoints_and_what_is_saved_after_loading_has_the_familys(
    family: str, toy: Toy, tmp_path: Path
) -> None:
    published = AutoProcessor.from_pretrained(toy(family))
    loading.load_processor(toy(family)).save_pretrained(tmp_path)
    saved = AutoProcessor.from_pretrained(tmp_path)  # as a server reads it, which knows no families
    assert saved.tokenizer.eos_token == FAMILIES[family].end
    own = family in ("qwen3_5", "llava")
    assert (rendered(saved, CHAIN) == rendered(published, CHAIN)) is not own
    assert rendered(saved, CHAIN) == rendered(loading.load_processor(toy(family)), CHAIN)


def test_qwen3_5_has_the_turns_of_qwen3_vl(toy: Toy) -> None:
    processors_ = [loading.load_processor(toy(family)) for family in ("qwen3_5", "qwen3_vl")]
    for chain in (None, CHAIN):
        assert len({rendered(processor, chain) for processor in processors_}) == 1


THINKING = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"


@pytest.mark.parametrize(
    ("family", "template", "message"),
    [
        # the published ones
        ("llava", None, "does not end an answer with </s>"),
        ("qwen3_5", None, "opens or closes <think> in the prompt, and changes a chain"),
        # a Thinking checkpoint of a family that is known
        ("qwen3_vl", THINKING, "opens or closes <think> in the prompt"),
        ("qwen3_vl", "{{ messages[0]['content'][0]['text'] }}", "another number of pictures than the two"),
        ("qwen3_vl", "{{ raise_exception('no pictures') }}", "refuses a conversation .*no pictures"),
        ("qwen3_vl", "", "holds no chat template"),
    ],
)
def test_a_template_that_would_spoil_the_training_is_refused(
    family: str, template: str | None, message: str, toy: Toy
) -> None:
    processor = loading.load_processor(toy(family))
    published = AutoProcessor.from_pretrained(toy(family)).chat_template
    processor.chat_template = published if template is None else template
    with pytest.raises(UserError, match=message):
        check_template(processor, toy(family))


# --- tokens ------------------------------------------------------------------------------------------------------


def ids_of(processor: Any, chain: str | None = None) -> list[int]:
    messages = prompts.policy_messages(QUESTION, chain=chain)
    return list(loading.encode(processor, messages, PICTURES)["input_ids"][0])


@pytest.mark.parametrize("family", FAMILIES)
def test_sft_teaches_the_whole_answer_with_its_end_and_nothing_of_the_prompt(family: str, toy: Toy) -> None:
    processor = loading.load_processor(toy(family), BUDGET)
    prompt, answer = prompts.policy_messages(QUESTION), prompts.policy_messages(QUESTION, chain=CHAIN)[1:]
    collate = DataCollatorForVisionLanguageModeling(processor=processor, completion_only_loss=True)
    batch = collate([{"prompt": prompt, "completion": answer, "images": PICTURES}])
    inputs, labels = batch["input_ids"][0], batch["labels"][0]
    taught = labels != -100
    start = int(taught.nonzero()[0])
    assert inputs[:start].tolist() == ids_of(processor)  # as evaluation encodes it
    assert taught[start:].all() and torch.equal(labels[start:], inputs[start:])
    assert processor.decode(inputs[start:]).strip() == CHAIN + FAMILIES[family].end
    assert processor.tokenizer.convert_tokens_to_ids(FAMILIES[family].end) in labels[-2:]


@pytest.mark.parametrize("family", FAMILIES)
def test_grpo_and_servers_give_the_model_the_same_tokens_as_sft(family: str, toy: Toy) -> None:
    processor = loading.load_processor(toy(family), BUDGET)
    messages = prepare_multimodal_messages(prompts.policy_messages(QUESTION), images=PICTURES)
    made = processor.apply_chat_template(
        conversation=[messages], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert list(made["input_ids"][0]) == ids_of(processor)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_of_a_row_are_counted_without_opening_its_pictures(family: str, toy: Toy) -> None:
    processor = loading.load_processor(toy(family), BUDGET)
    same = [PICTURES[0]] * 2
    row = {"question": QUESTION, "chain": CHAIN, "width": same[0].width, "height": same[0].height}
    for chain in (None, CHAIN):
        made = loading.encode(processor, prompts.policy_messages(QUESTION, chain=chain), same)
        assert rows.count_tokens(processor, [row], True, "chain" if chain else None) == [
            made["input_ids"].shape[1]
        ]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_that_stands_for_a_picture_is_known(family: str, toy: Toy) -> None:
    processor = loading.load_processor(toy(family), BUDGET)
    known = set(loading.picture_tokens(processor))
    messages = prompts.policy_messages(QUESTION)
    plain = [
        {**message, "content": [part for part in message["content"] if part["type"] == "text"]}
        for message in messages
    ]
    text = processor.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    without = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    added = {int(token) for token in loading.encode(processor, messages, PICTURES)["input_ids"][0]} - set(
        without
    )
    special = {token for token in added if processor.tokenizer.added_tokens_decoder.get(token)}
    assert special and special <= known
    everything = {token for each in FAMILIES.values() for token in each.picture_tokens}
    vocabulary = processor.tokenizer.get_vocab()
    assert known == {number for token, number in vocabulary.items() if token in everything}
    assert vocabulary[FAMILIES[family].end] not in known


# --- pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "llava"])
def test_the_image_processor_stays_that_of_the_checkpoint(family: str, toy: Toy) -> None:
    stock = AutoProcessor.from_pretrained(toy(family)).image_processor
    assert type(loading.load_processor(toy(family), BUDGET).image_processor) is type(stock)


@pytest.mark.parametrize(("max_pixels", "tiles"), [(1, 1), (56 * 56, 1), (4 * 56 * 56, 4), (6 * 56 * 56, 6)])
def test_internvl_cuts_a_picture_into_as_many_tiles_as_the_budget_holds(
    max_pixels: int, tiles: int, toy: Toy, tmp_path: Path
) -> None:
    processor = loading.load_processor(toy("internvl"), max_pixels)
    assert processor.image_processor.max_patches == tiles
    square = [Image.new("RGB", (600, 600))] * 2
    made = loading.encode(processor, prompts.policy_messages(QUESTION), square)["pixel_values"]
    grid = {1: 1, 4: 4, 6: 4}[tiles]  # 2 x 2 is the largest square grid of six tiles
    assert made.shape == (2 * (grid + (grid > 1)), 3, 56, 56)  # and a thumbnail
    processor.save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).image_processor.max_patches == tiles


@pytest.mark.parametrize("family", ["idefics3", "smolvlm"])
@pytest.mark.parametrize(("max_pixels", "along"), [(1, 1), (56 * 56, 1), (4 * 56 * 56, 2), (10**8, 6)])
def test_a_picture_is_split_along_its_edge_as_the_budget_allows(
    family: str, max_pixels: int, along: int, toy: Toy
) -> None:
    processor = loading.load_processor(toy(family), max_pixels)
    square = [Image.new("RGB", (600, 600))] * 2
    made = loading.encode(processor, prompts.policy_messages(QUESTION), square)
    assert made["pixel_values"].shape == (1, 2 * (along**2 + (along > 1)), 3, 56, 56)
    unknown = processor.tokenizer.unk_token_id
    assert unknown is None or unknown not in made["input_ids"]


# --- refused folders ---------------------------------------------------------------------------------------------


def without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def processor_class(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for file in ("processor_config.json", "tokenizer_config.json"):
            values = json.loads((folder / file).read_text())
            (folder / file).write_text(json.dumps({**values, "processor_class": name}))

    return change


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("gemma3", without("chat_template.jinja"), "holds no chat template"),
        # it has one of its own, so nothing is missing
        ("llava", without("chat_template.jinja"), ""),
        ("gemma3", without("processor_config.json"), "(its processor|no image processor)"),
        ("qwen2_5_vl", without("tokenizer.json"), "its tokenizer loses a text"),
        ("qwen2_5_vl", processor_class("Unknown"), "holds no image processor that transformers knows"),
        (
            "idefics3",
            processor_class("LlavaProcessor"),
            "its processor is LlavaProcessor, and its architecture",
        ),
        ("internvl", without("model.safetensors"), "model.safetensors is missing"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(
    family: str, change: Callable[[Path], None], message: str, toy: Toy, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(toy(family), folder)
    change(folder)
    if message:
        with pytest.raises(UserError, match=message):
            loading.check_policy(folder, family)
    else:
        loading.check_policy(folder, family)


def test_a_package_that_a_processor_wants_is_named(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = toy("smolvlm")
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", None)
    with pytest.raises(
        UserError, match=r"ImportError: Package `num2words` is required .*; install what it names"
    ):
        processors.load_processor(folder)


def test_a_tokenizer_without_the_familys_end_of_turn_is_refused(toy: Toy, tmp_path: Path) -> None:
    shutil.copytree(toy("bunny_llama3"), tmp_path / "model")
    values = json.loads((tmp_path / "model" / "config.json").read_text())
    values["vision_config"]["model_type"] = "clip_vision_model"  # as if it were LLaVA-1.5
    (tmp_path / "model" / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="its tokenizer has no </s>, which ends an answer"):
        processors.load_processor(tmp_path / "model")


@pytest.mark.parametrize("family", FAMILIES)
def test_ingest_rejects_the_special_tokens_of_every_family(family: str) -> None:
    entry = FAMILIES[family]
    assert [token for token in (*entry.picture_tokens, entry.end) if not special_tokens.find(token)] == []
