"""The store: whole artifacts or none, verified hits, remembered digests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Damaged


def put(store: Store, key: str, **files: str) -> str:
    with store.making("s", key, {"label": "s"}) as draft:
        for name, text in files.items():
            path = draft.out / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    found = store.find("s", key)
    assert found
    return found.ref.digest


def test_equal_content_has_an_equal_digest_whatever_it_was_made_from(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert put(store, "k1", a="1", sub__b="2") == put(store, "k2", a="1", sub__b="2")
    assert put(store, "k3", a="1", sub__b="3") != put(store, "k1", a="1", sub__b="2")
    assert put(store, "k4", a="1") != put(store, "k5", b="1"), "names count"


def test_with_lineage_equal_content_made_otherwise_is_not_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in ("k1", "k2"):
        with store.making("s", key, {}) as draft:
            (draft.out / "weights").write_text("w")
            draft.lineage = True
    first, second = store.find("s", "k1"), store.find("s", "k2")
    assert first and second and first.ref.digest != second.ref.digest


def test_a_failed_making_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.making("s", "k", {}) as draft:
        (draft.out / "half").write_text("half")
        raise RuntimeError
    assert store.find("s", "k") is None
    assert not list((tmp_path / "s").glob("k*"))


def test_an_artifact_that_cannot_be_renamed_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    old = put(store, "k", a="old")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if ".tmp-" in self.name and self.is_dir():
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no"):
        put(store, "k", a="new")
    found = store.find("s", "k")
    assert found and found.ref.digest == old
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["k"]


def test_what_a_killed_run_left_is_removed_by_the_next_making(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stale = tmp_path / "s" / "k.tmp-dead"
    stale.mkdir(parents=True)
    put(store, "k", a="1")
    assert not stale.exists()


def test_a_folder_without_a_readable_manifest_is_damaged_not_absent(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, "k", a="1")
    (tmp_path / "s" / "k" / "manifest.json").write_text("not json")
    with pytest.raises(Damaged, match=r"s/k: manifest.json"):
        store.find("s", "k")
    assert store.manifests("s") == []


def test_files_set_aside_are_verified_but_no_part_of_the_digest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digests = []
    for seconds in ("1", "2"):
        with store.making("s", "k", {}) as draft:
            (draft.out / "weights").write_text("w")
            (draft.out / "history").write_text(seconds)
            draft.aside.add("history")
        found = store.find("s", "k")
        assert found
        digests.append(found.ref.digest)
    assert digests[0] == digests[1]
    (tmp_path / "s" / "k" / "history").unlink()
    with pytest.raises(Damaged, match="history is missing"):
        store.find("s", "k")


def test_external_weights_are_not_copied_but_verified(tmp_path: Path) -> None:
    store, weights = Store(tmp_path / "store"), tmp_path / "weights"
    weights.mkdir()
    (weights / "model").write_text("1")
    with store.making("s", "k", {}) as draft:
        draft.external = weights
    found = store.find("s", "k")
    assert found and found.path == weights
    assert found.weights == store.digests.tree(weights)
    (weights / "model").write_text("2")
    with pytest.raises(Damaged, match="gone or was changed"):
        store.find("s", "k")


def test_an_unchanged_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    file = tmp_path / "large.json"
    file.write_text("[]")
    digest = store.digests.file(file)

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("hashlib.file_digest", refuse)
    assert Store(tmp_path / "store").digests.file(file) == digest
    file.write_text("[1]")
    with pytest.raises(AssertionError):
        store.digests.file(file)


def test_whoever_watches_is_told_how_much_of_the_new_files_is_read(tmp_path: Path) -> None:
    folder, told = tmp_path / "pictures", []
    folder.mkdir()
    for number in range(3):
        (folder / str(number)).write_bytes(bytes([number]) * 10)
    store = Store(tmp_path / "store")
    store.digests.watch = lambda done, total: told.append((done, total))
    store.digests.tree(folder)
    assert told == [(0, 30), (10, 30), (20, 30), (30, 30)]
    told.clear()
    store.digests.tree(folder)
    assert not told, "remembered"


def test_the_digest_of_a_folder_covers_names_and_contents_but_no_hidden_files(tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "store"), tmp_path / "images"
    folder.mkdir()
    (folder / "a").write_text("1")
    before = store.digests.tree(folder)
    (folder / ".hidden").write_text("x")
    assert store.digests.tree(folder) == before
    (folder / "a").rename(folder / "b")
    assert store.digests.tree(folder) != before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_cannot_be_created_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot be created"):
        Store(tmp_path / "locked" / "store")


def test_a_store_in_the_place_of_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be created"):
        Store(tmp_path / "file" / "store")
