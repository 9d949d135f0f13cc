"""Fetching and loading models, with tiny ones of the real architectures."""

import json
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from sifthinker import scenes
from sifthinker.config import Depth
from sifthinker.core import depth_maps, prompts
from sifthinker.core.errors import UserError
from sifthinker.data import depth_estimation
from sifthinker.models import families, loading, miniature
from sifthinker.pretraining import held_out

Toy = Callable[[str], Path]
FAMILIES = list(families.FAMILIES)
IMAGES = [Image.linear_gradient("L").resize((224, 168)), Image.radial_gradient("L").resize((224, 168))]


@pytest.fixture
def tiny(toy: Toy) -> Path:
    return toy("qwen2_5_vl")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_loads_through_the_auto_classes_and_takes_two_images(family: str, toy: Toy) -> None:
    processor = loading.load_processor(toy(family), 224 * 168)
    model = loading.load_policy(toy(family), "fp32")
    assert model.config.model_type == families.FAMILIES[family].model_type
    assert 0.5e6 < sum(parameter.numel() for parameter in model.parameters()) < 2e6
    inputs = loading.encode(processor, prompts.policy_messages("What is it?"), IMAGES)
    if "image_grid_thw" in inputs:
        assert inputs["image_grid_thw"].shape == (2, 3)
        pictures = inputs["input_ids"] == model.config.image_token_id
        assert int(pictures.sum()) == int(inputs["image_grid_thw"].prod(1).sum()) // 4
    text = processor.decode(inputs["input_ids"][0])
    assert text.index("Original image:") < text.index("Depth image:") < text.index("What is it?")
    with torch.inference_mode():
        both = model(**inputs).logits
        changed = {
            **inputs,
            "pixel_values": inputs["pixel_values"].flip([int(inputs["pixel_values"].dim() == 5)]),
        }
        assert not torch.equal(both, model(**changed).logits)  # it looks at them


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_files(family: str, toy: Toy, tmp_path: Path) -> None:
    loading.build_tiny(family, 0, tmp_path / "again")
    loading.build_tiny(family, 1, tmp_path / "other")
    for file in toy(family).iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    weights = [folder / "model.safetensors" for folder in (toy(family), tmp_path / "other")]
    assert weights[0].read_bytes() != weights[1].read_bytes()


def test_building_a_toy_leaves_torch_s_random_state_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    loading.build_tiny_depth(0, tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_conversation_ends_with_the_end_of_turn(family: str, toy: Toy) -> None:
    processor = loading.load_processor(toy(family))
    chain = "<think>\n<area>[]</area>\n<text>t</text>\n</think>\n<answer>\nred\n</answer>"
    inputs = loading.encode(processor, prompts.policy_messages("Which?", chain=chain), IMAGES)
    text = processor.decode(inputs["input_ids"][0])
    assert text.rstrip().endswith(chain + processor.tokenizer.eos_token)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_5"])
@pytest.mark.parametrize("max_pixels", [784, 9_408, 262_144])
def test_the_pixel_budget_holds_and_is_saved_with_the_processor(
    family: str, max_pixels: int, toy: Toy, tmp_path: Path
) -> None:
    processor = loading.load_processor(toy(family), max_pixels)
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((toy(family) / "config.json").read_bytes())
    large = [Image.new("RGB", (1600, 1200)), Image.new("RGB", (300, 900))]
    messages = prompts.policy_messages("What is it?")
    grids = loading.encode(processor, messages, large)["image_grid_thw"]
    patch = processor.image_processor.patch_size
    least = (2 * patch) ** 2  # one token
    assert (grids.prod(1) * patch**2 <= max(max_pixels, least)).all()
    again = loading.encode(loading.load_processor(tmp_path), messages, large)["image_grid_thw"]
    assert torch.equal(grids, again)


def test_llava_sees_the_whole_image_where_its_stock_processor_cuts_the_sides_off(
    toy: Toy, tmp_path: Path
) -> None:
    for file in toy("llava").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    saved["image_processor"] |= {"image_processor_type": "CLIPImageProcessor", "do_pad": None}
    (tmp_path / "processor_config.json").write_text(json.dumps(saved))
    processor = loading.load_processor(tmp_path)
    wide = Image.new("RGB", (400, 100), "black")
    wide.paste("white", (0, 0, 20, 100))  # only the left edge tells this image from a black one
    plain = Image.new("RGB", (400, 100), "black")
    pixels = loading.encode(processor, prompts.policy_messages("What is it?"), [wide, plain])["pixel_values"]
    assert pixels.shape == (2, 3, 56, 56)
    assert not torch.equal(pixels[0], pixels[1])


def test_a_random_model_never_samples_a_picture_token(tiny: Path) -> None:
    processor, model = loading.load_processor(tiny, 9_408), loading.load_policy(tiny, "fp32")
    inputs = loading.encode(processor, prompts.policy_messages("What is it?"), IMAGES)
    torch.manual_seed(0)
    tokens = model.generate(**inputs, do_sample=True, num_return_sequences=8, max_new_tokens=60)
    assert not torch.isin(
        tokens[:, inputs["input_ids"].shape[1] :], torch.tensor(loading.picture_tokens(processor))
    ).any()


def test_chains_survive_the_tokenizer(tiny: Path) -> None:
    text = 'Füße 漢字 \t<think>\n<area>[{"bbox_2d": [0.12, 0.0, 1.0, 0.5], "depth": 0.304}]</area>'
    tokenizer = loading.load_processor(tiny).tokenizer
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_template_for_replies_is_left_aside(tiny: Path, tmp_path: Path) -> None:
    """TRL would give the rewards what it makes of a reply, without the thoughts, and not the text that was sampled."""
    folder = tmp_path / "copy"
    shutil.copytree(tiny, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "response_template": {"fields": {}}}))
    assert AutoTokenizer.from_pretrained(folder).response_template == {"fields": {}}
    assert loading.load_processor(folder).tokenizer.response_template is None


def test_fetch_builds_a_toy_that_says_so(tmp_path: Path) -> None:
    found = loading.fetch("tiny", None, "policy", "qwen2_5_vl", 3, tmp_path)
    assert found == {
        "folder": str(tmp_path),
        "origin": "tiny",
        "revision": "",
        "model_type": "qwen2_5_vl",
        "toy": "tiny-random-qwen2_5_vl-seed3",
        "miniature": "",
    }
    assert "tiny-random-qwen2_5_vl-seed3" in (tmp_path / "README.md").read_text()
    again = loading.fetch(str(tmp_path), None, "policy", "qwen2_5_vl", 0, tmp_path / "unused")
    assert (again["folder"], again["origin"], again["toy"]) == (str(tmp_path), "folder", found["toy"])
    assert not (tmp_path / "unused").exists()


def test_fetch_builds_a_toy_depth_model(tmp_path: Path) -> None:
    found = loading.fetch("tiny", None, "depth", "qwen2_5_vl", 0, tmp_path)
    assert found["model_type"] == "depth_anything"
    assert type(loading.load_depth(tmp_path)).__name__ == "DepthAnythingForDepthEstimation"


@pytest.mark.parametrize(
    ("weights", "kind", "family", "message"),
    [
        (
            "/nowhere/at/all",
            "policy",
            "llava",
            "neither 'tiny', nor 'miniature', nor an existing folder, nor a hub id",
        ),
        ("tiny", "policy", "bunny", "known are qwen2_5_vl, qwen2_vl, qwen3_vl, qwen3_5, llava"),
        ("FOLDER", "policy", "llava", "model_type is 'qwen2_5_vl', expected 'llava'"),
        ("FOLDER", "policy", "bunny_llama3", "model_type is 'qwen2_5_vl', expected 'llava'"),
        ("FOLDER", "depth", "llava", "expected 'depth_anything'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    weights: str, kind: str, family: str, message: str, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        loading.fetch(weights.replace("FOLDER", str(tiny)), None, kind, family, 0, tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "not a model folder"),
        ({"config.json": "{"}, "its config cannot be read"),
        ({"config.json": '{"model_type": "llava"}'}, "model.safetensors is missing"),
        # pickled weights are never opened
        ({"config.json": '{"model_type": "llava"}', "pytorch_model.bin": ""}, "pickled and is never opened"),
        # a shard was not copied
        (
            {
                "config.json": '{"model_type": "llava"}',
                "model.safetensors.index.json": '{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}',
                "1.safetensors": "",
            },
            r"2\.safetensors is missing",
        ),
        *(
            ({"config.json": '{"model_type": "llava"}', "model.safetensors.index.json": index}, message)
            for index, message in (
                ('{"weight_map": {"a": "pytorch_model.bin"}}', "names pytorch_model.bin; only safetensors"),
                ('{"weight_map": {"a": "../../x.safetensors"}}', r"names \.\./\.\./x.safetensors"),
                ('{"weight_map": {}}', "names no file"),
                ('{"weight_map": {"a": 1}}', "index.json: cannot be read"),
                ('{"weight_map": []}', "index.json: cannot be read"),
                ("{}", "index.json: cannot be read"),
                ("[]", "index.json: cannot be read"),
                ("not json", "index.json: cannot be read"),
            )
        ),
    ],
)
def test_a_folder_without_whole_safetensors_is_refused(
    files: dict[str, str], message: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        loading.fetch(str(tmp_path), None, "policy", "llava", 0, tmp_path / "out")


def test_a_hub_that_cannot_be_reached_is_said_clearly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"owner/name \(revision main\): cannot be downloaded.*Offline\?"):
        loading.fetch("owner/name", None, "policy", "llava", 0, tmp_path)


def test_a_folder_whose_processor_is_unknown_is_refused_instead_of_half_loaded(
    tiny: Path, tmp_path: Path
) -> None:
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    (tmp_path / "processor_config.json").write_text(json.dumps({**saved, "processor_class": "Unknown"}))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="holds no image processor that transformers knows"):
        loading.load_processor(tmp_path)


def test_code_in_a_model_folder_is_never_run(tiny: Path, tmp_path: Path) -> None:
    folder, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(tiny, folder)
    code = f"import pathlib; pathlib.Path({str(ran)!r}).touch()\nfrom transformers import *\n"
    (folder / "evil.py").write_text(code + "class Evil(Qwen2_5_VLForConditionalGeneration): pass\n")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        file = folder / name
        values = json.loads(file.read_text())
        classes = ("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor", "AutoTokenizer")
        values["auto_map"] = dict.fromkeys(classes, "evil.Evil")
        file.write_text(json.dumps(values))
    assert type(loading.load_policy(folder, "fp32")).__name__ == "Qwen2_5_VLForConditionalGeneration"
    loading.load_processor(folder, 224 * 168)
    assert not ran.exists()


def test_the_miniature_sees_the_depth_of_scenes_that_it_never_saw(tmp_path: Path) -> None:
    found = loading.fetch("miniature", None, "depth", "", 0, tmp_path / "depth")
    assert (found["origin"], found["toy"], found["miniature"]) == (
        "miniature",
        "",
        "miniature-depth_anything",
    )
    assert {path.name for path in (tmp_path / "depth").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    correlations = []
    for scene, _ in islice(scenes.stream("pretrain-held-out", 7, 224, 168), 12):
        config = Depth(weights="miniature", size=168)
        [made] = depth_estimation.estimate([("0" * 64, scenes.jpeg(scene))], tmp_path / "depth", config)
        seen = depth_maps.decode_bytes(made.png)  # 0 = nearest, as the scene's
        correlations.append(np.corrcoef(seen.ravel(), scene.view.depth.ravel())[0, 1])
    assert np.mean(correlations) > 0.95


def test_the_weights_that_are_kept_here_are_small_and_hold_no_code() -> None:
    folder = Path(miniature.__file__).parent
    kinds = ("policy", "depth", "looks/next")
    kept = [path for kind in kinds for path in (folder / kind).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) <= 13_000_000
    assert {path.suffix for path in kept} <= {".safetensors", ".json", ".md", ".jinja"}


def test_the_miniature_that_was_trained_further_has_a_name_and_is_used_where_it_is(tmp_path: Path) -> None:
    found = loading.fetch("miniature-looks", None, "policy", "qwen2_5_vl", 0, tmp_path / "policy")
    assert found["folder"] == str(Path(miniature.__file__).parent / "looks" / "next")
    assert (found["origin"], found["miniature"]) == ("miniature", "miniature-qwen2_5_vl")
    with pytest.raises(UserError, match="miniature-looks"):  # there is no depth model of that name
        loading.fetch("miniature-looks", None, "depth", "", 0, tmp_path / "depth")


def test_the_miniature_finds_things_by_name_in_scenes_that_it_never_saw(tmp_path: Path) -> None:
    found = loading.fetch("miniature", None, "policy", "qwen2_5_vl", 0, tmp_path / "policy")
    assert (found["toy"], found["miniature"]) == ("", "miniature-qwen2_5_vl")
    model = loading.load_policy(tmp_path / "policy", "fp32").eval()
    processor = loading.load_processor(tmp_path / "policy", 224 * 168)
    scores = held_out.policy_scores(model, processor, held_out.scenes(12, seed=7))
    boxes = scores["boxes"]
    assert boxes["readable"] > 0.95
    assert boxes["mean IoU"] > 2 * boxes["blind"]
    assert boxes["depth error"] < 0.1
