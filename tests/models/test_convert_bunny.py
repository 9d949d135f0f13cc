"""The conversion of Bunny-LLaMA3: a random toy in the published layout, against the published computation in plain torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional

from sifthinker.core import prompts
from sifthinker.core.errors import UserError
from sifthinker.models import bunny_layout, convert_bunny, loading
from sifthinker.models.toys.text import opening_tokenizer

SIDE, PATCH, TOWER_LAYERS, LAYERS, HEADS, GROUPS, HIDDEN, THETA, EPS = 56, 14, 3, 2, 4, 2, 64, 500_000.0, 1e-5
BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
RESERVED = tuple(f"<|reserved_special_token_{number}|>" for number in range(3))
QUESTION = "What is nearest?"
VISION = "model.vision_tower.vision_tower.vision_model."
Tensors = dict[str, torch.Tensor]


def tensors(vocabulary: int) -> Tensors:
    """Random weights under the names of the published index, with the pooling head, which is not used."""
    mlp, tower, tower_mlp, head = 96, 64, 80, HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (vocabulary, HIDDEN),
        "model.mm_projector.0.weight": (HIDDEN, tower),
        "model.mm_projector.0.bias": (HIDDEN,),
        "model.mm_projector.2.weight": (HIDDEN, HIDDEN),
        "model.mm_projector.2.bias": (HIDDEN,),
        f"{VISION}embeddings.patch_embedding.weight": (tower, 3, PATCH, PATCH),
        f"{VISION}embeddings.patch_embedding.bias": (tower,),
        f"{VISION}embeddings.position_embedding.weight": ((SIDE // PATCH) ** 2, tower),
        f"{VISION}post_layernorm.weight": (tower,),
        f"{VISION}post_layernorm.bias": (tower,),
        f"{VISION}head.probe": (1, 1, tower),
        f"{VISION}head.attention.in_proj_weight": (3 * tower, tower),
    }
    for layer in range(LAYERS):
        for name, shape in {
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (GROUPS * head, HIDDEN),
            "self_attn.v_proj": (GROUPS * head, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (mlp, HIDDEN),
            "mlp.up_proj": (mlp, HIDDEN),
            "mlp.down_proj": (HIDDEN, mlp),
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    for layer in range(TOWER_LAYERS):
        for name, shape in {
            **{f"self_attn.{part}_proj": (tower, tower) for part in ("q", "k", "v", "out")},
            "mlp.fc1": (tower_mlp, tower),
            "mlp.fc2": (tower, tower_mlp),
            "layer_norm1": (tower,),
            "layer_norm2": (tower,),
        }.items():
            shapes[f"{VISION}encoder.layers.{layer}.{name}.weight"] = shape
            shapes[f"{VISION}encoder.layers.{layer}.{name}.bias"] = shape[:1]
    generator = torch.Generator().manual_seed(0)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def publish(folder: Path, **fields: Any) -> None:
    """A folder as it is published, in two files, with a row of the vocabulary for padding as in the first upload."""
    tokenizer = opening_tokenizer((BEGIN, END, *RESERVED), BEGIN, END, END)
    tokenizer.save_pretrained(folder)
    config = {
        "model_type": "bunny-llama",
        "architectures": ["BunnyLlamaForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_bunny_llama.BunnyLlamaConfig"},
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": f"google/siglip-toy-patch{PATCH}-{SIDE}",
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
        "max_position_embeddings": 2048,
        "rms_norm_eps": EPS,
        "rope_theta": THETA,
        "torch_dtype": "float32",
        **fields,
    }
    (folder / "config.json").write_text(json.dumps(config))
    made = tensors(len(tokenizer) + 1)
    index = {}
    for number, chosen in enumerate((sorted(made)[::2], sorted(made)[1::2])):
        save_file({name: made[name] for name in chosen}, folder / f"model-{number}.safetensors")
        index |= dict.fromkeys(chosen, f"model-{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    folder.mkdir()
    publish(folder)
    return folder


# --- the published computation -----------------------------------------------------------------------------------


def seen(picture: Image.Image) -> torch.Tensor:
    """expand2square with the mean as int(0.5 * 255), then SigLIP's processor."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side), (127, 127, 127))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    values = np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32) / 255
    return torch.from_numpy((values - 0.5) / 0.5).permute(2, 0, 1)


def features(t: Tensors, pixels: torch.Tensor) -> torch.Tensor:
    """Hidden states before SigLIP's last layer, (pictures, patches, hidden), through the projector."""
    e = f"{VISION}embeddings."
    x = functional.conv2d(
        pixels, t[f"{e}patch_embedding.weight"], t[f"{e}patch_embedding.bias"], stride=PATCH
    )
    x = x.flatten(2).transpose(1, 2) + t[f"{e}position_embedding.weight"]
    for number in range(TOWER_LAYERS - 1):
        layer = f"{VISION}encoder.layers.{number}."

        def linear(y: torch.Tensor, name: str, layer: str = layer) -> torch.Tensor:
            return functional.linear(y, t[f"{layer}{name}.weight"], t[f"{layer}{name}.bias"])

        def norm(y: torch.Tensor, name: str, layer: str = layer) -> torch.Tensor:
            return functional.layer_norm(
                y, y.shape[-1:], t[f"{layer}{name}.weight"], t[f"{layer}{name}.bias"], 1e-6
            )

        y = norm(x, "layer_norm1")
        q, k, v = (linear(y, f"self_attn.{part}_proj") for part in "qkv")
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)  # a head of 64
        x = x + linear(weights @ v, "self_attn.out_proj")
        y = functional.gelu(linear(norm(x, "layer_norm2"), "mlp.fc1"), approximate="tanh")
        x = x + linear(y, "mlp.fc2")
    for number in (0, 2):
        x = functional.linear(
            x, t[f"model.mm_projector.{number}.weight"], t[f"model.mm_projector.{number}.bias"]
        )
        x = functional.gelu(x) if number == 0 else x
    return x


def llama(t: Tensors, x: torch.Tensor) -> torch.Tensor:
    """LLaMA-3 on embeddings (tokens, hidden); its logits."""
    size, length = HIDDEN // HEADS, len(x)
    angles = torch.outer(torch.arange(length), THETA ** (-torch.arange(0, size, 2) / size))
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)

    def turn(y: torch.Tensor) -> torch.Tensor:  # (heads, tokens, size)
        return y * cos + torch.cat((-y[..., size // 2 :], y[..., : size // 2]), -1) * sin

    def norm(y: torch.Tensor, name: str) -> torch.Tensor:
        return y * (y.pow(2).mean(-1, keepdim=True) + EPS).rsqrt() * t[f"{name}.weight"]

    mask = torch.full((length, length), -torch.inf).triu(1)
    for number in range(LAYERS):
        layer = f"model.layers.{number}."
        y = norm(x, f"{layer}input_layernorm")
        q, k, v = (
            (y @ t[f"{layer}self_attn.{part}_proj.weight"].T).view(length, -1, size).transpose(0, 1)
            for part in "qkv"
        )
        k, v = (each.repeat_interleave(HEADS // GROUPS, 0) for each in (turn(k), v))
        attended = (turn(q) @ k.transpose(1, 2) / size**0.5 + mask).softmax(-1) @ v
        x = x + attended.transpose(0, 1).reshape(length, HIDDEN) @ t[f"{layer}self_attn.o_proj.weight"].T
        y = norm(x, f"{layer}post_attention_layernorm")
        gate, up = (y @ t[f"{layer}mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + (functional.silu(gate) * up) @ t[f"{layer}mlp.down_proj.weight"].T
    return norm(x, "model.norm") @ t["lm_head.weight"].T


def published_logits(folder: Path, pictures: list[Image.Image], text: str) -> torch.Tensor:
    """The text is cut at <image>, and the features stand between the pieces."""
    t: Tensors = {}
    for file in folder.glob("*.safetensors"):
        t |= load_file(file)
    tokenizer = opening_tokenizer((BEGIN, END, *RESERVED), BEGIN, END, END)
    found = iter(features(t, torch.stack([seen(picture) for picture in pictures])))
    parts = [t["model.embed_tokens.weight"][[tokenizer.bos_token_id]]]
    for number, piece in enumerate(text.split("<image>")):
        parts += [next(found)] if number else []
        parts.append(t["model.embed_tokens.weight"][tokenizer(piece, add_special_tokens=False)["input_ids"]])
    return llama(t, torch.cat(parts))


def test_the_converted_model_answers_as_the_published_one(published: Path, tmp_path: Path) -> None:
    assert convert_bunny.convert(published, tmp_path / "converted") < 1e-5
    ramp = np.add.outer(np.arange(90), np.arange(60)).astype(np.uint8)
    pictures = [Image.fromarray(ramp).convert("RGB"), Image.new("RGB", (120, 40), (200, 30, 30))]
    text = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
        "and polite answers to the user's questions. USER: Original image: <image>\nDepth image: <image>\n"
        f"{QUESTION}{prompts.THINK_SUFFIX} ASSISTANT: The ball.{END}"
    )
    wanted = published_logits(published, pictures, text)

    processor = loading.load_processor(tmp_path / "converted")
    model = loading.load_policy(tmp_path / "converted", "fp32")
    inputs = loading.encode(processor, prompts.policy_messages(QUESTION, chain="The ball."), pictures)
    with torch.no_grad():
        found = model(**inputs).logits[0]
    assert found.shape == (wanted.shape[0], wanted.shape[1] - 1)  # without the row for padding
    assert (found - wanted[:, :-1]).abs().max() < 1e-4
    assert wanted.abs().max() > 1  # there is something to compare
    changed = inputs["pixel_values"].flip(0)
    with torch.no_grad():
        assert (model(**{**inputs, "pixel_values": changed}).logits[0] - found).abs().max() > 1e-2


def test_a_converted_folder_is_one_of_the_family(published: Path, tmp_path: Path) -> None:
    out = tmp_path / "converted"
    convert_bunny.convert(published, out)
    found = loading.fetch(str(out), None, "policy", "bunny_llama3", 0, tmp_path / "unused")
    assert found["origin"] == "folder"
    assert not list(tmp_path.glob("*.partial"))
    names = set(json.loads((out / "model.safetensors.index.json").read_text())["weight_map"])
    # the names of published LLaVA folders, which older readers know
    assert {name.split(".")[0] for name in names} == {
        "language_model",
        "multi_modal_projector",
        "vision_tower",
    }
    assert "vision_tower.vision_model.encoder.layers.2.mlp.fc1.weight" in names
    assert not [name for name in names if "head.probe" in name]
    tokenizer = loading.load_processor(out).tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer.convert_tokens_to_ids("<image>")) == "<image>"
    assert RESERVED[-1] not in tokenizer.get_vocab() and RESERVED[-2] in tokenizer.get_vocab()
    with safe_open(out / "model-00001-of-00002.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def drop(name: str) -> Callable[[Path], None]:
    """Takes a tensor out of the files and the index."""

    def change(folder: Path) -> None:
        file = folder / "model.safetensors.index.json"
        index = json.loads(file.read_text())
        shard = folder / index["weight_map"].pop(name)
        save_file({key: value for key, value in load_file(shard).items() if key != name}, shard)
        file.write_text(json.dumps(index))

    return change


@pytest.mark.parametrize(
    ("fields", "change", "message"),
    [
        (
            {"model_type": "llama"},
            None,
            "model_type is 'llama', and 'bunny-llama' is converted; give a download",
        ),
        ({"use_s2": True}, None, r"use_s2 is True.*Bunny v1.1 sees a picture at three sizes"),
        ({"mm_vision_tower": "google/siglip"}, None, "does not end in -patchP-SIDE"),
        ({"rope_scaling": {"factor": 2.0}}, None, "rope_scaling is .*, and None is converted"),
        (
            {"mm_projector_type": "linear"},
            None,
            "mm_projector_type is 'linear', and 'mlp2x_gelu' is converted",
        ),
        ({}, drop("model.mm_projector.2.bias"), "model.mm_projector.2.bias is missing"),
        ({}, drop("model.layers.1.mlp.up_proj.weight"), "model.layers.1.mlp.up_proj.weight is missing"),
        ({}, lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: is missing"),
        ({}, lambda folder: (folder / "model-1.safetensors").unlink(), "model-1.safetensors is missing"),
    ],
)
def test_what_cannot_be_converted_is_refused_and_leaves_no_folder(
    fields: dict[str, Any], change: Callable[[Path], None] | None, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    publish(folder, **fields)
    if change:
        change(folder)
    with pytest.raises(UserError, match=message):
        convert_bunny.convert(folder, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_a_wrong_conversion_is_found_by_its_logits(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [
        (
            pattern,
            new.replace("linear_1", "linear_X")
            .replace("linear_2", "linear_1")
            .replace("linear_X", "linear_2"),
        )
        for pattern, new in bunny_layout._NAMES
    ]
    monkeypatch.setattr(bunny_layout, "_NAMES", tuple(names))
    with pytest.raises(UserError, match="the converted model answers otherwise than the published one"):
        convert_bunny.convert(published, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_the_command_says_what_is_wrong_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["convert_bunny", str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        convert_bunny.main()
    assert ended.value.code == 2
    assert "config.json: not a model folder" in capsys.readouterr().err
