"""A stage that keeps nothing or too little is not made; its rejects are left to be looked at."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.core.tables import REJECTS, read, write
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Draft
from tasks.runtime import refusal
from tasks.runtime.decide import decide
from tasks.runtime.make import make_artifact
from tasks.runtime.stage import Job, Stage, stage
from tasks.runtime.stage_results import Results
from tasks.stages.annotate import annotate
from tasks.stages.ingest import ingest

SCHEMA = pa.schema([("id", pa.string())])


def some(kept: int, **rejected: int) -> Stage:
    """A stage that keeps and rejects so many rows, the reasons in the order given."""

    def run(job: Job) -> None:
        rows: list[Any] = [{"id": str(number)} for number in range(kept)]
        for reason, count in rejected.items():
            rows += [
                Reject("made", reason, f"bad row {n}", f"s/d/{n}", "s", "a.json", n) for n in range(count)
            ]
        job.keep("rows", SCHEMA, rows)

    run.__name__ = "made"
    return stage(config=lambda c: {}, results=Results(("expand",)), by_choice=("left",))(run)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[Store, Any]]:
    def make(of: Stage, **settings: Any) -> tuple[Store, Any]:
        store = Store(tmp_path / "store")
        config = Config.model_validate({"scenes": {}, **settings})
        decision = decide(store, of, of.name, config, {}, False)
        if not decision.cached:
            make_artifact(decision.order, store, logging.getLogger("test"))
        return store, decision

    return make


@pytest.mark.parametrize(
    ("kept", "rejected", "settings", "wrong"),
    [
        (0, {"bad": 3}, {}, "no row was kept of 3: bad 3"),
        (0, {"bad": 3}, {"max_rejected": 1.0}, "no row was kept of 3: bad 3"),
        (0, {"left": 3}, {}, "no row was kept of 3: left 3"),
        (
            2,
            {"worse": 1, "bad": 2},
            {},
            "3 of 5 rows were rejected, and max_rejected = 0.5 allows 50%: bad 2, worse 1",
        ),
        (2, {"bad": 1}, {"max_rejected": 0.3}, "1 of 3 rows were rejected"),
    ],
)
def test_such_a_stage_fails_and_is_not_sealed(make, tmp_path, kept, rejected, settings, wrong):
    with pytest.raises(UserError) as told:
        make(some(kept, **rejected), **settings)
    said = str(told.value)
    assert said.startswith(wrong), said
    assert "For example s/d/0 in file a.json, row 0: " in said and "bad row 0" in said
    (left,) = (tmp_path / "store").glob("made/*.work/rejects.parquet")
    assert f"All rejects: {left}" in said
    assert len(list(read(left))) == sum(rejected.values())
    assert not list((tmp_path / "store").glob("made/*/manifest.json"))


@pytest.mark.parametrize(
    ("kept", "rejected", "settings"),
    [
        (2, {"bad": 2}, {}),
        (2, {"left": 900}, {}),
        (1, {"bad": 90}, {"max_rejected": 1.0}),
        (0, {}, {}),  # no rows came in: weights, scenes
    ],
)
def test_other_stages_are_sealed(make, tmp_path, kept, rejected, settings):
    make(some(kept, **rejected), **settings)
    assert len(list((tmp_path / "store").glob("made/*/manifest.json"))) == 1


def test_an_artifact_of_a_laxer_run_is_no_hit(make):
    of = some(2, bad=3)
    make(of, max_rejected=1.0)
    assert make(of, max_rejected=0.6)[1].cached
    with pytest.raises(UserError, match="3 of 5 rows were rejected"):
        make(of)


def test_annotate_is_judged_by_what_retry_leaves() -> None:
    plain = Config.model_validate({"scenes": {}})
    again = Config.model_validate({"scenes": {}, "retry": {"passes": [{"model": "other"}]}})
    assert (annotate.most(plain), annotate.most(again)) == (0.5, 1.0)


def test_shards_of_a_refused_stage_are_made_again_if_they_have_rejects(tmp_path: Path) -> None:
    store, of = Store(tmp_path / "store"), some(0)
    order = decide(store, of, "made", Config.model_validate({"scenes": {}}), {}, False).order
    shards = []
    for number, rejected in enumerate(({"exhausted": 3}, {})):
        key = str(number) * 20
        with store.making("made.parts", key, {}) as draft:
            draft.rows = {"in": 4, "kept": 4 - sum(rejected.values()), "rejected": rejected}
            rows = [
                Reject("made", "exhausted", "gone", f"s/d/{n}", "s") for n in range(sum(rejected.values()))
            ]
            write(draft.out / "rejects.parquet", REJECTS, rows)
        found = store.find("made.parts", key)
        assert found
        shards.append(found.ref)
    out = tmp_path / "out"
    out.mkdir()
    draft = Draft(out, {}, {"in": 8, "kept": 3, "rejected": {"exhausted": 5}}, shards=shards)
    job = Job(order, store, {}, draft, {}, logging.getLogger("test"), None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="5 of 8 rows were rejected"):
        refusal.check(job)
    (left,) = (tmp_path / "store").glob("made/*.work/rejects.parquet")
    assert [row["id"] for row in read(left)] == ["s/d/0", "s/d/1", "s/d/2"]
    assert store.find("made.parts", "0" * 20) is None  # asked again by the next run
    assert store.find("made.parts", "1" * 20) is not None


def test_a_shard_that_kept_nothing_is_sealed_but_never_a_hit(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    order = decide(store, some(0), "made", Config.model_validate({"scenes": {}}), {}, False).order
    part = replace(order, part=0)
    assert refusal.too_many(part, {"in": 3, "kept": 0, "rejected": {"bad": 3}})
    assert not refusal.too_many(part, {"in": 3, "kept": 1, "rejected": {"bad": 2}})
    assert not refusal.too_many(part, {"in": 0, "kept": 0, "rejected": {}})  # no image is in this part


# --- ingest: every source ----------------------------------------------------------------------------------

ROW = {"question": "How many cups?", "answer": "1", "image": "a.jpg", "width": 100, "height": 80}
BOXES = {"bboxs": [[10, 10, 50, 50]]}


def ingested(
    make: Callable[..., Any], tmp_path: Path, files: dict[str, list[dict[str, Any]]], **ingest_: Any
) -> Any:
    import json

    sources = []
    for name, rows in files.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps([{**row, "question_id": n} for n, row in enumerate(rows)]))
        sources.append({"name": name, "format": "tallyqa", "path": path})
    return make(ingest, scenes=None, sources=sources, ingest={"shards": 2, **ingest_})


def test_a_source_that_keeps_nothing_is_an_error_though_others_keep_rows(make, tmp_path):
    with pytest.raises(UserError) as told:
        ingested(make, tmp_path, {"good": [ROW | BOXES] * 20, "tally": [ROW] * 3})
    said = str(told.value)
    assert said.startswith("no row was kept of the source tally: no-box 3")
    assert "tally.json, row 0" in said and "GRIT" in said  # which file is wanted
    assert "rejects.parquet" in said


def test_an_empty_source_is_an_error(make, tmp_path):
    with pytest.raises(UserError, match="no row was kept of the source none: there are no rows in it"):
        ingested(make, tmp_path, {"good": [ROW | BOXES], "none": []})


def test_a_source_that_the_caps_leave_out_is_none(make, tmp_path):
    store, decision = ingested(
        make, tmp_path, {"large": [ROW | BOXES] * 50, "small": [ROW | BOXES, ROW]}, total=1
    )
    rows = store.find("ingest", decision.order.key).manifest["rows"]
    assert rows == {"in": 52, "kept": 1, "rejected": {"no-box": 1, "not-sampled": 50}}


def test_rows_left_out_by_exclude_and_caps_do_not_count(make, tmp_path):
    excluded = [ROW | BOXES | {"dataset": "docvqa"}] * 30
    store, decision = ingested(make, tmp_path, {"all": [*[ROW | BOXES] * 40, *excluded]}, cap=5)
    rows = store.find("ingest", decision.order.key).manifest["rows"]
    assert rows["rejected"] == {"excluded": 30, "not-sampled": 35}
