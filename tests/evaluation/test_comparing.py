"""`sif compare`: what its names mean, what is tested, what was made otherwise, and what the page shows."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from sifthinker.core.errors import UserError
from sifthinker.evaluation import comparing
from sifthinker.evaluation.comparing import differences, page, paired
from sifthinker.evaluation.nights import compare as night
from sifthinker.evaluation.nights.records import Night
from sifthinker.store import aliases, runs
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref, sealed
from sifthinker.system.files import write_json
from tasks.operations.compare import compared
from tests import nights

RIGHT = [1.0] * 60 + [0.0] * 40
WORSE = [0.0] * 30 + [1.0] * 30 + [0.0] * 40
BETTER = [1.0] * 80 + [0.0] * 20


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def made(store: Store, stage: str, key: str, identity: dict[str, Any], **inputs: Ref) -> Ref:
    given = {name: ref.model_dump() for name, ref in inputs.items()}
    fields = {"label": stage, "name": "test", "identity": identity, "inputs": given}
    with store.making(stage, key, fields) as draft:
        (draft.out / "content").write_text(f"{stage} {key}")
    found = store.find(stage, key)
    assert found
    return found.ref


def identity(**config: Any) -> dict[str, Any]:
    return {
        "config": config,
        "code": {"grpo": "a" * 64},
        "libraries": {"trl": "1.16"},
        "data": {},
        "files": {},
    }


def evaluation(
    store: Store, key: str, verdicts: nights.Verdicts, model: Ref | None = None, **more: Any
) -> Ref:
    evaluated = nights.evaluated(store, key, verdicts, **more)
    file = evaluated.folder / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["identity"] = identity(limit=None)
    manifest["inputs"] = {"model": model.model_dump()} if model else {}
    file.write_text(json.dumps(sealed(manifest)))
    return Ref(stage="evaluate", key=key, digest=manifest["digest"])


def run(store: Store, name: str, identifier: str, **stages: Ref) -> None:
    record = {"id": identifier, "name": name, "started": time.time(), "state": "finished", "config": {}}
    of = {label.replace("_", "-"): ref.model_dump() for label, ref in stages.items()}
    write_json(store.root / "runs" / f"{identifier}.json", {**record, "stages": of})


@pytest.fixture
def two(store: Store) -> Store:
    """A run and a rerun with another learning rate, both on the same data."""
    data = made(store, "publish", "aa", identity(rows=100))
    for name, rate, key, verdicts in (("demo", 1e-5, "a1", RIGHT), ("again", 3e-5, "b2", WORSE)):
        policy = made(store, "grpo", key, identity(learning_rate=rate, epochs=2), sif=data)
        model = made(store, "merge", key, identity(precision="fp32"), adapter=policy)
        of = evaluation(store, key, {"vstar": verdicts, "pope": RIGHT}, model)
        run(store, name, f"{name}-id-12345", merge_grpo=model, evaluate=of)
    return store


def test_two_runs_are_tested_in_pairs_and_what_differs_is_named_once(two: Store, tmp_path: Path) -> None:
    sides = [comparing.find(two, name) for name in ("demo", "again-id-1")]
    [pair] = comparing.compare(sides)
    worse, same = pair.comparisons
    assert (worse.benchmark, worse.lost, worse.won, paired.differs(worse)) == ("vstar", 30, 0, True)
    assert worse.p == pytest.approx(2 * 0.5**30) and worse.adjusted == pytest.approx(4 * 0.5**30)
    assert (same.benchmark, same.p, paired.differs(same)) == ("pope", 1.0, False)
    assert pair.differences == (
        differences.Difference("grpo", "configuration", "learning_rate", "1e-05", "3e-05"),
    )
    text = comparing.markdown(sides, [pair])
    assert "| vstar | 60.0 | 30.0 | -30.0 |" in text and "**differs**" in text
    assert "- grpo: configuration learning_rate: 1e-05 -> 3e-05" in text
    comparing.write(tmp_path / "page.html", sides, [pair])
    shown = (tmp_path / "page.html").read_text()
    assert '<span class="bad">worse</span>' in shown and "same verdicts" in shown
    assert "30 lost, 0 won; 24 of them are not shown" in shown
    assert "<code>learning_rate</code>" in shown and "<script" not in shown


def test_a_rise_is_found_as_well_as_a_fall(store: Store) -> None:
    evaluation(store, "a1", {"vstar": RIGHT})
    evaluation(store, "b2", {"vstar": BETTER})
    [pair] = comparing.compare([comparing.find(store, f"evaluate/{key}") for key in ("a1", "b2")])
    [better] = pair.comparisons
    assert better.difference == pytest.approx(0.2) and better.p == pytest.approx(2 * 0.5**20)
    assert paired.differs(better)
    assert pair.differences == ()
    assert "Nothing that decides a result differs." in comparing.markdown(
        [pair.reference, pair.other], [pair]
    )


def test_libraries_code_and_stages_of_one_side_alone_are_differences(store: Store) -> None:
    new = {**identity(learning_rate=1e-5), "libraries": {"trl": "1.17"}, "code": {"grpo": "b" * 64}}
    keys = {"a1": identity(learning_rate=1e-5), "b2": new}
    for key, of in keys.items():
        inputs = {} if key == "a1" else {"subset": made(store, "subset", "cc", identity())}
        model = made(store, "grpo", key, of, **inputs)
        evaluation(store, key, {"vstar": RIGHT}, model)
    one, other = (comparing.find(store, f"evaluate/{key}") for key in keys)
    assert differences.differences(one, other) == [
        differences.Difference("subset", "stage", "made", "no", "yes"),
        differences.Difference("grpo", "library", "trl", "1.16", "1.17"),
        differences.Difference("grpo", "code", "grpo", "a" * 8, "b" * 8),
    ]


def test_many_runs_are_rows_of_one_table_under_one_level(store: Store, tmp_path: Path) -> None:
    keys = ("a1", "b2", "c3")
    for key, verdicts in zip(keys, (RIGHT, WORSE, BETTER), strict=True):
        evaluation(store, key, {"vstar": verdicts})
    sides = [comparing.find(store, f"evaluate/{key}") for key in keys]
    pairs = comparing.compare(sides)
    assert [c.adjusted / c.p for pair in pairs for c in pair.comparisons] == [
        pytest.approx(2),
        pytest.approx(1, abs=1.01),
    ]
    rows = page.table(sides)["rows"]
    assert [row["cells"][0]["strict"] for row in rows] == [60.0, pytest.approx(30.0), 80.0]
    comparing.write(tmp_path / "page.html", sides, pairs)
    shown = (tmp_path / "page.html").read_text()
    assert shown.count("<tr><td><strong>evaluate/") == 6  # scores, and hours
    assert "Changed replies" not in shown


def test_scores_by_other_rules_are_shown_and_not_tested(store: Store, tmp_path: Path) -> None:
    evaluation(store, "a1", {"vstar": RIGHT}, rules=1)
    evaluation(store, "b2", {"vstar": WORSE}, rules=2)
    sides = [comparing.find(store, f"evaluate/{key}") for key in ("a1", "b2")]
    [pair] = comparing.compare(sides)
    assert (
        pair.comparisons == () and "version 1 of the scoring rules, evaluate/b2 by version 2" in pair.untested
    )
    assert "what differs may be the rules" in comparing.markdown(sides, [pair])
    comparing.write(tmp_path / "page.html", sides, [pair])
    shown = (tmp_path / "page.html").read_text()
    assert "Not tested." in shown and "<article" not in shown


def test_checkpoints_and_nights_are_found_by_their_names(two: Store) -> None:
    found = two.find("merge", "a1")
    assert found
    aliases.pin(two, "baseline", found.ref, "ada", "good")
    assert comparing.find(two, "baseline").evaluation == "evaluate/a1"
    assert comparing.find(two, "merge/b2").evaluation == "evaluate/b2"
    held = nights.evaluated(two, "dd", {"vstar": RIGHT})
    at = datetime(2026, 11, 1, 1, 30, tzinfo=UTC)
    night.hold(two, Night("night-one-1234", at, nights.config(two.root)), [held], {})
    for name in ("night-one", "2026-11-01", "2026-11-01/promoted"):
        side = comparing.find(two, name)
        assert (side.evaluation, side.what) == ("evaluate/dd", "night of 2026-11-01, promoted")
    others = [
        nights.evaluated(two, key, {"vstar": RIGHT}, target) for key, target in (("ee", "x"), ("ff", "y"))
    ]
    later = Night("night-two-1234", at.replace(day=2), nights.config(two.root))
    night.hold(two, later, others, {})
    with pytest.raises(UserError, match="night 2026-11-02 evaluated x, y: write 2026-11-02/x"):
        comparing.find(two, "2026-11-02")
    assert comparing.find(two, "2026-11-02/y").evaluation == "evaluate/ff"


def test_a_date_or_a_name_of_two_nights_is_refused_with_both(two: Store) -> None:
    at = datetime(2026, 11, 1, 1, 30, tzinfo=UTC)
    ids = [str(UUID(int=number + (1 << 127))) for number in (1, 2)]
    for number, identifier in enumerate(ids):
        held = nights.evaluated(two, f"c{number}", {"vstar": RIGHT})
        when = at.replace(hour=number + 1)
        night.hold(two, Night(identifier, when, nights.config(two.root)), [held], {})
        record = {"id": identifier, "name": "nightly 2026-11-01", "started": when.timestamp(), "stages": {}}
        two.record(runs.file(two, identifier), record)
    for name in ("2026-11-01", "2026-11-01/promoted", "nightly 2026-11-01", ids[0][:8]):
        with pytest.raises(UserError, match="means 2 runs, which differ; give the id of one") as said:
            comparing.find(two, name)
        listed = str(said.value).splitlines()[1:]
        assert sorted(line.split()[0] for line in listed) == ids
        assert all("2026-11-01 0" in line and "nightly 2026-11-01" in line for line in listed)
    assert [comparing.find(two, one).evaluation for one in ids] == ["evaluate/c0", "evaluate/c1"]


def test_a_sample_stands_for_a_model_only_where_there_is_no_whole_evaluation(two: Store) -> None:
    model = made(two, "merge", "c3", identity())
    evaluation(two, "e1", {"vstar": RIGHT}, model)
    quick = evaluation(two, "e2", {"vstar": RIGHT[:10]}, model)
    file = two.folder("evaluate", quick.key) / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["identity"]["config"] = {"evaluate": {"limit": 10}}
    file.write_text(json.dumps(sealed({**manifest, "made": time.time() + 60})))
    assert comparing.find(two, "merge/c3").evaluation == "evaluate/e1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "'nothing' is no evaluated run, no night, no checkpoint and no evaluate/<key>"),
        ("evaluate/99", "artifact evaluate/99: is not in the store"),
        ("merge/c3", r"merge/c3 \(merge/c3\) was never evaluated; `sif nightly --model merge/c3` does it"),
    ],
)
def test_a_name_that_means_nothing_evaluated_is_refused(two: Store, name: str, message: str) -> None:
    made(two, "merge", "c3", identity())
    with pytest.raises(UserError, match=message):
        comparing.find(two, name)


def test_one_name_is_no_comparison(two: Store) -> None:
    with pytest.raises(UserError, match="name two or more"):
        comparing.compare([comparing.find(two, "demo")])


def test_hours_calls_and_tokens_are_those_of_all_stages_behind(two: Store) -> None:
    side = comparing.find(two, "demo")
    took = differences.effort(side)
    assert [label for label, _, _ in took.stages] == ["publish", "grpo", "merge", "evaluate"]
    assert took.hours == pytest.approx(sum(seconds for _, seconds, _ in took.stages) / 3600)
    assert (took.replies, took.tokens) == (200, 200)


def test_the_page_of_a_comparison_is_shared_and_one_that_is_written_elsewhere_is_not(
    two: Store, bucket: str, tmp_path: Path
) -> None:
    shared = Store(two.root, bucket)
    page = compared(shared, ["demo", "again"]).page
    compared(shared, ["again", "demo"], tmp_path / "mine.html")
    there = Store(tmp_path / "there", bucket)
    there.pull(pages=True)
    [found] = (there.root / "comparisons").rglob("*.html")
    assert found.relative_to(there.root) == page.relative_to(two.root)
    assert found.read_text() == page.read_text()
