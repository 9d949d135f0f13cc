"""What `sif prune` removes and what it leaves: reach, pins, age, locks, kills."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sifthinker.core.errors import UserError
from sifthinker.evaluation import history
from sifthinker.store import aliases
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from sifthinker.system.files import write_json
from sifthinker.upkeep import prune
from sifthinker.upkeep.prune import Rules

OLD = time.time() - 100 * prune.DAY
KEY = "0123456789abcdef0123"
NOTHING_RECENT = Rules(days=14, runs=0)


def put(
    store: Store, stage: str, key: str, inputs: tuple[Ref, ...] = (), shards: tuple[Ref, ...] = ()
) -> Ref:
    given = {str(n): ref.model_dump() for n, ref in enumerate(inputs)}
    with store.making(stage, key, {"label": stage, "inputs": given}) as draft:
        (draft.out / "data").write_text(key * 100)
        draft.shards = list(shards)
    return Ref(
        stage=stage, key=key, digest=json.loads((draft_manifest(store, stage, key)).read_text())["digest"]
    )


def draft_manifest(store: Store, stage: str, key: str) -> Path:
    return store.folder(stage, key) / "manifest.json"


def record(store: Store, name: str, *made: Ref, days: float = 100, state: str = "finished") -> Path:
    path = store.root / "runs" / f"{name}.json"
    stages = {ref.stage: ref.model_dump() for ref in made}
    started = time.time() - days * prune.DAY
    write_json(path, {"id": name, "name": name, "started": started, "state": state, "stages": stages})
    return path


def age(root: Path) -> None:
    """Makes everything in the store look as if nobody had touched it for 100 days."""
    for path in (root, *root.rglob("*")):
        os.utime(path, (OLD, OLD))


def left(store: Store) -> set[str]:
    return {path.parent.relative_to(store.root).as_posix() for path in store.root.glob("*/*/manifest.json")}


def pruned(store: Store, rules: Rules = NOTHING_RECENT) -> set[str]:
    """Prunes, and returns the artifacts that are left."""
    prune.remove(store, rules, prune.survey(store, rules))
    return left(store)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two runs over one data set: a -> b.parts -> b -> c1 | c2, all old."""
    store = Store(tmp_path)
    a = put(store, "a", "a0")
    parts = tuple(put(store, "b.parts", f"p{n}", (a,)) for n in range(2))
    b = put(store, "b", "b0", (a,), parts)
    for n in (1, 2):
        record(store, f"run{n}", a, b, put(store, "c", f"c{n}", (b,)), days=100 - n)
    age(tmp_path)
    return store


SHARED = {"a/a0", "b.parts/p0", "b.parts/p1", "b/b0"}


def test_a_survey_changes_nothing(store: Store) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    found = prune.survey(store, NOTHING_RECENT)
    assert len(found.doomed) == 8 and found.kept == 0  # six artifacts, two run records
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before


def test_nothing_stays_where_nothing_is_pinned_and_no_run_is_recent(store: Store) -> None:
    assert pruned(store) == set()
    assert not list((store.root / "runs").iterdir())
    assert not [path for path in store.root.rglob("*") if "discarded" in path.name]


def test_what_the_latest_run_reaches_stays_with_inputs_and_shards(store: Store) -> None:
    assert pruned(store, Rules(days=14, runs=1)) == SHARED | {"c/c2"}
    assert [path.stem for path in (store.root / "runs").iterdir()] == ["run2"]


def test_what_a_run_within_the_days_reaches_stays(store: Store) -> None:
    assert pruned(store, Rules(days=98.5, runs=0)) == SHARED | {"c/c2"}


def test_a_pinned_artifact_and_what_it_was_made_from_stay(store: Store) -> None:
    ref = json.loads((store.root / "runs" / "run1.json").read_text())["stages"]["c"]
    aliases.pin(store, "baseline", Ref(**ref), "me", "a reason")
    age(store.root)
    assert pruned(store) == SHARED | {"c/c1"}


def test_an_alias_that_cannot_be_read_stops_the_pruning(store: Store) -> None:
    (store.root / "aliases").mkdir()
    (store.root / "aliases" / "baseline.json").write_text("{")
    with pytest.raises(UserError, match=r"baseline\.json cannot be read"):
        pruned(store)
    assert len(left(store)) == 6


def test_what_was_looked_up_just_now_stays(store: Store) -> None:
    assert store.find("c", "c1")
    assert pruned(store) == SHARED | {"c/c1"}


def test_a_run_under_way_keeps_what_it_took_until_it_is_known_to_have_ended(store: Store) -> None:
    path = store.root / "runs" / "run1.json"
    write_json(path, {**json.loads(path.read_text()), "state": "running"})
    age(store.root)
    assert pruned(store) == SHARED | {"c/c1"}
    assert pruned(store, Rules(days=14, runs=0, over={"run1"})) == set()


def test_an_artifact_that_stands_for_a_key_that_a_run_took_stays(store: Store) -> None:
    store.accept("c", "new", "c1", "moved a function", "me")
    store.accept("c", "newer", "c2", "moved another", "me")
    record(store, "run3", Ref(stage="c", key="new", digest="d"), days=1)
    age(store.root)
    assert pruned(store) == SHARED | {"c/c1"}
    assert [path.name for path in (store.root / "accepted" / "c").iterdir()] == ["new"]


def test_the_evaluation_that_the_next_night_is_compared_with_stays(store: Store) -> None:
    for night, key, outcome in ((1, "c1", history.PASSED), (2, "c2", history.REGRESSED)):
        row = {
            **dict.fromkeys(history.NIGHTS.names),
            **{
                "night": f"night{night}",
                "started": datetime(2026, 1, night, tzinfo=UTC),
                "target": "promoted",
            },
            **{"evaluation": f"c/{key}", "outcome": outcome},
        }
        history.append(store.root / "history", f"night{night}", [row])
    age(store.root)
    assert pruned(store) == SHARED | {"c/c1"}


def test_what_is_being_made_stays(store: Store) -> None:
    lock = store.lock("c", "c1")
    store.work("c", "c1")
    age(store.root)
    with lock:
        found = prune.survey(store, NOTHING_RECENT)
        removed = prune.remove(store, NOTHING_RECENT, found)
        assert {thing.path for thing in found.doomed} - {t.path for t in removed.doomed} == {
            Path("c/c1.work"),
            Path("c/c1"),
        }
    assert left(store) == {"c/c1"}


def test_what_a_run_began_to_use_between_survey_and_removal_stays(store: Store) -> None:
    found = prune.survey(store, NOTHING_RECENT)
    assert store.find("b", "b0")
    prune.remove(store, NOTHING_RECENT, found)
    assert left(store) == {"b/b0", "b.parts/p0", "b.parts/p1"}


def test_leftovers_of_kills_go_when_they_are_old(store: Store) -> None:
    leftovers = [f"c/{KEY}.work", f"c/{KEY}.tmp-dead", f"c/{KEY}.discarded-dead"]
    for name in leftovers:
        (store.root / name / "deep").mkdir(parents=True)
    (store.root / "runs" / "run9.json.tmp-dead").write_text("{")
    keep = Rules(days=14, runs=2)
    assert prune.survey(store, keep).doomed == ()
    age(store.root)
    found = prune.survey(store, keep)
    assert {t.path.as_posix() for t in found.doomed} == {
        *leftovers,
        "runs/run9.json.tmp-dead",
    }
    prune.remove(store, keep, found)
    assert not prune.survey(store, keep).doomed


def test_a_work_folder_that_a_training_still_writes_to_stays(store: Store) -> None:
    (store.work("c", "c1") / "checkpoint-3").mkdir()
    age(store.root)
    (store.work("c", "c1") / "checkpoint-3" / "weights").write_text("w")
    assert prune.survey(store, Rules(days=14, runs=2)).doomed == ()


def test_result_records_go_with_their_artifacts_and_the_ledger_stays(store: Store) -> None:
    results = store.root / "prefect" / "results"
    results.mkdir(parents=True)
    for name in ("c-c1", "c-c2", "b.parts-p0"):
        (results / name).write_text("{}")
    (store.root / "calls.sqlite").write_text("paid")
    age(store.root)
    pruned(store, Rules(days=14, runs=1))
    assert {path.name for path in results.iterdir()} == {"c-c2", "b.parts-p0"}
    assert (store.root / "calls.sqlite").read_text() == "paid"


def test_a_pruning_killed_in_a_removal_leaves_no_half_artifact(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def half(path: Path) -> None:
        (path / "data").unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", half)
        with pytest.raises(Killed):
            pruned(store)
    assert store.find("a", "a0") is None, "the first one had lost its name before a byte of it was deleted"
    age(store.root)
    assert pruned(store) == set()
    assert not list((store.root / "a").glob("*discarded*"))


def test_a_folder_that_is_no_stages_stays_with_its_links(store: Store) -> None:
    """As W&B's, whose runs wait for `wandb sync`, and a copy that somebody made of an artifact."""
    run = store.root / "wandb" / "offline-run-20260101_010000-abc"
    run.mkdir(parents=True)
    (run / "run-abc.wandb").write_text("scores")
    (store.root / "wandb" / "latest-run").symlink_to(run.name)
    shutil.copytree(store.folder("c", "c1"), store.root / "copies" / "c1")
    (store.root / "mine" / "notes.old").mkdir(parents=True)
    write_json(store.root / "mine" / "notes.old" / "manifest.json", ["not ours"])
    age(store.root)
    assert pruned(store) == {"copies/c1", "mine/notes.old"}
    assert (store.root / "wandb" / "latest-run" / "run-abc.wandb").read_text() == "scores"


def test_a_stage_without_a_whole_artifact_is_known_by_its_name(store: Store) -> None:
    for name in (f"sft/{KEY}.work", f"expand.parts/{KEY}.tmp-dead", f"other/{KEY}.work"):
        (store.root / name).mkdir(parents=True)
    age(store.root)
    rules = Rules(days=14, runs=2, stages={"sft", "expand"})
    assert [thing.path.as_posix() for thing in prune.survey(store, rules).doomed] == [
        f"expand.parts/{KEY}.tmp-dead",
        f"sft/{KEY}.work",
    ]


def test_what_people_keep_in_a_folder_that_is_called_like_a_stage_stays(store: Store) -> None:
    """As a bucket for several projects has: `depth/` with somebody's maps, `report/` with their PDFs."""
    theirs = [
        "c/maps/room.npy",
        "c/maps.v2/room.npy",
        "sft/2026/adapter.bin",
        "sft/c1.work/log",
        "c/deadbeef/x",
    ]
    for name in theirs:
        (store.root / name).parent.mkdir(parents=True)
        (store.root / name).write_text("precious")
    write_json(store.root / "sft" / "2026" / "manifest.json", {"stage": "sft", "key": "another"})
    age(store.root)
    rules = Rules(days=14, runs=0, stages={"sft", "c"})
    assert pruned(store, rules) == {"sft/2026"}
    assert all((store.root / name).read_text() == "precious" for name in theirs)


def test_links_stay_with_what_is_behind_them_and_what_that_is_made_from(
    store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An artifact that was moved to another disk, and a stage's folder that another store shares."""
    disk = tmp_path_factory.mktemp("disk")
    store.folder("c", "c1").rename(disk / "c1")
    store.folder("c", "c1").symlink_to(disk / "c1")
    put(Store(disk), "d", "d0")
    age(disk)
    (store.root / "d").symlink_to(disk / "d")
    (store.root / "c" / "c9.work").symlink_to(store.root / "nowhere")
    assert pruned(store) == SHARED | {"c/c1", "d/d0"}
    assert store.find("c", "c1") and Store(disk).find("d", "d0")
    assert (store.root / "c" / "c9.work").is_symlink()


def test_what_cannot_be_removed_is_told_and_the_rest_goes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shutil.rmtree

    def rmtree(path: Path) -> None:
        if path.name.startswith("b0"):
            raise PermissionError(13, "Permission denied", str(path / "data"))
        whole(path)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    found = prune.survey(store, NOTHING_RECENT)
    removed = prune.remove(store, NOTHING_RECENT, found)
    assert {t.path for t in found.doomed} - {t.path for t in removed.doomed} == {Path("b/b0")}
    [line] = removed.stuck
    assert line.startswith("b/b0: ") and "Permission denied" in line
    with pytest.raises(UserError, match=r"1 could not be removed, the rest was: b/b0: .*Permission denied"):
        prune.check(removed)
    assert [path.name.partition("-")[0] for path in (store.root / "b").glob("b0*")] == ["b0.discarded"]
    assert not list((store.root / "runs").iterdir())


def test_the_summary_says_what_and_how_much(store: Store) -> None:
    found = prune.survey(store, Rules(days=14, runs=1))
    assert prune.summary(found, removed=False).startswith("would remove 1 artifact, 1 run record: ")
    assert "5 artifacts of" in prune.summary(found, removed=True)
    assert prune.summary(prune.Survey((), 0, 0), removed=True).startswith("nothing to remove")
    assert [prune.size(n) for n in (999, 1500, 2_500_000, 3 * 10**15)] == [
        "999 bytes",
        "1.5 kB",
        "2.5 MB",
        "3000.0 TB",
    ]
