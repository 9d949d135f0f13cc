"""What can stand for the present code: artifacts of this and of the earlier form of keys, compared field by field."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from sifthinker.config import Config, identity
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from sifthinker.store.digests import sha256
from sifthinker.store.manifest import Ref
from sifthinker.system.files import write_json
from tasks.operations import accept as accepting
from tasks.runtime import identity as identities
from tasks.runtime.pipeline import Partial, Run, plan
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import Results

SAMPLED = {"max_tokens": 96, "server": "transformers"}


@stage(config=lambda c: {"expand": identity(c.expand)}, results=Results(("spill",), ("pyarrow",)))
def rows(job: Job) -> None:
    """Stands in for a data stage."""


@stage(
    config=lambda c: {"model": identity(c.model), "evaluate": identity(c.evaluate)},
    results=Results(("chain",), ("torch",)),
    lineage=True,
)
def scores(job: Job) -> None:
    """Stands in for an evaluation."""


def pipeline(run: Run) -> None:
    run(scores, "scores", rows=run(rows))


def config(store: Path, **sections: dict[str, Any]) -> Config:
    return Config.model_validate({"store": store, "scenes": {}, "evaluate": SAMPLED, **sections})


def old_form(of: dict[str, Any], *unknown: str) -> dict[str, Any]:
    """An identity as commit 95c4227 wrote it: modules by path, no libraries, the server no part of it."""
    section = {
        name: {field: value for field, value in fields.items() if f"{name}.{field}" not in unknown}
        for name, fields in of["config"].items()
    }
    return {
        "stage": of["stage"],
        "code": {f"sifthinker.{name}": "0" * 20 for name in of["code"]},
        "config": section,
        "inputs": of["inputs"],
        "files": of["files"],
    }


def made(store: Store, stage: Any, of: dict[str, Any], inputs: dict[str, Ref], lineage: bool = False) -> Ref:
    """Puts an artifact of an identity into the store, as a run of that time did."""
    key = sha256(of)[:20]
    manifest = {
        "label": stage.name,
        "name": "reproduction",
        "identity": of,
        "inputs": {name: ref.model_dump() for name, ref in inputs.items()},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
    }
    with store.making(stage.name, key, manifest) as draft:
        draft.lineage = lineage
        (draft.out / "rows.txt").write_text(stage.name)
    found = store.find(stage.name, key)
    assert found
    return found.ref


def fill(store: Store, config: Config, *unknown: str, old: bool = True) -> dict[str, Ref]:
    """A store with both artifacts of a configuration, made by the earlier code."""
    found: dict[str, Ref] = {}
    for each, inputs in ((rows, ()), (scores, ("rows",))):
        given = {name: found[name] for name in inputs}
        digests = {name: ref.digest for name, ref in given.items()}
        of = identities.identity(each.name, each.results.of(config), each.config(config), digests, {})
        found[each.name] = made(
            store, each, old_form(of, *unknown) if old else of, given, lineage=each is scores
        )
    return found


def record(store: Store, config: Config, made: dict[str, Ref], *unknown: str) -> None:
    """The record of the run that made them."""
    values = config.model_dump(mode="json")
    for field in unknown:
        section, name = field.split(".")
        del values[section][name]
    stages = {label: ref.model_dump() for label, ref in made.items()}
    write_json(
        store.root / "runs" / "1.json",
        {"id": "1", "started": time.time(), "config": values, "stages": stages},
    )


def outcomes(store: Store, config: Config) -> dict[str, str]:
    found = accepting.accept_all(pipeline, config, store, "keys by result modules", "me")
    return {outcome.label: f"{outcome.verdict}: {outcome.said}" for outcome in found}


def test_a_store_of_the_earlier_form_is_taken_over_upstream_first(tmp_path: Path) -> None:
    store, c = Store(tmp_path), config(tmp_path)
    old = fill(store, c, "evaluate.server")
    record(store, c, old)
    before = plan(pipeline, c, Partial(), store)
    assert before[0].reasons == ("keys had another form when it was made (see `sif accept`)",)
    said = outcomes(store, c)
    assert said["rows"].startswith(f"accepted: {old['rows'].key} stands for ")
    assert said["scores"].startswith(f"accepted: {old['scores'].key} stands for ")
    assert "config evaluate.server is new: transformers" in said["scores"]
    after = plan(pipeline, c, Partial(), store)
    assert [p.verdict for p in after] == ["cached", "cached"]
    assert outcomes(store, c) == dict.fromkeys(("rows", "scores"), "cached: in the store")
    looking = Run(
        c, Partial(), store, lambda decision, _: decision.artifact.ref if decision.artifact else None
    )
    pipeline(looking)
    assert looking.made == old, "contents keep their digests, so nothing downstream is new"


def test_what_another_server_made_is_not_accepted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    asked = config(tmp_path, evaluate={**SAMPLED, "server": "vllm"})
    record(store, asked, fill(store, asked, "evaluate.server"))
    said = outcomes(store, config(tmp_path))
    assert said["rows"].startswith("accepted") and said["scores"].startswith("refused")


def test_without_a_record_of_the_run_the_person_who_accepts_answers_for_the_server(tmp_path: Path) -> None:
    store, c = Store(tmp_path), config(tmp_path)
    fill(store, c, "evaluate.server")
    assert "config evaluate.server is new: transformers" in outcomes(store, c)["scores"]


@pytest.mark.parametrize(("value", "verdict"), [("", "accepted"), ("again", "refused")])
def test_a_field_that_the_earlier_code_did_not_have_must_be_at_its_default(
    tmp_path: Path, value: str, verdict: str
) -> None:
    store, c = Store(tmp_path), config(tmp_path, evaluate={**SAMPLED, "fresh": value})
    record(store, c, fill(store, c, "evaluate.fresh", old=True), "evaluate.fresh")
    assert outcomes(store, c)["scores"].startswith(verdict)


def test_what_differs_in_a_field_is_run_and_what_follows_waits(tmp_path: Path) -> None:
    store, c = Store(tmp_path), config(tmp_path)
    fill(store, c)
    said = outcomes(store, config(tmp_path, expand={"seed": 3}))
    assert said["rows"].startswith("refused: config expand.seed: 0 -> 3")
    assert said["scores"] == "waits: after rows"
    assert not list(tmp_path.glob("accepted/*/*"))
    with pytest.raises(UserError, match=r"accept: rows has no earlier artifact .*expand\.seed: 0 -> 3"):
        accepting.accept(pipeline, config(tmp_path, expand={"seed": 3}), store, "rows", "why", "me")


def test_a_new_library_is_accepted_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, c = Store(tmp_path), config(tmp_path)
    versions = {"torch": "2.13.0", "pyarrow": "21.0.0"}
    monkeypatch.setattr(identities, "installed", versions.__getitem__)
    fill(store, c, old=False)
    versions["torch"] = "2.14.0"
    assert plan(pipeline, c, Partial(), store)[1].reasons == ("torch 2.13 -> 2.14",)
    assert outcomes(store, c)["scores"].endswith("from now on (torch 2.13 -> 2.14)")


def test_a_damaged_artifact_is_not_accepted(tmp_path: Path) -> None:
    store, c = Store(tmp_path), config(tmp_path)
    old = fill(store, c)
    (tmp_path / "rows" / old["rows"].key / "rows.txt").write_text("else")
    assert outcomes(store, c)["rows"].startswith("refused")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("nonsense", "is no stage; stages: rows, scores"),
        ("scores", "waits for stages"),
        ("rows", "no earlier"),
    ],
)
def test_what_cannot_be_accepted_is_refused_with_the_reason(tmp_path: Path, label: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        accepting.accept(pipeline, config(tmp_path), Store(tmp_path), label, "why", "me")
