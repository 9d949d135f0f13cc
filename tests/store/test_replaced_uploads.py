"""An artifact that is made again: the remote has the earlier one until it has the new one, whatever happens meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sifthinker.core.errors import UserError
from sifthinker.store import s3
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref


def put(store: Store, text: str) -> Ref:
    """An artifact of two files, each of which has the text."""
    with store.making("s", "k", {}) as draft:
        for name in "ab":
            (draft.out / name).write_text(f"{name} {text}")
    found = store.find("s", "k")
    assert found
    return found.ref


@pytest.fixture
def here(bucket: str, tmp_path: Path) -> Store:
    return Store(tmp_path / "here", bucket)


@pytest.fixture
def there(bucket: str, tmp_path: Path) -> Store:
    return Store(tmp_path / "there", bucket)


def texts(bucket: str, root: Path) -> set[str]:
    """What a machine without a copy reads."""
    found = Store(root, bucket).find("s", "k")
    assert found, "it is not absent at any moment"
    return {(found.folder / name).read_text() for name in "ab"}


def test_the_earlier_one_is_found_and_read_while_the_new_one_is_uploaded(
    here: Store, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(here, "old")
    upload = s3.Remote.upload
    seen = []

    def looked(self: s3.Remote, file: Path, name: str) -> str:
        seen.append(texts(bucket, tmp_path / f"reader-{len(seen)}"))
        return upload(self, file, name)

    monkeypatch.setattr(s3, "AT_ONCE", 1)
    monkeypatch.setattr(s3.Remote, "upload", looked)
    put(here, "new")
    assert seen == [{"a old", "b old"}] * 2
    assert texts(bucket, tmp_path / "reader") == {"a new", "b new"}
    assert len(s3.Remote(bucket).list("s/k")) == 3, "what was replaced is gone"


@pytest.mark.parametrize(
    ("killed", "read", "left"),
    [
        ("upload", "old", 3),  # before the first object
        ("write", "old", 5),  # with all objects, before the manifest
        ("_clear", "new", 5),  # before the earlier objects go
    ],
)
def test_a_killed_replacement_leaves_one_of_the_two_whole_and_the_next_run_goes_on(
    here: Store, bucket: str, tmp_path: Path, killed: str, read: str, left: int
) -> None:
    put(here, "old")
    code = f"""
import os
from pathlib import Path
from sifthinker.store import s3
from sifthinker.store.artifacts import Store
s3.Remote.{killed} = lambda *_, **__: os._exit(9)
with Store(Path({str(here.root)!r}), {bucket!r}).making("s", "k", {{}}) as draft:
    for name in "ab":
        (draft.out / name).write_text(f"{{name}} new")
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert texts(bucket, tmp_path / "reader") == {f"a {read}", f"b {read}"}
    assert len(s3.Remote(bucket).list("s/k")) == left
    assert here.push_pending() == (["s/k"] if read == "old" else [])
    assert texts(bucket, tmp_path / "later") == {"a new", "b new"}
    assert not list((here.root / "s").glob("*.pending"))


def test_the_same_content_is_not_uploaded_again(here: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = put(here, "same")
    assert here.remote
    before = here.remote.list("s/k")
    monkeypatch.setattr(s3.Remote, "upload", lambda *_: (_ for _ in ()).throw(AssertionError("sent again")))
    assert put(here, "same") == ref and here.remote.list("s/k") == before


def test_the_same_content_is_uploaded_where_the_remotes_copy_is_damaged(here: Store, there: Store) -> None:
    ref = put(here, "same")
    assert here.remote
    here.remote.write("s/k/a", b"rot")
    here.upload(ref)
    assert (there.open(ref).folder / "a").read_text() == "a same"


def test_who_began_to_read_the_earlier_one_is_told_to_run_again_and_gets_no_mixture(
    here: Store, there: Store
) -> None:
    found = there.open(put(here, "old"))
    put(here, "new")
    with pytest.raises(UserError, match=r"s/k: another machine made it again.*run again"):
        _ = found.folder
    assert not list((there.root / "s").glob("k*/*"))
    again = there.find("s", "k")
    assert again and (again.folder / "a").read_text() == "a new"


@pytest.mark.parametrize("again", ["another", "the same"])
def test_objects_that_are_replaced_during_a_download_end_it_only_where_their_content_is_another(
    here: Store, there: Store, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    ref = put(here, "old")
    found = there.open(ref)
    download, replaced = s3.Remote.download, list[str]()

    def meanwhile(self: s3.Remote, name: str, to: Path, size: int | None = None) -> None:
        if not replaced:
            replaced.append(name)
            if again == "another":
                put(here, "new")
            else:
                self.delete("s/k/b")
                here.upload(ref)
        download(self, name, to, size)

    monkeypatch.setattr(s3, "AT_ONCE", 1)
    monkeypatch.setattr(s3.Remote, "download", meanwhile)
    if again == "another":
        with pytest.raises(UserError, match="another machine made it again"):
            _ = found.folder
    else:
        assert (found.folder / "b").read_text() == "b old"
        assert "upload" not in json.loads((found.folder / "manifest.json").read_text())


def test_a_replacement_between_the_look_at_a_manifest_and_at_its_objects_is_no_damage(
    here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(here, "old")
    listed, replaced = s3.Remote.list, list[str]()

    def meanwhile(self: s3.Remote, under: str) -> Any:
        if not replaced and self is there.remote:
            replaced.append(under)
            put(here, "new")
        return listed(self, under)

    monkeypatch.setattr(s3.Remote, "list", meanwhile)
    found = there.find("s", "k")
    assert found and (found.folder / "a").read_text() == "a new"


def test_a_first_upload_lies_where_earlier_versions_look(here: Store, bucket: str) -> None:
    put(here, "first")
    remote = s3.Remote(bucket)
    assert set(remote.list("s/k")) == {"a", "b", "manifest.json"}
    assert "upload" not in json.loads(remote.read("s/k/manifest.json") or b"{}")


def test_earlier_objects_that_cannot_be_removed_are_a_warning(
    here: Store,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(here, "old")
    monkeypatch.setattr(s3.Remote, "delete", lambda *_, **__: (_ for _ in ()).throw(UserError("away")))
    put(here, "new")
    assert "`sif prune` removes them" in caplog.text
    assert texts(bucket, tmp_path / "reader") == {"a new", "b new"}
