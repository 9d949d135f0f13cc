"""The configuration: shipped files are valid, and mistakes are explained in the user's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from sifthinker.config import Api, Config, Section, added, identity, load, operational, parse, parse_value
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


SOURCE = "{name: mine, format: viscot, path: x}"


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        # names of fields
        (
            "scenes: {}\ngrpo:\n  learning_rte: 1",
            {},
            "line 3: grpo.learning_rte: there is no such field; did you mean 'learning_rate'?",
        ),
        ("scenes: {}\nlora: {r: 1}", {}, "line 2: lora: there is no such field; known: name, store, remote"),
        (
            "scenes: {}\n",
            {"grpo.learning_rat": 1},
            "--set grpo.learning_rat: there is no such field; did you",
        ),
        (
            "annotate: {api: {time_out: 3}}\nscenes: {}",
            {},
            "annotate.api.time_out: there is no such field; did you mean 'timeout'?",
        ),
        ("scenes: {}\n1: x", {}, "line 2: 1: is no name of a field; put it into quotes"),
        ("sources: [{name: mine, format: viscot}]", {}, "sources.mine.path: is missing; give it"),
        # names that tables hold
        (
            "sources:\n- {name: mine, path: x, format: visct}",
            {},
            "line 2: sources.mine.format: there is no source named 'visct'; did you mean 'viscot'? Known: viscot, tallyqa",
        ),
        (
            "scenes: {}\nevaluate: {benchmarks: [{name: pop, path: x, images: x}]}",
            {},
            "evaluate.benchmarks.pop.name: there is no benchmark named 'pop'; did you mean 'pope'?",
        ),
        (
            "scenes: {}\ngrpo: {deepspeed: zero}",
            {},
            "grpo.deepspeed: must be one of 'none', 'zero2', 'zero3', 'zero2_offload' or 'zero3_offload', "
            "found 'zero'; did you mean 'zero3'?",
        ),
        (
            "scenes: {}\nnightly: {tier: quik}",
            {},
            "tier: there is no tier 'quik'; did you mean 'quick'?; tiers: quick",
        ),
        (
            "scenes: {}\nnightly: {tiers: {nightly: {then: monthly}}}",
            {},
            "tiers.nightly.then: there is no tier 'monthly'; tiers: quick, nightly, weekly",
        ),
        (
            "scenes: {}\nnightly: {tiers: {nightly: {then: all}, all: {then: nightly}}}",
            {},
            "nightly -> all -> nightly: a tier must not follow itself",
        ),
        # a model that nobody named
        (
            "scenes: {}\nannotate: {api: {base_url: 'https://x.example/v1'}}",
            {},
            "line 2: annotate.api: no model is named for https://x.example/v1: set `model`",
        ),
        (
            "scenes: {}\ngrpo: {judge: {base_url: 'https://x.example/v1', model: standin}}",
            {},
            "grpo.judge: no model is named for https://x.example/v1: set `model`",
        ),
        # values that a stage would refuse hours later
        (
            "scenes: {}\ndepth: {size: 500}",
            {},
            "depth.size: 500 is no multiple of 14, the side of the model's patch: set 490 or 504",
        ),
        (
            "scenes: {}\ngrpo: {nodes: 2, generation: vllm_lora}",
            {},
            "grpo: generation: vllm_lora samples on one machine, and nodes is 2; set generation to transformers",
        ),
        (
            "scenes: {}\ngrpo: {generation: vllm_lora, lora: {r: 1024}}",
            {},
            "grpo: lora.r: 1024: vLLM takes adapters of rank 512 at most; lower it",
        ),
        # places that are not there
        ("scenes: {}\nablation: {pairs: [[base]]}", {}, "ablation.pairs.0.1: is missing; give it"),
        ("scenes: {}", {"ablation.pairs": [["base"]]}, "--set ablation.pairs.0.1: is missing; give it"),
        # values
        ("scenes: {rows: x}", {}, "line 1: scenes.rows: must be a whole number, found 'x'"),
        ("scenes: {rows: true}", {}, "scenes.rows: must be a number, found true"),
        ("scenes: {rows: 1.5}", {}, "scenes.rows: must be a whole number, found 1.5"),
        ("scenes: {rows: 0}", {}, "scenes.rows: must be at least 1, found 0"),
        ("scenes: {fewest: 7}", {}, "scenes.fewest = 7 is more than scenes.most = 6: set most to at least 7"),
        ("scenes: {}\nablation: {seeds: [true]}", {}, "ablation.seeds: must be a number, found true"),
        (
            "scenes: {}\nsft: {learning_rate: .inf}",
            {},
            "sft.learning_rate: must be a finite number, found inf",
        ),
        (
            "scenes: {}\nsft: {learning_rate: .nan}",
            {},
            "sft.learning_rate: must be a finite number, found nan",
        ),
        (
            "scenes: {}\nsft: {max_steps: 1e23}",
            {},
            "sft.max_steps: is too large: an integer has at most 64 bits",
        ),
        ("scenes: {}\nname: 5", {}, "name: must be text; put it into quotes, found 5"),
        ("scenes: {}\nname: ä b", {}, "name: must match ^[a-zA-Z0-9]"),
        ("scenes: 3", {}, "scenes: must be a section, with fields of its own, found 3"),
        ("sources: x", {}, "sources: must be a list, found 'x'"),
        ('scenes: {}\nstore: "a\\0b"', {}, "line 2: store: holds a NUL character; remove it"),
        ('scenes: {}\nannotate: {prompt: "\\ud800"}', {}, "annotate.prompt: holds half of a surrogate pair"),
        # addresses
        (
            "scenes: {}\nannotate: {api: {base_url: file:///etc/passwd}}",
            {},
            "base_url: is no address of an HTTP",
        ),
        (
            "scenes: {}\nannotate: {api: {base_url: 'http://h:99999'}}",
            {},
            "annotate.api.base_url: is no address",
        ),
        (
            "scenes: {}\nannotate: {api: {base_url: 'http://u:p@h/v1'}}",
            {},
            "must not hold a user or password",
        ),
        (
            "scenes: {}\nevaluate: {server: vlm}",
            {},
            "evaluate.server: must be transformers or vllm, or the base URL",
        ),
        # sections against each other
        ("name: a", {}, "no input: give `sources`"),
        ("scenes: {}\ngrpo: {ranks: 3}", {}, "6 completions a step is no multiple of generations = 8"),
        (f"sources: [{SOURCE}, {SOURCE}]", {}, "names must be unique"),
        ("scenes: {}\nname: a", {"name.x": 1}, "--set name.x: name is not a section"),
        # YAML
        ("[1, 2]", {}, "is a mapping, found list"),
        ("a: [", {}, "line 1, column 5: not YAML"),
        (
            "grpo: {generations: 4}\nscenes: {}\ngrpo: {beta: 1}",
            {},
            "line 3, column 1: not YAML: 'grpo' is given twice, first in line 1",
        ),
        ("scenes: {rows: 1, rows: 2}", {}, "'rows' is given twice, first in line 1"),
        ("a: " + "[" * 1000, {}, "nested more than 50 levels deep"),
        (
            "scenes: {}\nsft: {seed: " + "9" * 5000 + "}",
            {},
            "line 2, column 13: not YAML: 99999999999999999999… (5000 characters) cannot be read as int",
        ),
        ("name: a\0b", {}, "line 1: not YAML: the character U+0000 is not allowed"),
    ],
)
def test_mistakes_are_explained(
    tmp_path: Path, text: str, overrides: dict[str, object], message: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(file, overrides)
    assert message in str(caught.value)
    assert str(file) in str(caught.value) or message.startswith("--set")


def test_every_mistake_is_listed_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("scenes:\n  rows: 0\n  sed: 1\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(file)
    assert str(caught.value) == (
        f"{file}: the configuration is not valid:\n"
        "  line 2: scenes.rows: must be at least 1, found 0\n"
        "  line 3: scenes.sed: there is no such field; did you mean 'seed'?"
    )


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("scenes: {}\nname: é", encoding=encoding)
    with pytest.raises(
        UserError, match=r"c.yaml: line \d: the configuration is not UTF-8 text; save the file"
    ):
        load(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.yaml: cannot read"):
        load(tmp_path / "nowhere.yaml")


def test_overrides_reach_nested_fields(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("scenes: {}")
    assert load(file, {"grpo.rewards.depth": 0, "name": "b"}).grpo.rewards.depth == 0


def test_overrides_reach_sections_that_the_file_leaves_out(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("scenes:\n")
    config = load(file, {"scenes.rows": 3})
    assert config.scenes is not None and config.scenes.rows == 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1E3", 1e3),
        (".5e2", 50.0),
        ("2026-11-29", "2026-11-29"),
        ("2026-13-45", "2026-13-45"),
        ("no", False),
        ("1e", "1e"),
    ],
)
def test_values_are_read_as_people_mean_them(text: str, value: object) -> None:
    assert parse_value(text, "--set x") == value


@pytest.mark.parametrize("text", ["[", "{", '"', "9" * 5000, "[" * 100])
def test_a_value_that_is_not_yaml_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^--set x: .*not YAML"):
        parse_value(text, "--set x")


def test_keys_that_are_merged_in_are_no_duplicates(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("scenes: &a {rows: 3}\ndepth: {}\nsources: []\n", encoding="utf-8")
    assert load(file).scenes is not None
    assert parse_value("{a: &a {x: 1, y: 2}, b: {<<: *a, x: 3}}", "x")["b"] == {"x": 3, "y": 2}


def test_plain_values_are_checked_without_a_file() -> None:
    with pytest.raises(UserError, match=r"^the form: scenes.rows: must be a"):
        parse({"scenes": {"rows": True}}, "the form")


def test_no_field_of_the_configuration_can_hold_a_key() -> None:
    assert "api_key_env" in Config.model_json_schema()["$defs"]["Api"]["properties"]
    assert "api_key" not in Config.model_json_schema()["$defs"]["Api"]["properties"]


def test_the_form_offers_the_names_of_the_tables() -> None:
    sections = Config.model_json_schema()["$defs"]
    assert sections["Source"]["properties"]["format"]["enum"] == ["viscot", "tallyqa", "published"]
    assert "pope" in sections["Benchmark"]["properties"]["name"]["enum"]


class _Stage(Section):
    steps: int = 3
    workers: int = operational(1)
    variant: str = added("plain", description="came later")


def test_a_field_that_was_added_later_counts_only_when_it_differs_from_its_default() -> None:
    assert identity(_Stage()) == identity(_Stage(workers=2)) == {"steps": 3}
    assert identity(_Stage(variant="other")) == {"steps": 3, "variant": "other"}


@pytest.mark.parametrize("section", ["sft", "grpo"])
def test_one_field_of_an_adapter_leaves_the_others_at_their_defaults(section: str) -> None:
    default = getattr(parse({"scenes": {}}, "test"), section).lora
    found = getattr(parse({"scenes": {}, section: {"lora": {"r": 16}}}, "test"), section).lora
    assert found == default.model_copy(update={"r": 16}) and default.r != 16


@pytest.mark.parametrize(
    ("nightly", "chain", "limit"),
    [
        ({"tier": "quick"}, ("quick", "nightly"), 200),
        ({"tier": "quick", "tiers": {"quick": {"limit": 100}}}, ("quick", "nightly"), 100),
        ({"tiers": {"quick": {"limit": 100}}}, ("nightly",), 100),
        ({"tier": "quick", "tiers": {"quick": {"then": ""}}}, ("quick",), 200),
        ({"tier": "quick", "tiers": {"quick": {"limit": None}}}, ("quick", "nightly"), None),
        ({"tier": "mine", "tiers": {"mine": {"limit": 5, "then": "weekly"}}}, ("mine", "weekly"), 200),
    ],
)
def test_a_tier_keeps_the_fields_that_are_not_given(
    nightly: dict[str, object], chain: tuple[str, ...], limit: int | None
) -> None:
    config = parse({"scenes": {}, "nightly": nightly}, "test")
    assert (config.nightly.chain, config.nightly.tiers["quick"].limit) == (chain, limit)
    assert config.nightly.tiers["weekly"].fresh
    for left_out in ({}, {"exclude_defaults": True}, {"exclude_unset": True}):
        assert parse(config.model_dump(mode="json", **left_out), "again") == config


def test_an_endpoint_in_parts_takes_no_model_from_the_default_of_another_one() -> None:
    """Artifacts of a stand-in that is named without a model keep their keys."""
    assert parse({"scenes": {}}, "test").annotate.api.model == "doubao-1.5-vision-pro"
    named = parse({"scenes": {}, "annotate": {"api": {"base_url": "standin"}}}, "test")
    assert named.annotate.api.model == "standin"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("https://API.Example.org/V1/", "https://api.example.org/V1"),
        ("HTTPS://api.example.org:443/V1", "https://api.example.org/V1"),
        ("http://127.0.0.1:8000/v1//", "http://127.0.0.1:8000/v1"),
        ("http://[::1]:80/v1", "http://[::1]/v1"),
        ("https://h/v1?api-version=2/", "https://h/v1?api-version=2/"),
        ("http://h", "http://h"),
    ],
)
def test_spellings_of_one_address_are_one_account_and_nothing_is_paid_twice(written: str, meant: str) -> None:
    assert Api(base_url=written, model="m").base_url == meant
