"""What a plan leaves out, and what it says is not there; nothing runs here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.commands.plan import planned
from sifthinker.config import Config, parse
from sifthinker.core.errors import UserError
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
