"""Damage to a store is seen, whatever it is: named, never a traceback, never silent. What is made again is whole."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sifthinker.store import runs, verification
from sifthinker.store.artifacts import Store
from sifthinker.store.digests import Digests, cache_file
from sifthinker.store.manifest import Damaged, Ref, read_manifest, sealed
from sifthinker.store.sealing import LARGE

Damage = Callable[[Path], None]


def put(store: Store, key: str, files: dict[str, bytes], **more: object) -> Ref:
    fields = {"label": "s", "identity": {"code": {"m": "0a"}}, "versions": {"torch": "2"}}
    with store.making("s", key, {**fields, **more}) as draft:
        for name, content in files.items():
            (draft.out / name).write_bytes(content)
        draft.rows.update({"in": 3, "kept": 2, "rejected": {"x": 1}})
        draft.notes["note"] = "said"
    found = store.find("s", key)
    assert found
    return found.ref


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    put(made, "k1", {"a-00000.parquet": b"one", "b": b"two"})
    put(made, "k2", {"a-00000.parquet": b"other", "b": b"third"})
    return made


def rewritten(change: Callable[[dict[str, object]], object]) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "manifest.json"
        file.write_text(json.dumps(change(json.loads(file.read_text()))))

    return damage


def written(content: bytes) -> Damage:
    def damage(folder: Path) -> None:
        (folder / "manifest.json").write_bytes(content)

    return damage


def without(field: str) -> Damage:
    return rewritten(lambda m: {name: value for name, value in m.items() if name != field})


def with_(**fields: object) -> Damage:
    return rewritten(lambda m: {**m, **fields})


def _kept_mtime(folder: Path) -> None:
    file = folder / "b"
    stat = file.stat()
    file.write_bytes(b"twO")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _link_out(folder: Path) -> None:
    outside = folder.parents[2] / "outside"
    outside.write_bytes((folder / "b").read_bytes())
    (folder / "b").unlink()
    (folder / "b").symlink_to(outside)


def _swapped(folder: Path) -> None:
    other, aside = folder.with_name("k2"), folder.with_name("aside")
    folder.rename(aside)
    other.rename(folder)
    aside.rename(other)


def _fifo(folder: Path) -> None:
    (folder / "b").unlink()
    os.mkfifo(folder / "b")


FIELDS = (
    "stage",
    "key",
    "label",
    "name",
    "identity",
    "inputs",
    "versions",
    "digest",
    "files",
    "shards",
    "rows",
)
DAMAGES: dict[str, Damage] = {
    "a bit of a file": lambda folder: (folder / "b").write_bytes(b"twn") and None,
    "a bit of a file, its time of change set back": _kept_mtime,
    "a cut file": lambda folder: (folder / "b").write_bytes(b"t") and None,
    "a file that is gone": lambda folder: (folder / "b").unlink(),
    "a file that is a link out of the store": _link_out,
    "a file that is a pipe": _fifo,
    "a foreign part": lambda folder: (folder / "a-00009.parquet").write_bytes(b"one") and None,
    "a foreign file": lambda folder: (folder / "model-00009.safetensors").write_bytes(b"x") and None,
    "a foreign folder with a file": lambda folder: (
        (folder / "sub").mkdir(),
        (folder / "sub" / "x").write_bytes(b"x"),
        None,
    )[-1],
    "swapped with another of its stage": _swapped,
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "a manifest that lists no files": with_(files={}),
    "a manifest with other counts of rows": with_(rows={"in": 3, "kept": 3, "rejected": {}}),
    "a manifest with another key": with_(key="k2"),
    "a manifest with another digest": with_(digest="0" * 64),
    "a manifest whose `made` is a text": with_(made="today"),
    "a manifest with a field that is unknown": with_(more=1),
    "a manifest with a misspelt checksum": rewritten(
        lambda m: {("checksun" if name == "checksum" else name): value for name, value in m.items()}
    ),
    "a manifest with other notes": with_(notes={"note": "unsaid"}),
    **{f"a manifest without `{field}`": without(field) for field in (*FIELDS, "notes", "made", "seconds")},
    **{
        f"a manifest that is {text[:10]!r}": written(text)
        for text in (
            b"",
            b"{}",
            b"[]",
            b"null",
            b"1",
            b"{",
            b'"x"',
            b'"\\ud800"',
            b"\xff\xfe",
            b"[" * 100_000,
        )
    },
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_and_ends_nothing_else(
    name: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    DAMAGES[name](store.folder("s", "k1"))
    with pytest.raises(Damaged, match=r"^s/k1: "):
        store.find("s", "k1")
    whole = [m["key"] for m in store.manifests("s")]
    assert whole in (["k2", "k1"], ["k2"], []), "a list of artifacts leaves out what cannot be read"
    if "k1" not in whole:
        assert "s/k1: manifest.json" in caplog.text
        assert store.manifest("s", "k1") is None
    again = put(store, "k1", {"a-00000.parquet": b"one", "b": b"two"})
    assert store.open(again).ref == again, "what is made again is whole"


def test_any_flipped_bit_of_a_manifest_is_seen(store: Store) -> None:
    file = store.folder("s", "k1") / "manifest.json"
    right = file.read_bytes()
    drawn = random.Random(0)
    for _ in range(400):
        at, bit = drawn.randrange(len(right)), 1 << drawn.randrange(8)
        file.write_bytes(right[:at] + bytes([right[at] ^ bit]) + right[at + 1 :])
        try:
            found = read_manifest(file.read_bytes())
        except ValueError:
            continue
        assert found == json.loads(right), f"bit {bit} of byte {at} is silent"  # white space


def test_a_hidden_file_is_nobodys_data(store: Store) -> None:
    (store.folder("s", "k1") / ".DS_Store").write_bytes(b"x")
    assert store.find("s", "k1")


def test_what_was_made_again_with_another_content_is_not_what_was_asked_for(store: Store) -> None:
    before = store.find("s", "k1")
    assert before
    put(store, "k1", {"a-00000.parquet": b"one", "b": b"changed"})
    with pytest.raises(Damaged, match="s/k1 has another content than the one that was asked for"):
        store.open(before.ref)


def test_a_manifest_of_an_earlier_version_has_no_checksum_and_is_read(store: Store) -> None:
    without("checksum")(store.folder("s", "k1"))
    found = store.find("s", "k1")
    assert found and found.manifest["rows"]["kept"] == 2


def test_the_checksum_is_that_of_what_is_read_back() -> None:
    fields: dict[str, Any] = {}
    fields |= dict.fromkeys(("stage", "key", "label", "name", "digest"), "x") | {"made": 1.5, "seconds": 0.25}
    fields |= {"identity": {}, "inputs": {}, "versions": {}, "files": {}, "shards": []}
    fields |= {"rows": {"in": 1, "kept": 1, "rejected": {}}, "notes": {"by step": {2: 0.1, 10: (1, 2)}}}
    assert read_manifest(json.dumps(sealed(fields)))["notes"] == {"by step": {"2": 0.1, "10": [1, 2]}}


def test_a_damaged_cache_of_digests_is_begun_anew(
    store: Store, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    cache = tmp_path / "cache" / "digests.sqlite"
    file = tmp_path / "file"
    file.write_bytes(b"x")
    expected = Digests(cache).file(file)
    cache.write_bytes(b"no database at all" * 1000)
    assert Digests(cache).file(file) == expected
    assert "is damaged and is begun anew" in caplog.text
    assert Digests(cache).file(file) == expected


def test_digests_are_remembered_on_this_machine_and_not_in_the_store(store: Store) -> None:
    assert cache_file().is_file()
    assert not list(store.root.rglob("*.sqlite*"))


def test_a_damaged_record_of_a_run_is_passed_over(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    folder = store.root / "runs"
    folder.mkdir()
    whole = {"id": "a", "name": "a", "started": 1.0, "config": {}, "state": "finished", "stages": {}}
    (folder / "a.json").write_text(json.dumps(whole))
    for number, text in enumerate(
        ("", "{", "[]", "{}", "null", '{"id": "x"}', '{"started": "today"}', "[" * 100_000)
    ):
        (folder / f"b{number}.json").write_text(text)
    (folder / "c.json").write_bytes(b"\xff\xfe\x00")
    assert [run["id"] for run in runs.runs(store)] == ["a"]
    assert caplog.text.count("cannot be read") == 9


def test_a_large_file_that_an_input_has_too_is_kept_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = put(store, "k1", {"model.safetensors": b"w" * LARGE, "small": b"s"})
    second = put(
        store,
        "k2",
        {"model.safetensors": b"w" * LARGE, "small": b"s", "other": b"v" * LARGE},
        inputs={"base": first.model_dump()},
    )
    one, two = store.folder("s", "k1"), store.folder("s", "k2")
    assert (one / "model.safetensors").samefile(two / "model.safetensors")
    assert not (one / "small").samefile(two / "small")
    assert {path.name for path in two.iterdir()} == {"model.safetensors", "small", "other", "manifest.json"}
    verification.verifier.cache_clear()  # as another process
    for ref in (first, second):
        assert Store(tmp_path).open(ref).ref == ref
    store.discard("s", "k1")
    assert Store(tmp_path).open(second).ref == second, "the other one's removal costs it nothing"


def test_a_rotten_file_of_an_input_does_not_take_the_place_of_a_whole_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = put(store, "k1", {"model.safetensors": b"w" * LARGE})
    with (store.folder("s", "k1") / "model.safetensors").open("r+b") as file:
        file.write(b"rotten")
    second = put(store, "k2", {"model.safetensors": b"w" * LARGE}, inputs={"base": first.model_dump()})
    assert (store.folder("s", "k2") / "model.safetensors").read_bytes() == b"w" * LARGE
    assert store.open(second).ref == second


def test_the_files_of_an_artifact_are_read_only(store: Store) -> None:
    modes = {path.name: path.stat().st_mode & 0o222 for path in store.folder("s", "k1").iterdir()}
    assert modes["b"] == modes["a-00000.parquet"] == 0


def test_a_link_in_a_draft_becomes_the_file_that_it_names(tmp_path: Path) -> None:
    store, outside = Store(tmp_path / "store"), tmp_path / "outside"
    outside.write_bytes(b"content")
    with store.making("s", "k", {}) as draft:
        (draft.out / "a").symlink_to(outside)
    outside.write_bytes(b"changed")
    found = store.find("s", "k")
    assert found and (found.folder / "a").read_bytes() == b"content"
