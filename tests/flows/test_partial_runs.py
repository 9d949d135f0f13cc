"""What a plan leaves out, and what it says is not there; nothing runs here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.commands import main
from flows.commands.plan import planned
from sifthinker import scenes
from sifthinker.config import Config, parse
from sifthinker.core.errors import UserError
from sifthinker.training import preflight
from tasks.runtime.planned import Planned, refuse

REAL = {"sources": [{"name": "mine", "format": "viscot", "path": "gone.json", "images": "gone"}]}
BENCHMARK = {
    "evaluate": {"benchmarks": [{"name": "vstar", "path": "gone", "images": "gone"}], "judge": {"model": "m"}}
}


def looked_at(tmp_path: Path, stop_after: str | None = None, **fields: Any) -> dict[str, Planned]:
    config: Config = parse({"store": str(tmp_path / "store"), **fields}, "test")
    return {p.label: p for p in planned(config, None, stop_after, [], None)}


@pytest.mark.parametrize(
    ("stop_after", "labels"),
    [
        ("publish", ["scenes", "depth-weights", "ingest", "expand", "depth", "annotate", "publish"]),
        ("depth", ["scenes", "depth-weights", "ingest", "depth"]),
        ("policy-weights", ["policy-weights"]),
        ("expand", ["scenes", "ingest", "expand"]),
    ],
)
def test_a_stop_wants_only_what_its_stage_is_made_from(
    tmp_path: Path, stop_after: str, labels: list[str]
) -> None:
    found = looked_at(tmp_path, stop_after, scenes={}, annotate={"api": {"base_url": "standin"}})
    assert list(found) == labels


def test_a_data_set_wants_no_policy_no_judge_and_no_benchmarks(tmp_path: Path) -> None:
    fields = {"scenes": {}, "annotate": {"api": {"base_url": "standin"}}, **BENCHMARK}
    refuse(list(looked_at(tmp_path, "publish", **fields).values()))
    with pytest.raises(UserError) as told:
        refuse(list(looked_at(tmp_path, **fields).values()))
    said = str(told.value)
    assert "grpo: grpo.judge.base_url: no endpoint is named" in said
    assert "evaluate: evaluate.judge.base_url: no endpoint is named" in said
    assert "evaluate: vstar: wants test_questions.jsonl" in said


def test_a_real_source_gets_no_stand_in_that_nobody_named(tmp_path: Path) -> None:
    found = looked_at(tmp_path, "publish", **REAL)
    [said] = found["annotate"].lacks
    assert said.startswith("annotate.api.base_url: no endpoint is named, and there is no default")
    named = looked_at(tmp_path, "publish", **REAL, annotate={"api": {"base_url": "standin"}})
    assert not named["annotate"].lacks


ELSEWHERE = {"base_url": "https://api.example.org/v1", "model": "m", "api_key_env": "DOCTOR_KEY"}


def test_a_key_that_is_not_set_is_found_before_anything_is_made_or_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: dict[str, Any] = {
        "annotate": {"api": ELSEWHERE},
        "retry": {"passes": [{"api": ELSEWHERE}]},
        "grpo": {"judge": ELSEWHERE},
        "evaluate": {"judge": ELSEWHERE, "server": "transformers"},
    }
    monkeypatch.delenv("DOCTOR_KEY", raising=False)
    found = looked_at(tmp_path, scenes={}, **fields)
    lacking = {label: planned.lacks for label, planned in found.items() if planned.lacks}
    assert set(lacking) == {"annotate", "retry", "grpo", "evaluate"}
    for label, field in (
        ("annotate", "annotate.api"),
        ("evaluate", "evaluate.judge"),
        ("grpo", "grpo.judge"),
    ):
        assert lacking[label][0].startswith(
            f"{field}: https://api.example.org/v1: no API key: set the environment"
        )
    monkeypatch.setenv("DOCTOR_KEY", "sk-x")
    assert not any(planned.lacks for planned in looked_at(tmp_path, scenes={}, **fields).values())
    monkeypatch.setenv("SIF_STORE_FLEETING", "1")  # a pod of the pool `cpu`
    fleeting = looked_at(tmp_path, scenes={}, **fields)
    assert "annotate.api: the store of this run is deleted when it ends" in fleeting["annotate"].lacks[0]
    assert not looked_at(tmp_path, scenes={}, placement="pools", **fields)["grpo"].lacks
    monkeypatch.setenv("SIF_LEDGER", "postgresql://sif:secret@db/calls")
    assert not any(planned.lacks for planned in looked_at(tmp_path, scenes={}, **fields).values())
    monkeypatch.delenv("SIF_LEDGER")
    monkeypatch.delenv("SIF_STORE_FLEETING")
    monkeypatch.setenv("SIF_API_KEYS", "")
    found = looked_at(tmp_path, scenes={}, **fields)
    assert "may not be sent to api.example.org" in found["annotate"].lacks[0]
    monkeypatch.delenv("DOCTOR_KEY")
    pooled = looked_at(tmp_path, scenes={}, placement="pools", **fields)
    assert not pooled["grpo"].lacks and not pooled["evaluate"].lacks, "the machines of its pool may have it"


def test_a_vllm_that_is_not_here_is_found_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin = {"base_url": "standin"}
    fields: dict[str, Any] = {
        "annotate": {"api": {"base_url": "local", "model": str(tmp_path)}},
        "grpo": {"judge": standin, "generation": "vllm_lora"},
        "evaluate": {"judge": standin, "server": "vllm"},
    }
    monkeypatch.setenv("PATH", str(tmp_path))
    found = looked_at(tmp_path, scenes={}, **fields)
    for label, field in (
        ("annotate", "annotate.api"),
        ("grpo", "grpo.generation"),
        ("evaluate", "evaluate.server"),
    ):
        assert f"{field}: vLLM is not installed here" in "; ".join(found[label].lacks)
    (tmp_path / "vllm").write_text("#!/bin/sh\n")
    (tmp_path / "vllm").chmod(0o755)
    assert not any(planned.lacks for planned in looked_at(tmp_path, scenes={}, **fields).values())


def test_each_retry_pass_with_an_endpoint_of_its_own_must_name_it(tmp_path: Path) -> None:
    fields = {
        "annotate": {"api": {"base_url": "standin"}},
        "retry": {"passes": [{"seed": 1}, {"api": {"model": "m"}}]},
    }
    found = looked_at(tmp_path, "retry", scenes={}, **fields)
    assert [what.partition(":")[0] for what in found["retry"].lacks] == ["retry.passes[1].api.base_url"]


def test_a_plan_on_an_empty_machine_names_all_files_that_are_not_there(tmp_path: Path) -> None:
    found = looked_at(tmp_path, **REAL, **BENCHMARK)
    assert [what.partition(" does")[0] for what in found["ingest"].lacks] == [
        "mine.path: gone.json",
        "mine.images: gone",
    ]
    assert "report" in found  # and goes on
    with pytest.raises(UserError, match=r"ingest: mine.path: gone.json does not exist") as told:
        refuse(list(found.values()))
    assert "vstar" in str(told.value)


def test_a_start_that_is_refused_names_the_cause_alone_and_what_follows_in_one_line(tmp_path: Path) -> None:
    """Without the scenes nobody knows the files of the stages after them: their absence is no cause."""
    config: Config = parse({"store": str(tmp_path), "scenes": {}, **REAL}, "test")
    with pytest.raises(UserError) as told:
        planned(config, "publish", None, [], None)
    first, *causes, following, advice = str(told.value).splitlines()
    assert first.startswith("start_at: publish cannot start")
    assert [cause.strip() for cause in causes[:1]] == ["scenes: never made"]
    assert [cause.partition(":")[0].strip() for cause in causes[1:]] == [
        "ingest",
        "annotate",
    ]  # lack files and settings
    assert following == "  and what is made from that: expand, depth"
    assert "reuse_run" in advice


OWN = {"name": "mine", "format": "viscot", "path": "mine.json", "images": "mine"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (
            {"publish": {"rl_samples": 3}},
            "publish.rl_samples: 3 samples are fewer than the 4 that one step takes",
        ),
        ({"publish": {"rl_samples": 4}}, ""),
        # GRPO's own check counts samples, however many steps are wanted.
        ({"publish": {"rl_samples": 3}, "grpo": {"max_steps": 2}}, "publish.rl_samples: 3 samples"),
        ({"publish": {"rl_samples": 3}, "grpo": {"accumulation": 1, "ranks": 8}}, ""),
        ({"ingest": {"total": 2}}, "ingest.total: 2 samples are fewer than the 4"),
        ({"publish": {"rows": 2}}, "publish.rows: 2 samples are fewer than the 4"),
        ({"scenes": {"rows": 3}}, "scenes.rows: 3 samples are fewer than the 4"),
        ({"scenes": {"rows": 4}}, ""),
        ({"scenes": {"rows": 3}, "sources": [OWN]}, ""),
    ],
)
def test_a_subset_that_is_too_small_for_a_step_is_told_before_its_chains_are_paid(
    tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    """A step takes 4 of them: 8 ranks x batch 1 x accumulation 4 / 8 completions."""
    standin = {"base_url": "standin"}
    grpo = {"judge": standin, "accumulation": 4, **fields.get("grpo", {})}
    fields = {"scenes": {}, "annotate": {"api": standin}, **fields}
    found = looked_at(tmp_path, **{**fields, "grpo": grpo})
    assert [what[: len(named)] for what in found["grpo"].lacks] == ([named] if named else [])
    if "sources" not in fields:  # theirs is not there
        refuse(list(looked_at(tmp_path, "subset", **fields).values()))


def test_the_rows_of_rendered_scenes_count_where_they_are_the_only_source(tmp_path: Path) -> None:
    assert tuple(source.name for source in scenes.sources(tmp_path)) == preflight.SCENES


def test_a_file_of_rl_rows_is_as_long_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "rl.json"
    file.write_text("[]")
    sources = [{"name": "mine", "format": "published", "path": str(file), "images": str(tmp_path)}]
    publish = {"rl_samples": 1, "rl_file": str(file)}
    grpo = {"judge": {"base_url": "standin"}, "batch": 8}
    found = looked_at(tmp_path, sources=sources, publish=publish, grpo=grpo)
    assert not found["grpo"].lacks


def test_a_stage_to_make_again_that_a_run_has_not_is_refused_with_those_that_it_has(tmp_path: Path) -> None:
    config: Config = parse({"store": str(tmp_path / "store"), "scenes": {}}, "test")
    with pytest.raises(UserError, match=r"^refresh: retry is no stage of this run; stages: scenes, depth-"):
        planned(config, None, None, ["expand", "retry"], None)
    with pytest.raises(UserError) as told:
        planned(config, None, "expand", ["sft"], None)
    assert str(told.value) == "refresh: sft is no stage of this run; stages: scenes, ingest, expand"
    assert planned(config, None, "expand", ["expand"], None)


def test_the_command_ends_with_2_for_a_stage_to_make_again_that_it_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", "smoke", "--store", str(tmp_path), "--refresh", "retry"]
    for command in ("plan", "run"):
        monkeypatch.setattr("sys.argv", ["sif", command, *options])
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code == 2
        assert "refresh: retry is no stage of this run" in capsys.readouterr().err
