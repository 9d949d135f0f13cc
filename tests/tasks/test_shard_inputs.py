"""What a shard opens of its stage's inputs: its own part, whatever the number of shards."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sifthinker.config import Config
from sifthinker.core.tables import read, write
from sifthinker.store.artifacts import Store
from sifthinker.store.digests import cache_file
from sifthinker.store.manifest import Damaged, Ref
from sifthinker.store.verification import verifier
from tasks.runtime import make
from tasks.runtime.make import make_artifact
from tasks.runtime.progress import Progress
from tasks.runtime.stage import Job, Order, stage
from tasks.runtime.stage_results import Results

SCHEMA = pa.schema([("n", pa.int64())])
SEEN: Counter[str] = Counter()
WATCHED: list[str] = []  # the folder under watch, if any


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHED and event in ("open", "sqlite3.connect") and str(arguments[0]).startswith(tuple(WATCHED)):
        SEEN[event] += 1


@contextmanager
def counted(folder: Path) -> Iterator[Counter[str]]:
    """Counts the files below a folder that Python opens, and connections to the database of digests."""
    SEEN.clear()
    WATCHED.extend((str(folder), str(cache_file())))
    try:
        yield SEEN
    finally:
        WATCHED.clear()


@pytest.fixture(scope="module", autouse=True)
def audited() -> None:
    sys.addaudithook(_hook)  # it cannot be removed, and does nothing outside of `counted`


@stage(config=lambda c: {}, results=Results(("expand",)), parts=("numbers", "halves"))
def sums(job: Job) -> None:
    """Adds two tables up, part by part."""
    rows = zip(read(job.table("numbers")), read(job.table("halves")), strict=True)
    job.keep("sums", SCHEMA, ({"n": a["n"] + b["n"]} for a, b in rows))


def filled(root: Path, count: int) -> dict[str, Ref]:
    """One input whose parts are files of it, and one whose parts are shards."""
    store = Store(root)
    with store.making("numbers", "a" * 20, {"label": "numbers"}) as draft:
        for part in range(count):
            write(draft.out / f"numbers-{part:05}.parquet", SCHEMA, [{"n": part}])
    shards = []
    for part in range(count):
        with store.making("halves.parts", f"{part:020x}", {"label": "halves"}) as draft:
            write(draft.out / "halves.parquet", SCHEMA, [{"n": 100 * part}])
        shard = store.find("halves.parts", f"{part:020x}")
        assert shard
        shards.append(shard.ref)
    with store.making("halves", "b" * 20, {"label": "halves"}) as draft:
        draft.shards = shards
    found = {"numbers": store.find("numbers", "a" * 20), "halves": store.find("halves", "b" * 20)}
    return {name: artifact.ref for name, artifact in found.items() if artifact}


def order(inputs: dict[str, Ref], part: int, store: Path) -> Order:
    config = Config(store=store, scenes={})  # type: ignore[arg-type]
    return Order(sums, "sums", config, inputs, {"stage": "sums.parts"}, f"{part:020x}", part=part)


def costs(root: Path, count: int) -> list[dict[str, int]]:
    """What each shard opens in a process that has opened nothing before."""
    inputs = filled(root, count)
    found = []
    verifier.cache_clear()
    for part in range(count):
        with counted(root) as seen:
            make_artifact(order(inputs, part, root), Store(root), logging.getLogger("test"))
        found.append(dict(seen))
        made = Store(root).find("sums.parts", f"{part:020x}")
        assert made and [row["n"] for row in read([made.folder / "sums.parquet"])] == [101 * part]
    return found


def test_a_shard_opens_as_many_files_whatever_the_number_of_shards(tmp_path: Path) -> None:
    few, many = costs(tmp_path / "few", 4), costs(tmp_path / "many", 24)
    for event in ("open", "sqlite3.connect"):
        assert max(each[event] for each in many) == max(each[event] for each in few)


def test_a_whole_artifact_is_looked_up_over_one_connection_and_then_remembered(tmp_path: Path) -> None:
    inputs = filled(tmp_path, 24)
    verifier.cache_clear()
    store = Store(tmp_path)
    with counted(tmp_path) as seen:
        assert len(store.open(inputs["halves"]).shards) == 24
    assert seen["sqlite3.connect"] == 1
    assert seen["open"] == 1 + 24, "the manifests alone; no file is hashed again"
    with counted(tmp_path) as seen:
        Store(tmp_path).open(inputs["halves"])
    assert not seen, "verified once in this process"


def test_a_lock_is_minded_while_rows_are_made_and_asked_for_strictly_before_they_are_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "Progress", partial(Progress, every=0.0))
    monkeypatch.setattr(Progress, "_show", lambda *_: None)  # there is no Prefect server
    asked: list[bool] = []

    def still(strict: bool = False) -> None:
        asked.append(strict)

    make.make_artifact(
        order(filled(tmp_path, 1), 0, tmp_path), Store(tmp_path), logging.getLogger("test"), still
    )
    assert asked == [False, True]


def test_a_damaged_part_is_seen_by_its_own_shard_and_by_whoever_wants_all(tmp_path: Path) -> None:
    inputs = filled(tmp_path, 3)
    store = Store(tmp_path)
    (store.folder("numbers", "a" * 20) / "numbers-00001.parquet").unlink()
    (store.folder("halves.parts", f"{2:020x}") / "halves.parquet").write_bytes(b"other")
    make_artifact(order(inputs, 0, tmp_path), store, logging.getLogger("test"))
    with pytest.raises(Damaged, match="numbers-00001"):
        make_artifact(order(inputs, 1, tmp_path), store, logging.getLogger("test"))
    with pytest.raises(Damaged, match=r"halves.parts/0+2: halves.parquet"):
        make_artifact(order(inputs, 2, tmp_path), store, logging.getLogger("test"))
    for ref in inputs.values():
        with pytest.raises(Damaged):
            store.open(ref)


def test_a_file_that_changes_after_it_was_seen_is_looked_at_again(tmp_path: Path) -> None:
    inputs = filled(tmp_path, 2)
    store = Store(tmp_path)
    store.open(inputs["numbers"])
    file = store.folder("numbers", "a" * 20) / "numbers-00000.parquet"
    file.write_bytes(bytes(len(file.read_bytes())))
    with pytest.raises(Damaged, match=r"numbers-00000.parquet was changed"):
        store.open(inputs["numbers"])
