"""After another machine has made an artifact, this one's old or damaged copies of it go."""

from __future__ import annotations

from pathlib import Path

import pytest

from sifthinker.core.errors import UserError
from sifthinker.store import copies, s3
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref


def put(store: Store, key: str, text: str, *shards: Ref) -> Ref:
    with store.making("s", key, {}) as draft:
        (draft.out / "a").write_text(text)
        draft.shards = list(shards)
    found = store.find("s", key)
    assert found
    return found.ref


def spoil(store: Store, key: str) -> None:
    file = store.folder("s", key) / "a"
    file.chmod(0o644)
    file.write_text("rotten")


@pytest.fixture
def stores(bucket: str, tmp_path: Path) -> tuple[Store, Store]:
    """This machine's and another one's."""
    return Store(tmp_path / "here", bucket), Store(tmp_path / "there", bucket)


def test_a_copy_from_before_goes(stores: tuple[Store, Store]) -> None:
    here, there = stores
    put(here, "k", "old")
    new = put(there, "k", "new")
    copies.settle(here, "s", "k")
    found = here.find("s", "k")
    assert found and found.ref == new and (found.folder / "a").read_text() == "new"


def test_a_later_one_that_waits_for_its_upload_stays(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run holds its lock meanwhile, so that `push_pending` left it out."""
    here, there = stores
    put(there, "k", "old")
    with monkeypatch.context() as patch:

        def away(*_: object) -> None:
            raise UserError("away")

        patch.setattr(s3.Remote, "push", away)
        with pytest.raises(UserError, match="away"):
            put(here, "k", "new")
    with there.lock("s", "k"):
        assert here.push_pending() == []
    copies.settle(here, "s", "k")
    found = here.find("s", "k")
    assert found and (found.folder / "a").read_text() == "new"
    assert here.push_pending() == ["s/k"]


def test_a_damaged_copy_goes_and_a_whole_one_stays(stores: tuple[Store, Store]) -> None:
    here, there = stores
    ref = put(there, "k", "text")
    found = here.find("s", "k")
    assert found and found.folder.exists()
    copies.settle(here, "s", "k")
    assert here.folder("s", "k").exists()
    spoil(here, "k")
    copies.settle(here, "s", "k")
    assert not here.folder("s", "k").exists() and here.open(ref).ref == ref


@pytest.mark.parametrize("whole", [True, False])
def test_a_damaged_copy_of_a_shard_goes(stores: tuple[Store, Store], whole: bool) -> None:
    here, there = stores
    shard = put(there, "p", "part")
    ref = put(there, "k", "text", shard)
    found = here.open(ref)
    assert found.shards[0].folder.exists()
    assert not whole or found.folder.exists()
    spoil(here, "p")
    copies.settle(here, "s", "k")
    assert here.open(ref).shards[0].ref == shard


def test_what_is_not_on_the_remote_stays(stores: tuple[Store, Store]) -> None:
    here, _ = stores
    ref = put(here, "k", "text")
    assert here.remote
    here.remote.remove("s/k")
    copies.settle(here, "s", "k")
    assert here.open(ref).ref == ref


def test_a_shard_that_is_not_here_asks_nothing(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = stores
    ref = put(there, "k", "text")
    with monkeypatch.context() as patch:
        patch.setattr(s3.Remote, "manifest", lambda *_: pytest.fail("a request"))
        copies.settle_shard(here, ref)
    assert here.open(ref).folder.exists()
    spoil(here, "k")
    copies.settle_shard(here, ref)
    assert here.open(ref).ref == ref


def test_a_store_without_a_remote_is_left_alone(tmp_path: Path) -> None:
    alone = Store(tmp_path)
    put(alone, "k", "text")
    spoil(alone, "k")
    copies.settle(alone, "s", "k")
    assert alone.folder("s", "k").exists()
