"""Uploads that were cut short: the next run makes up for them, and overwrites nothing of another machine's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sifthinker.core.errors import UserError
from sifthinker.store import s3
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Damaged, Ref


def put(store: Store, key: str = "k", **files: str) -> Ref:
    with store.making("s", key, {}) as draft:
        for name, text in files.items():
            (draft.out / name).write_text(text)
    found = store.find("s", key)
    assert found
    return found.ref


@pytest.mark.parametrize("when", ["at its first request", "while files go", "when it was done"])
def test_a_refreshed_artifact_whose_upload_fails_is_uploaded_by_the_next_run(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    here, other = Store(tmp_path / "a", bucket), Store(tmp_path / "b", bucket)
    old = put(here, a="old")
    name = {"at its first request": "push", "while files go": "upload", "when it was done": "write"}[when]
    whole = getattr(s3.Remote, name)

    def away(self: s3.Remote, *given: Any, **more: Any) -> None:
        if when == "when it was done":
            whole(self, *given, **more)
        raise UserError("away")

    with monkeypatch.context() as patch:
        patch.setattr(s3.Remote, name, away)
        with pytest.raises(UserError, match="away"):
            put(here, a="new")
    found = here.find("s", "k")
    assert found and found.ref != old
    if when == "at its first request":
        with pytest.raises(Damaged, match="another content"):
            here.open(old)
        assert here.find("s", "k"), "and the new one is not taken for a stale copy of it"
    here.push_pending()
    assert not list((tmp_path / "a" / "s").glob("*.pending"))
    assert other.open(found.ref).ref == found.ref


def test_a_refresh_over_what_another_machine_refreshed_is_uploaded_too(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = Store(tmp_path / "a", bucket), Store(tmp_path / "b", bucket)
    put(here, a="1")
    put(there, a="2")
    with monkeypatch.context() as patch:
        patch.setattr(s3.Remote, "push", lambda *_: (_ for _ in ()).throw(UserError("away")))
        with pytest.raises(UserError, match="away"):
            put(here, a="3")
    assert here.push_pending() == ["s/k"]
    found = Store(tmp_path / "c", bucket).find("s", "k")
    assert found and (found.folder / "a").read_text() == "3"


@pytest.mark.parametrize("left", ["the copy of before", "a damaged one"])
def test_word_of_an_upload_sends_nothing_but_the_artifact_that_it_is_of(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    here, there = Store(tmp_path / "a", bucket), Store(tmp_path / "b", bucket)
    put(here, a="1")
    theirs = put(there, a="2")
    with monkeypatch.context() as patch:  # killed before the new one has its name
        patch.setattr(Store, "_publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            put(here, a="3")
    assert list((tmp_path / "a" / "s").glob("*.pending"))
    if left == "a damaged one":
        assert there.remote
        there.remote.remove("s/k")
        theirs = put(there, a="2")
        (here.folder("s", "k") / "a").chmod(0o644)
        (here.folder("s", "k") / "a").write_text("rot")
    assert here.push_pending() == []
    found = Store(tmp_path / "c", bucket).find("s", "k")
    assert found and found.ref == theirs


def test_word_of_an_earlier_version_uploads_what_the_remote_has_not(bucket: str, tmp_path: Path) -> None:
    here = Store(tmp_path / "a", bucket)
    put(here, a="1")
    for uploads in ([], ["s/k"]):
        (tmp_path / "a" / "s" / "k.pending").write_text(json.dumps({"since": 1.0}))
        assert here.push_pending() == uploads
        assert here.remote
        here.remote.remove("s/k")


def test_an_artifact_on_the_remote_counts_more_than_the_one_accepted_for_it(
    bucket: str, tmp_path: Path
) -> None:
    here, there = Store(tmp_path / "a", bucket), Store(tmp_path / "b", bucket)
    instead = put(here, "k0", a="0")
    here.accept("s", "k", "k0", "renamed", "ada")
    there.pull()
    found = there.find("s", "k")
    assert found and found.ref == instead
    ref = put(here, a="1")
    found = there.find("s", "k")
    assert found and found.ref == ref, "as on the machine that made it"
