"""Locks of the store on S3: one maker at a time, and the lock of a machine that is gone can be taken over."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from filelock import Timeout

from sifthinker.core.errors import UserError
from sifthinker.store import remote_lock, s3
from sifthinker.store.artifacts import Store


@pytest.fixture
def url(bucket: str) -> str:
    return bucket


def test_two_machines_do_not_make_the_same_artifact_at_once(url: str, tmp_path: Path) -> None:
    first = Store(tmp_path / "a", url).lock("s", "k")
    second = Store(tmp_path / "b", url).lock("s", "k")
    with first, pytest.raises(Timeout):
        second.acquire(timeout=0)
    second.acquire(timeout=0)
    second.release()
    assert s3.Remote(url).list("s") == {}, "a lock that is given back is gone"


def test_the_lock_of_a_dead_machine_is_taken_over(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.Remote(url).write("s/k.lock", b"{}")  # nobody beats
    lock = Store(tmp_path, url).lock("s", "k")
    with pytest.raises(Timeout):
        lock.acquire(timeout=0)
    monkeypatch.setattr(remote_lock, "EXPIRY", -60.0)
    lock.acquire(timeout=0)
    lock.release()


def test_a_lock_that_was_taken_over_ends_the_making_and_stays_its_new_holders(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = Store(tmp_path / "a", url), Store(tmp_path / "b", url)
    monkeypatch.setattr(remote_lock, "BEAT", 1000.0)  # as of a machine that is cut off
    lock = here.lock("s", "k")
    lock.acquire()
    lock.check()
    monkeypatch.setattr(remote_lock, "EXPIRY", -60.0)
    other = there.lock("s", "k")
    other.acquire(timeout=0)
    with pytest.raises(UserError, match=r"s/k.lock: this run lost its lock"):  # noqa: SIM117
        with here.making("s", "k", {}, lock.check) as draft:
            (draft.out / "a").write_text("of who lost the lock")
    assert here.find("s", "k") is None and not (here.root / "s" / "k.pending").exists()
    lock.release()
    assert "k.lock" in s3.Remote(url).list("s"), "the new holder's lock is its own to remove"
    other.release()
    assert "k.lock" not in s3.Remote(url).list("s")


def test_a_beat_that_finds_another_holder_marks_the_lock_as_lost(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lock, "BEAT", 0.05)
    lock = Store(tmp_path, url).lock("s", "k")
    lock.acquire()
    s3.Remote(url).write("s/k.lock", b"another's")
    deadline = time.monotonic() + 30
    with pytest.raises(UserError, match="lost its lock"):
        while time.monotonic() < deadline:
            lock.check()
            time.sleep(0.02)
    lock.release()
    assert s3.Remote(url).read("s/k.lock") == b"another's"


def test_a_heartbeat_keeps_a_lock_young(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lock, "BEAT", 0.05)
    with Store(tmp_path, url).lock("s", "k"):
        before = s3.Remote(url).list("s")["k.lock"].etag
        deadline = time.monotonic() + 30
        while s3.Remote(url).list("s")["k.lock"].etag == before:
            assert time.monotonic() < deadline, "no beat came"
            time.sleep(0.05)
