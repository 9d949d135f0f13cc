"""The store on S3: another machine gets everything, damage is seen, and half an upload is nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ResponseStreamingError

from sifthinker.config import Config, parse
from sifthinker.core.errors import UserError
from sifthinker.store import aliases, downloads, s3
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Damaged, Ref
from sifthinker.upkeep import data_checks, findings


@pytest.fixture
def url(bucket: str) -> str:
    return bucket


def put(store: Store, key: str = "k", shards: tuple[Ref, ...] = (), **files: str) -> Ref:
    with store.making("s", key, {"label": "s", "inputs": {}}) as draft:
        for name, text in files.items():
            (draft.out / name).write_text(text)
        draft.shards = list(shards)
    found = store.find("s", key)
    assert found
    return found.ref


def test_another_machine_finds_an_artifact_and_downloads_it_when_it_is_read(url: str, tmp_path: Path) -> None:
    here = Store(tmp_path / "a", url)
    shard = put(here, "k1", a="1")
    ref = put(here, "k2", shards=(shard,), b="2")
    there = Store(tmp_path / "b", url)
    found = there.open(ref)
    assert found.ref == ref and found.shards[0].ref == shard
    assert not (tmp_path / "b" / "s" / "k2").exists(), "a lookup downloads nothing"
    assert (found.folder / "b").read_text() == "2"
    assert (found.shards[0].folder / "a").read_text() == "1"
    assert Store(tmp_path / "b").find("s", "k2"), "and what came is whole by its digests"


def parts(store: Store, key: str = "k", word: str = "") -> Ref:
    """An artifact of two tables in 30 parts, and of a file of all."""
    tables = {f"{t}-{n:05}.parquet": f"{t} {n} {word}" for t in ("samples", "given") for n in range(30)}
    return put(store, key, **tables, **{"rejects.parquet": "all"})


def test_a_shard_on_another_machine_downloads_its_own_part_and_no_other(url: str, tmp_path: Path) -> None:
    ref = parts(Store(tmp_path / "a", url))
    root = tmp_path / "b"
    there = Store(root, url)
    found = there.open(ref, 7)
    assert not list(root.rglob("*.parquet")), "a lookup downloads nothing"
    assert found.part("samples", 7).read_text() == "samples 7 "
    assert found.part("given", 7).read_text() == "given 7 "
    here = sorted(path.name for path in root.rglob("*.parquet"))
    assert here == ["given-00007.parquet", "samples-00007.parquet"]
    assert found.ref == ref == there.open(ref, 8).ref
    assert not (root / "s" / "k").exists() and there.manifests("s") == [], "a part is not taken for the whole"

    found.part("samples", 7).chmod(0o644)
    found.part("samples", 7).write_text("samples 7!")
    assert Store(root).open(ref, 7).part("samples", 7).read_text() == "samples 7 ", "damage is seen"
    whole = there.open(ref)
    assert len([path for path in whole.parts("samples") if path.exists()]) == 30
    assert there.open(ref, 7).part("samples", 7).parent == root / "s" / "k"


def test_parts_of_an_artifact_that_was_made_again_are_not_those_of_before(url: str, tmp_path: Path) -> None:
    here, there = Store(tmp_path / "a", url), Store(tmp_path / "b", url)
    old = parts(here)
    assert there.open(old, 3).part("samples", 3).read_text() == "samples 3 "
    here.discard("s", "k")
    new = parts(here, word="again")
    assert there.open(new, 3).part("samples", 3).read_text() == "samples 3 again"
    with pytest.raises(Damaged, match="another content"):
        there.open(old, 3)


def test_a_part_that_is_damaged_on_the_remote_is_an_error_that_names_it(url: str, tmp_path: Path) -> None:
    ref = parts(Store(tmp_path / "a", url))
    there = Store(tmp_path / "b", url)
    found = there.open(ref, 7)
    s3.Remote(url).write("s/k/samples-00007.parquet", b"samples 8 ")
    with pytest.raises(UserError, match=r"samples-00007\.parquet"):
        found.part("samples", 7)
    assert not list((tmp_path / "b").rglob("*.parquet"))


def test_records_reach_another_machine(url: str, tmp_path: Path) -> None:
    here = Store(tmp_path / "a", url)
    ref = put(here, a="1")
    here.record(here.root / "runs" / "r.json", {"id": "r"})
    here.accept("s", "new", "k", "a reason", "me")
    aliases.pin(here, "baseline", ref, "me", "a reason")
    there = Store.of(Config(store=tmp_path / "b", remote=url, scenes={}))  # type: ignore[arg-type]
    assert json.loads((there.root / "runs" / "r.json").read_text()) == {"id": "r"}
    pinned = aliases.read(there, "baseline")
    assert pinned and pinned["ref"] == ref.model_dump()
    found = there.find("s", "new")
    assert found and found.ref == ref
    here.record(here.root / "runs" / "r.json", {"id": "r", "state": "finished"})
    os.utime(there.root / "runs" / "r.json", (0, 0))
    there.pull()
    assert json.loads((there.root / "runs" / "r.json").read_text())["state"] == "finished"


@pytest.mark.parametrize("damage", ["changed", "missing", "manifest"])
def test_a_damaged_object_is_seen_without_a_download_and_made_again(
    url: str, tmp_path: Path, damage: str
) -> None:
    put(Store(tmp_path / "a", url), a="1")
    bucket = s3.Remote(url)
    if damage == "missing":
        bucket.delete("s/k/a")
    else:
        bucket.write("s/k/manifest.json" if damage == "manifest" else "s/k/a", b"2")
    there = Store(tmp_path / "b", url)
    with pytest.raises(
        Damaged, match=f"{url}/s/k: (a was changed|a is missing|manifest.json cannot be read)"
    ):
        there.find("s", "k")
    put(there, a="1")
    assert Store(tmp_path / "c", url).find("s", "k")


def test_an_upload_that_is_killed_leaves_nothing_that_is_taken_for_whole(url: str, tmp_path: Path) -> None:
    code = f"""
import os, time
from pathlib import Path
from sifthinker.store import s3
from sifthinker.store.artifacts import Store
whole = s3.Remote.upload
def slow(self, file, name):
    whole(self, file, name)
    os.write(1, b"uploaded\\n")  # print writes the end of its line apart, and two threads upload
    time.sleep(60)
s3.Remote.upload = slow
with Store(Path({str(tmp_path / "a")!r}), {url!r}).making("s", "k", {{}}) as draft:
    for name in "ab":
        (draft.out / name).write_text(name)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "uploaded\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert set(s3.Remote(url).list("s/k")) in ({"a"}, {"b"}, {"a", "b"}), "its manifest would come last"
    assert Store(tmp_path / "b", url).find("s", "k") is None
    here = Store(tmp_path / "a", url)
    assert here.find("s", "k"), "on the machine that made it, it is whole"
    assert here.push_pending() == ["s/k"] and here.push_pending() == []
    found = Store(tmp_path / "c", url).find("s", "k")
    assert found and (found.folder / "b").read_text() == "b"


def test_an_upload_that_fails_costs_neither_the_new_artifact_nor_the_old_one(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Store(tmp_path / "a", url)
    old = put(here, a="old")

    def refuse(self: s3.Remote, file: Path, name: str) -> None:
        assert (here.folder("s", "k") / "a").read_text() == "new", "it has its name before it is uploaded"
        assert list((tmp_path / "a" / "s").glob("k.discarded-*")), "the old one is removed last"
        raise UserError("the bucket is full")

    with monkeypatch.context() as patch:
        patch.setattr(s3.Remote, "upload", refuse)
        with pytest.raises(UserError, match="the bucket is full"):
            put(here, a="new")
    found = Store(tmp_path / "a").find("s", "k")
    assert found and (found.folder / "a").read_text() == "new"
    assert old != found.ref
    assert here.push_pending() == ["s/k"]
    assert not list((tmp_path / "a" / "s").glob("k.discarded-*"))
    there = Store(tmp_path / "b", url).find("s", "k")
    assert there and there.ref == found.ref


def test_what_another_machine_made_meanwhile_is_not_overwritten(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = Store(tmp_path / "a", url), Store(tmp_path / "b", url)
    with monkeypatch.context() as patch:
        patch.setattr(s3.Remote, "push", lambda *_: (_ for _ in ()).throw(UserError("away")))
        with pytest.raises(UserError, match="away"):
            put(here, a="ours")
    theirs = put(there, a="theirs")
    assert here.push_pending() == [] and not list((tmp_path / "a" / "s").glob("*.pending"))
    found = Store(tmp_path / "c", url).find("s", "k")
    assert found and found.ref == theirs


def test_a_folder_is_the_cache_of_one_remote(url: str, tmp_path: Path) -> None:
    Store(tmp_path, url)
    with pytest.raises(UserError, match="give s3://sif/other another folder"):
        Store(tmp_path, "s3://sif/other")
    opened = Store(tmp_path)
    assert opened.remote and opened.remote.url == url


def test_a_manifest_of_another_artifact_is_damage(url: str, tmp_path: Path) -> None:
    here = Store(tmp_path / "a", url)
    put(here, "k1", a="1")
    put(here, "k2", a="1")
    bucket = s3.Remote(url)
    bucket.write("s/k1/manifest.json", bucket.read("s/k2/manifest.json") or b"")
    with pytest.raises(Damaged, match=r"s/k1: manifest\.json is that of s/k2"):
        Store(tmp_path / "b", url).find("s", "k1")


def test_what_was_downloaded_is_whole_read_only_and_found_again(url: str, tmp_path: Path) -> None:
    made = put(Store(tmp_path / "a", url), "k", a="1")
    there = Store(tmp_path / "b", url)
    assert (there.open(made).folder / "a").read_text() == "1"
    assert Store(tmp_path / "b").open(made).ref == made
    assert not (there.folder("s", "k") / "a").stat().st_mode & 0o222


@pytest.mark.parametrize(
    ("endpoint", "bucket"),
    [("http://127.0.0.1:9", "sif"), (None, "not-there")],
    ids=["nothing answers", "no such bucket"],
)
def test_a_remote_that_cannot_be_reached_is_explained(
    s3_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str | None, bucket: str
) -> None:
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    with pytest.raises(UserError, match=r"cannot list.*Check AWS_ENDPOINT_URL_S3") as said:
        Store.of(Config(store=tmp_path, remote=f"s3://{bucket}/x", scenes={}))  # type: ignore[arg-type]
    assert "not-a-real-secret" not in str(said.value)


def test_the_doctor_reads_writes_and_locks_a_remote_and_leaves_nothing_there(
    url: str, tmp_path: Path
) -> None:
    settings = parse({"store": str(tmp_path / "store"), "remote": url, "scenes": {}}, "test")
    (found,) = data_checks.remote(settings)
    assert found.verdict == "ok" and "reads, writes and locks" in found.found
    assert not Store(tmp_path / "store").remote.list("")
    (again,) = data_checks.remote(settings.model_copy(update={"remote": None}))
    assert url in again.found, "the folder remembers whose cache it is"
    missing = settings.model_copy(update={"remote": "s3://nowhere/x", "store": tmp_path / "other"})
    (wrong,) = findings.examine({"remote": lambda: data_checks.remote(missing)})
    assert wrong.verdict == "error" and "NoSuchBucket" in wrong.found


def test_a_copy_from_before_another_machine_made_it_again_is_replaced(url: str, tmp_path: Path) -> None:
    here, there = Store(tmp_path / "a", url), Store(tmp_path / "b", url)
    old = put(here, a="1")
    assert (there.open(old).folder / "a").read_text() == "1"
    with here.making("s", "k", {"label": "s", "inputs": {}}) as draft:
        (draft.out / "a").write_text("2")
    new = here.find("s", "k")
    assert new and new.ref.digest != old.digest
    assert (there.open(new.ref).folder / "a").read_text() == "2"
    with pytest.raises(Damaged, match="another content"):
        there.open(old)


def test_an_artifact_that_is_gone_from_the_remote_is_uploaded_again(url: str, tmp_path: Path) -> None:
    here, there = Store(tmp_path / "a", url), Store(tmp_path / "b", url)
    ref = put(here, a="1")
    assert here.remote
    here.upload(ref)
    before = here.remote.list("s")
    here.remote.remove("s/k")
    assert there.find("s", "k") is None
    here.upload(ref)
    assert there.open(ref).ref == ref and here.remote.list("s").keys() == before.keys()


def test_an_artifact_is_downloaded_once_for_all_that_want_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = put(Store(tmp_path / "a", url), **{f"file-{n}": str(n) for n in range(5)})
    fetched: list[str] = []
    download = s3.Remote.download

    def counted(self: s3.Remote, name: str, to: Path, size: int | None = None) -> None:
        fetched.append(name)
        download(self, name, to, size)

    monkeypatch.setattr(s3.Remote, "download", counted)
    with ThreadPoolExecutor(4) as threads:
        folders = list(threads.map(lambda _: Store(tmp_path / "b", url).open(ref).folder, range(4)))
    assert len(set(folders)) == 1 and len(fetched) == 5


class Breaks:
    """A body whose connection breaks after its first bytes."""

    def read(self) -> bytes:
        raise ResponseStreamingError(error="Connection broken: IncompleteRead(5000 bytes read, 95000 more)")


def test_a_small_file_whose_connection_breaks_is_read_again(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = put(Store(tmp_path / "a", url), file="1")
    there = Store(tmp_path / "b", url)
    assert there.remote
    get, broken = there.remote.client.get_object, dict.fromkeys(("manifest.json", "file"), 3)

    def breaking(**of: str) -> Any:
        name = of["Key"].rpartition("/")[2]
        broken[name] -= 1
        return {"Body": Breaks()} if broken[name] >= 0 else get(**of)

    monkeypatch.setattr(there.remote.client, "get_object", breaking)
    assert (there.open(ref).folder / "file").read_text() == "1"
    broken["file"] = 99
    with pytest.raises(UserError, match=r"cannot read: .*Connection broken"):
        there.remote.download(f"s/{ref.key}/file", tmp_path / "again", size=1)


def test_a_damaged_part_is_removed_by_one_and_downloaded_once_for_all_that_find_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = parts(Store(tmp_path / "a", url))
    folder = Store(tmp_path / "b", url).open(ref, 3).folder
    damaged = folder / "given-00003.parquet"
    damaged.chmod(0o644)
    damaged.write_text("damaged")
    at_once, removed = Barrier(2, timeout=30), shutil.rmtree

    def waits(path: Path, *of: Any, **more: Any) -> None:
        with suppress(BrokenBarrierError):  # whoever comes second finds it mended
            at_once.wait(2)
        removed(path, *of, **more)

    monkeypatch.setattr(downloads.shutil, "rmtree", waits)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: Store(tmp_path / "b", url).open(ref, 3).folder, range(2)))
    assert found == [folder, folder] and damaged.read_text() == "given 3 "


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt])
def test_large_files_under_way_are_dropped_where_one_fails_or_the_process_is_told_to_end(
    error: type[BaseException], url: str, tmp_path: Path
) -> None:
    remote, under_way, whole = s3.Remote(url), Barrier(3), list[str]()

    def pieces(*of: str, Callback: Any = lambda _: None) -> None:
        under_way.wait(30)
        if of[1].endswith("fails"):
            raise error
        for _ in range(100):
            Callback(1)
            time.sleep(0.1)
        whole.append(of[1])

    remote.client = SimpleNamespace(
        download_file=pieces, upload_file=lambda file, *of, **more: pieces(*of, **more)
    )
    with pytest.raises(error):
        s3.together(lambda name: remote.download(name, tmp_path / name, s3.SMALL + 1), ["fails", "b", "c"])
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(s3.SMALL + 1)
    with pytest.raises(error):
        s3.together(lambda name: remote.upload(large, name), ["fails", "b", "c"])
    assert not whole
