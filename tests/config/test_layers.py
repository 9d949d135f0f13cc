"""A configuration in layers: `extends`, several files, and single fields on top."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.commands.main import app
from flows.commands.options import load as chosen
from sifthinker.config import changed, layers, load
from sifthinker.core.errors import UserError


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, text: str) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    return write


def test_mappings_are_merged_and_lists_are_replaced_whole(write) -> None:
    write(
        "base.yaml",
        "name: base\nscenes: {rows: 5, seed: 3}\ngrpo: {epochs: 4, rewards: {depth: 0.5}}\nablation: {seeds: [0, 1, 2]}",
    )
    top = write(
        "top.yaml",
        "extends: base.yaml\nscenes: {rows: 9}\ngrpo: {rewards: {format: 2}}\nablation: {seeds: [7]}",
    )
    found = load(top)
    assert found.scenes is not None
    assert (found.name, found.scenes.rows, found.scenes.seed, found.grpo.epochs) == ("base", 9, 3, 4)
    assert (found.grpo.rewards.depth, found.grpo.rewards.format) == (0.5, 2)
    assert found.ablation.seeds == (7,)


def test_an_endpoint_by_preset_keeps_nothing_of_the_lower_one(write) -> None:
    found = load(
        write("top.yaml", "extends: paper\nannotate: {api: {preset: openai, model: m}}")
    ).annotate.api
    assert (found.base_url, found.api_key_env) == ("https://api.openai.com/v1", "OPENAI_API_KEY")
    assert found.requests_per_minute is None


@pytest.mark.parametrize("turned", [False, True])
def test_a_preset_that_is_set_keeps_nothing_of_the_files_endpoint_and_all_that_is_set_beside_it(
    turned: bool,
) -> None:
    fields = {"grpo.judge.preset": "openai", "grpo.judge.model": "gpt-4o", "grpo.judge.concurrency": 2}
    found = load(layers.named("paper"), dict(reversed(fields.items())) if turned else fields)
    judge = found.grpo.judge
    assert (judge.base_url, judge.api_key_env) == ("https://api.openai.com/v1", "OPENAI_API_KEY")
    assert (judge.model, judge.concurrency) == ("gpt-4o", 2)
    assert found.evaluate.judge is not None
    assert found.evaluate.judge.api_key_env == "ARK_API_KEY", "an alias of the same mapping"


def test_a_preset_that_is_set_alone_does_not_take_the_files_model() -> None:
    with pytest.raises(UserError, match=r"annotate\.api: preset openai names no model"):
        load(layers.named("demo"), {"annotate.api.preset": "openai"})


def test_the_preset_of_the_file_set_again_changes_nothing(write) -> None:
    """As a form does: its configuration has the settings already, and it is given them once more."""
    file = write("c.yaml", "extends: paper\ngrpo: {judge: {preset: openai, model: m, extra: {a: 1}}}")
    assert load(file, {"grpo.judge.preset": "openai"}) == load(file)


def test_a_variant_with_another_preset_keeps_nothing_of_the_endpoint() -> None:
    fields = {"annotate.api.preset": "openai", "annotate.api.model": "m"}
    found = changed(load(layers.named("paper")), fields, "variant").annotate.api
    assert (found.api_key_env, found.requests_per_minute) == ("OPENAI_API_KEY", None)


def test_null_takes_a_section_of_a_lower_layer_away(write) -> None:
    top = write(
        "top.yaml",
        "extends: demo\nname: mine\nscenes: null\nsources: [{name: mine, format: viscot, path: x}]",
    )
    found = load(top)
    assert found.scenes is None and found.model.weights == "miniature" and len(found.sources) == 1


def test_a_path_is_relative_to_the_file_and_chains_go_on(write) -> None:
    write("a/lowest.yaml", "scenes: {rows: 1}\nname: lowest")
    write("a/middle.yaml", "extends: ./lowest.yaml\nname: middle")
    top = write("b/top.yaml", "extends: ../a/middle.yaml\ngrpo: {epochs: 1}")
    found = load(top)
    assert found.name == "middle" and found.scenes is not None and found.scenes.rows == 1


def test_of_several_files_the_later_wins_and_set_wins_over_all(write, monkeypatch, tmp_path) -> None:
    one = write("one.yaml", "extends: smoke\nname: one\nscenes: {rows: 4}")
    two = write("two.yaml", "name: two")
    monkeypatch.chdir(tmp_path)
    found = chosen([str(one), "two.yaml"], ["scenes.seed=8"])
    assert (found.name, found.scenes.rows, found.scenes.seed) == ("two", 4, 8)
    assert chosen([str(two), str(one)], []).name == "one"
    assert chosen([str(one), "two.yaml"], ["name=three"]).name == "three"


def test_an_alias_of_yaml_is_not_changed_in_two_places_by_one_field(write) -> None:
    file = write(
        "c.yaml",
        "scenes: {}\ngrpo: {judge: &j {base_url: http://h/v1, model: m}}\nevaluate: {judge: *j}",
    )
    found = load(file, {"grpo.judge.model": "other"})
    assert (found.grpo.judge.model, found.evaluate.judge.model) == ("other", "m")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: x\nextends: papr",
            "top.yaml: line 2: extends: there is no configuration named 'papr'; did you mean 'paper'?",
        ),
        ("extends: zzz", "Known: ablation, demo,"),
        ("extends: gone.yaml", "gone.yaml does not exist; the path is relative to the folder of top.yaml"),
        (
            "extends: [demo, smoke]",
            "line 1: extends: must be the name of a configuration or the path of a file",
        ),
        ("extends: null", "extends: must be the name"),
        ("extends: top.yaml", "extend each other in a circle: "),
        ("extends: round.yaml", "top.yaml -> "),
        ("extends: list.yaml", "list.yaml: a configuration is a mapping, found list"),
        (
            "extends: twice.yaml",
            "twice.yaml: line 2, column 1: not YAML: 'name' is given twice, first in line 1",
        ),
        ("extends: latin.yaml", "latin.yaml: line 1: the configuration is not UTF-8 text"),
    ],
)
def test_what_cannot_be_extended_is_refused_with_file_and_line(write, tmp_path, text, message) -> None:
    top = write("top.yaml", text)
    write("round.yaml", "extends: top.yaml")
    write("list.yaml", "[1]")
    write("twice.yaml", "name: a\nname: b")
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(UserError) as caught:
        load(top)
    assert message in str(caught.value)


def test_a_mistake_names_the_file_and_line_that_it_is_from(write, tmp_path) -> None:
    write("base.yaml", "name: base\nscenes:\n  rows: 3\n  sed: 1")
    top = write("top.yaml", "extends: base.yaml\n\nscenes: {rows: 0}")
    with pytest.raises(UserError) as caught:
        load(top)
    assert str(caught.value) == (
        f"{top}: the configuration is not valid:\n"
        f"  {top}: line 3: scenes.rows: must be at least 1, found 0\n"
        f"  {tmp_path / 'base.yaml'}: line 4: scenes.sed: there is no such field; did you mean 'seed'?"
    )
    good = write("good.yaml", "extends: base.yaml")
    with pytest.raises(UserError) as caught:
        load(good)
    assert str(caught.value).startswith(
        f"{tmp_path / 'base.yaml'}: line 4: scenes.sed: there is no such field"
    )


def test_a_users_own_configuration_can_extend_ours_of_the_same_name(write, tmp_path, monkeypatch) -> None:
    """The cluster's `nightly.yaml` is ours with its benchmarks; a file of another folder takes both."""
    ours = load(layers.named("smoke"))
    write("own/smoke.yaml", "extends: smoke\nscenes: {rows: 9}")
    monkeypatch.setenv(layers.OWN, str(tmp_path / "own"))
    expected = ours.model_copy(update={"scenes": ours.scenes.model_copy(update={"rows": 9})})
    assert load(layers.named("smoke")) == expected
    assert load(write("mine.yaml", "extends: smoke\nname: smoke")) == expected
    with pytest.raises(UserError, match="extend each other in a circle"):
        load(write("own/own.yaml", "extends: own"))


@pytest.mark.parametrize("name", layers.names())
def test_every_configuration_can_be_extended_by_its_name(write, name) -> None:
    found = load(write("mine.yaml", f"extends: {name}\nname: mine"))
    assert found.model_copy(update={"name": name}) == load(layers.named(name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scenes: {rows: .inf}", "line 1: scenes.rows: must be a finite number, found inf"),
        (
            "scenes: {}\nsft: {learning_rate: .nan}",
            "line 2: sft.learning_rate: must be a finite number, found nan",
        ),
        ("scenes: {}\nscenes: {}", "line 2, column 1: not YAML: 'scenes' is given twice"),
        ("scenes: {}\npools: {sfft: x}", "line 2: pools.sfft: there is no such field; did you mean 'sft'?"),
        ("scens: {}", "line 1: scens: there is no such field; did you mean 'scenes'?"),
    ],
)
def test_the_command_ends_with_2_file_line_and_field(write, monkeypatch, capsys, text, message) -> None:
    from flows.commands import main

    file = write("c.yaml", text)
    monkeypatch.setattr("sys.argv", ["sif", "plan", "--config", str(file)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert str(file) in said and message in said


def test_a_configuration_that_is_not_there_is_answered_with_those_that_are(monkeypatch, capsys) -> None:
    from flows.commands import main

    monkeypatch.setattr("sys.argv", ["sif", "plan", "--config", "dmo"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert (
        "no configuration named 'dmo'; did you mean 'demo'? Known: ablation, demo" in capsys.readouterr().err
    )


def test_the_resolved_configuration_can_be_seen(write, tmp_path) -> None:
    file = write("mine.yaml", f"extends: smoke\nname: mine\nstore: {tmp_path / 'store'}\nscenes: {{rows: 9}}")
    shown = CliRunner().invoke(app, ["plan", "--config", str(file), "--resolved", "--set", "scenes.seed=4"])
    assert shown.exit_code == 0, shown.output
    again = write("again.yaml", shown.output)
    assert load(again) == load(file, {"scenes.seed": 4})
    assert not (tmp_path / "store").exists()


def test_a_folder_of_ones_own_that_is_none_is_no_silence(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(layers.OWN, str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"SIF_CONFIGS: .*gone is no folder; correct it, or unset it"):
        layers.named("demo")
