"""Pruning a store that other machines share: the bucket too, by the same rules."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sifthinker.store import aliases, remote_lock, runs, s3
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from sifthinker.upkeep import prune, prune_remote
from sifthinker.upkeep.prune import Rules

KEY = "0123456789abcdef0123"
B7, B8, B9 = (f"{KEY[:-1]}{number}" for number in (7, 8, 9))
LATER = Rules(days=-1, runs=0)  # all that there is was written before this limit


def put(store: Store, stage: str, key: str, *inputs: Ref) -> Ref:
    given = {str(number): ref.model_dump() for number, ref in enumerate(inputs)}
    with store.making(stage, key, {"inputs": given}) as draft:
        (draft.out / "data").write_text(key)
    found = store.find(stage, key)
    assert found
    return found.ref


def there(url: str) -> set[str]:
    return {
        f"{stage}/{key}"
        for (stage, key), upload in prune_remote.uploads(Store.existing(_folder(url))).items()
        if upload.manifest
    }


def _folder(url: str) -> Path:
    return FOLDERS[url]


FOLDERS: dict[str, Path] = {}


@pytest.fixture
def store(bucket: str, tmp_path: Path) -> Store:
    """A machine whose folder is new; another one has made a -> b -> c1 | c2 and pinned c1."""
    other = Store(tmp_path / "other", bucket)
    a = put(other, "a", "a0")
    b = put(other, "b", "b0", a)
    c1, _ = put(other, "c", "c1", b), put(other, "c", "c2", b)
    aliases.pin(other, "baseline", c1, "me", "a reason")
    other.record(runs.file(other, "old"), {"id": "old", "started": 1.0, "stages": {"c": c1.model_dump()}})
    here = Store(tmp_path / "here", bucket)
    here.pull()
    FOLDERS[bucket] = here.root
    return here


def names(found: prune.Survey, kind: str) -> set[str]:
    return {thing.path.as_posix() for thing in found.doomed if thing.kind == kind}


def test_what_no_machine_needs_goes_from_the_bucket_and_what_an_alias_pins_stays(
    store: Store, bucket: str
) -> None:
    found = prune.survey(store, LATER)
    assert names(found, "uploaded") == {"c/c2"}
    assert there(bucket) == {"a/a0", "b/b0", "c/c1", "c/c2"}, "a survey changes nothing"
    prune.remove(store, LATER, found)
    assert there(bucket) == {"a/a0", "b/b0", "c/c1"}
    assert store.find("c", "c2") is None
    assert store.find("c", "c1")


def test_the_record_of_an_old_run_goes_on_the_bucket_too_so_that_no_pull_brings_it_back(store: Store) -> None:
    prune.remove(store, LATER, prune.survey(store, LATER))
    store.pull()
    assert not list((store.root / "runs").glob("*.json"))


def test_what_was_written_within_the_days_stays(store: Store) -> None:
    assert not prune.survey(store, Rules(days=14, runs=0)).doomed


def test_half_an_upload_and_a_dead_lock_go_and_a_living_lock_stays(
    store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = s3.Remote(bucket)
    remote.write(f"b/{B9}/part", b"half")
    remote.write(f"b/{B8}.lock", b"{}")
    alive = Store(store.root.with_name("third"), bucket).lock("b", B7)
    with alive:
        monkeypatch.setattr(prune, "_recent", lambda *_: False)
        found = prune.survey(store, LATER)
        assert names(found, "upload") == {f"b/{B9}"}
        assert names(found, "lock") == {f"b/{B8}.lock", f"b/{B7}.lock"}
        stayed = prune.remove(store, LATER, found)
        assert names(stayed, "lock") == set(), "neither holder is known to be dead yet"
        assert f"{B9}/part" not in remote.list("b")
        time.sleep(0)
    remote.write(f"b/{B8}.lock", b"{}")
    monkeypatch.setattr(remote_lock, "EXPIRY", -60.0)
    prune.remove(store, LATER, prune.survey(store, LATER))
    assert not [name for name in remote.list("b") if name.endswith(".lock")]


def test_what_a_killed_upload_left_in_a_whole_artifact_goes_and_the_artifact_stays(
    store: Store, bucket: str
) -> None:
    remote = s3.Remote(bucket)
    remote.write("c/c1/upload-0123/data", b"of an upload that was killed")
    whole = {"manifest.json", "data"}
    found = prune.survey(store, Rules(days=14, runs=0))
    assert not names(found, "upload"), "it may still be under way"
    found = prune.survey(store, LATER)
    [left] = [thing for thing in found.doomed if thing.kind == "upload"]
    assert (left.path.as_posix(), left.bytes) == ("c/c1", 28)
    prune.remove(store, LATER, found)
    assert set(remote.list("c/c1")) == whole
    assert Store(store.root.with_name("fourth"), bucket).find("c", "c1")


def test_what_another_machine_makes_now_stays(store: Store, bucket: str) -> None:
    found = prune.survey(store, LATER)
    with Store(store.root.with_name("third"), bucket).lock("c", "c2"):
        prune.remove(store, LATER, found)
        assert "c/c2" in there(bucket)


def test_what_people_keep_beside_and_among_the_artifacts_stays_on_the_bucket(
    store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = s3.Remote(bucket)
    remote.write("backup/2026/file", b"precious")
    remote.write("sft/2026/report.pdf", b"precious")
    remote.write("sft/model.lock", b"precious")
    remote.write(f"sft/{KEY}/part", b"half")
    remote.write(f"sft/{KEY}.lock", b"{}")
    rules = Rules(days=-1, runs=0, stages={"sft"})
    found = prune.survey(store, rules)
    assert names(found, "upload") == {f"sft/{KEY}"} and names(found, "lock") == {f"sft/{KEY}.lock"}
    monkeypatch.setattr(remote_lock, "EXPIRY", -60.0)
    prune.remove(store, rules, found)
    assert remote.read("backup/2026/file") == b"precious"
    assert set(remote.list("sft")) == {"2026/report.pdf", "model.lock"}
