"""The configuration: shipped files are valid, mistakes are explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from sifthinker.config import Config, load
from sifthinker.core.errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / "flows" / "configs"


def test_the_papers_configuration_has_the_papers_numbers() -> None:
    c = load(CONFIGS / "paper.yaml")
    assert (c.sft.lora.r, c.sft.epochs, c.sft.learning_rate) == (8, 3, 1e-4)
    g = c.grpo
    assert (g.generations, g.beta, g.lora.r, g.learning_rate, g.epochs) == (8, 0.04, 64, 1e-5, 20)
    assert (c.publish.rl_samples, g.ranks, g.deepspeed, g.max_completion) == (200, 8, "zero3", 2048)
    assert (c.model.depth_input, g.rewards.variant, g.rewards.depth_tolerance) == (True, "paper", 0.1)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    assert load(path).name == path.stem


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("scenes: {rows: x}", {}, r"scenes.rows: Input should be a valid integer"),
        ("scenes: {}\ngrpo: {learning_rat: 1}", {}, r"grpo.learning_rat: Extra inputs are not permitted"),
        ("name: a", {}, r"no input: give `sources`"),
        ("[1, 2]", {}, r"is a mapping, found list"),
        ("a: [", {}, r"not YAML"),
        ("scenes: {}\ngrpo: {ranks: 3}", {}, r"6 completions a step is no multiple of generations = 8"),
        ("scenes: {}", {"name.x": 1}, r"--set name.x: .*"),
        (
            "sources: [{name: a, format: viscot, path: x}, {name: a, format: viscot, path: y}]",
            {},
            r"names must be unique",
        ),
    ],
)
def test_mistakes_are_explained(
    tmp_path: Path, text: str, overrides: dict[str, object], message: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: c\n" + text if overrides else text)
    with pytest.raises(UserError, match=message):
        load(file, overrides)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.yaml: cannot read"):
        load(tmp_path / "nowhere.yaml")


def test_overrides_reach_nested_fields(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("scenes: {}")
    assert load(file, {"grpo.rewards.depth": 0, "name": "b"}).grpo.rewards.depth == 0


def test_no_field_of_the_configuration_can_hold_a_key() -> None:
    assert "api_key_env" in Config.model_json_schema()["$defs"]["Api"]["properties"]
    assert "api_key" not in Config.model_json_schema()["$defs"]["Api"]["properties"]
