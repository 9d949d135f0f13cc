"""ingest in several processes: the files, rejects and counts of one, however its work is spread and whenever it ends."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sifthinker.config import Config, Ingest, Source
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.core.tables import REJECTS, Writer, read
from sifthinker.data import ingest, ingest_work
from sifthinker.data.sources import files
from sifthinker.system.cores import Workers
from tests.data import mixed_sources

# Of the files that ingest made of `mixed_sources` before it worked in several processes (commit 468d2a4). Since then one
# reject has another reason, "excluded" in the place of "duplicate-id", and duplicates stand among the rows in line.
BEFORE = "11699f08b4fd8723f06c1e2a6b5859b28d5728a136698cce94e4b229ddbf92fb"
COUNTED = {
    "sound": {"opened": 152, "closed": 150, "published": 60},
    "tried": {"opened": 71, "closed": 72, "published": 35},
    "kept": {"opened": 56, "closed": 65, "published": 29},
}


def written(
    sources: list[Source], out: Path, workers: Workers, settings: Ingest = mixed_sources.SETTINGS
) -> tuple[ingest.Tally, Counter[str]]:
    """Ingests into files in `out`, as the stage does, and counts rejects by reason."""
    out.mkdir()
    tally, rejected = ingest.Tally(), Counter[str]()
    samples, given = (
        [out / f"{name}-{part:05}.parquet" for part in range(settings.shards)]
        for name in ("samples", "given")
    )
    kept = 0
    with workers, Writer(out / "rejects.parquet", REJECTS) as rejects:
        for outcome in ingest.write(sources, settings, samples, given, workers, tally):
            if isinstance(outcome, Reject):
                rejects.add(outcome)
                rejected[outcome.reason] += 1
            else:
                kept += outcome
    assert kept == tally.kept.total() == sum(pq.read_metadata(file).num_rows for file in samples)
    return tally, rejected


class Late(Workers):
    """Does everything in this process, but says that several pieces of work are under way, and does them late."""

    def __init__(self, ahead: int) -> None:
        super().__init__(1)
        self._ahead = ahead
        self._asked: dict[int, Callable[[], Any]] = {}

    @property
    def ahead(self) -> int:
        return self._ahead

    def submit(self, work: Any, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._asked[id(future)] = lambda: work(*args, **kwargs)
        return future

    def result(self, future: Future[Any]) -> Any:
        return self._asked.pop(id(future))()


def test_the_files_are_those_from_before_there_were_several_processes(tmp_path: Path) -> None:
    sources = mixed_sources.sources(tmp_path / "in")
    tally, _ = written(sources, tmp_path / "out", Workers(1))
    assert mixed_sources.contents(tmp_path / "out") == BEFORE
    assert {name: getattr(tally, name) for name in COUNTED} == COUNTED


@pytest.mark.parametrize(
    ("chunk", "stretch", "batch", "ahead"),
    [(1, 400, 1, 1), (7, 1_000, 3, 2), (50, 2**20, 16, 5), (500, 5_000, 8, 40)],
)
def test_they_do_not_depend_on_how_the_work_is_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, stretch: int, batch: int, ahead: int
) -> None:
    sources = mixed_sources.sources(tmp_path / "in")
    monkeypatch.setattr(ingest, "BATCH", batch)  # which decides the order of the rejects
    first, _ = written(sources, tmp_path / "one", Workers(1))
    monkeypatch.setattr(ingest, "CHUNK", chunk)
    monkeypatch.setattr(files, "CHUNK", stretch)
    second, _ = written(sources, tmp_path / "other", Late(ahead))
    assert mixed_sources.digests(tmp_path / "one") == mixed_sources.digests(tmp_path / "other")
    assert first == second


@pytest.mark.parametrize("seed", range(6))
def test_the_caps_leave_the_same_rows_when_images_are_known_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    draw = random.Random(seed)
    sources = mixed_sources.sources(tmp_path / "in")[:1]
    for image in draw.sample(sorted((tmp_path / "in" / "images").iterdir()), draw.randrange(9)):
        image.write_bytes(b"broken")
    settings = Ingest(cap=draw.randint(1, 60), total=draw.randint(1, 90), seed=seed, shards=2)
    monkeypatch.setattr(ingest, "BATCH", draw.choice([2, 5, 11]))
    monkeypatch.setattr(ingest, "_HELD", draw.choice([1, 4, 1000]))
    first, _ = written(sources, tmp_path / "one", Workers(1), settings)
    second, _ = written(sources, tmp_path / "other", Late(draw.randint(2, 9)), settings)
    assert mixed_sources.digests(tmp_path / "one") == mixed_sources.digests(tmp_path / "other")
    assert first == second


def test_a_process_has_few_images_in_memory_however_many_cores_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, lock, now, most = ingest_work.look, threading.Lock(), Counter[str](), Counter[str]()

    def counted(*given: Any) -> Any:
        with lock:
            now["open"] += 1
            most["open"] = max(most["open"], now["open"])
        time.sleep(0.02)
        found = look(*given)
        with lock:
            now["open"] -= 1
        return found

    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(ingest_work, "look", counted)
    written(mixed_sources.sources(tmp_path / "in"), tmp_path / "out", Workers(1))
    assert 1 < most["open"] <= 4


@pytest.mark.e2e
def test_three_processes_write_the_files_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = mixed_sources.sources(tmp_path / "in")
    monkeypatch.setattr(ingest, "CHUNK", 20)
    monkeypatch.setattr(files, "CHUNK", 2_000)
    monkeypatch.setattr(ingest, "BATCH", 16)
    one, _ = written(sources, tmp_path / "one", Workers(1))
    three, _ = written(sources, tmp_path / "three", Workers(3, patience=0))
    assert mixed_sources.digests(tmp_path / "one") == mixed_sources.digests(tmp_path / "three")
    assert one == three


@pytest.mark.e2e
def test_what_a_process_finds_wrong_with_a_source_is_told_as_one_tells_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"dataset": "gqa", "conversations": []}]')
    source = Source(name="s", format="viscot", path=path)
    for number, workers in enumerate((Workers(1), Workers(2, patience=0))):
        with pytest.raises(UserError, match="conversations hold no image sizes"):
            written([source], tmp_path / str(number), workers)


def conversation(number: int, **more: Any) -> dict[str, Any]:
    turns = ["What is it?", "[0.1, 0.3, 0.5, 0.6]", "<image>", "A cat"]
    return {
        "dataset": "gqa",
        "split": "train",
        "question_id": number,
        "image": ["cot/gqa/1.jpg", "cot/gqa/1.jpg###[10, 5, 50, 35]"],
        "conversations": [
            {"from": ("human", "gpt")[turn % 2], "value": text} for turn, text in enumerate(turns)
        ],
        **more,
    }


@pytest.mark.parametrize("seed", range(4))
def test_who_of_many_with_one_id_is_kept_does_not_depend_on_how_the_work_is_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    draw = random.Random(seed)
    one, *_ = mixed_sources.sources(tmp_path / "in")
    row = json.loads(one.path.read_text(errors="replace").splitlines()[0])
    # Image 3 is broken, and there is no image 12.
    rows = [
        row
        | {"question_id": draw.randrange(40), "image": f"{draw.choice([3, 12, 1, 2])}.bmp", "dataset": "gqa"}
        for _ in range(150)
    ]
    one.path.write_text("\n".join(map(json.dumps, rows)))
    first: dict[int, int] = {}  # good row of each id
    for number, each in enumerate(rows, 1):
        if each["image"] in ("1.bmp", "2.bmp"):
            first.setdefault(each["question_id"], number)
    for cap in (200, len(first), 15):
        folders = []
        for batch, ahead in ((1, 1), (5, 1), (5, 4), (1_000, 9)):
            monkeypatch.setattr(ingest, "BATCH", batch)
            folders.append(tmp_path / f"{cap}-{batch}-{ahead}")
            _, rejected = written([one], folders[-1], Late(ahead), Ingest(cap=cap, shards=2, seed=seed))
            reasons = {each["row"]: each["reason"] for each in read(folders[-1] / "rejects.parquet")}
            kept = set(range(1, 151)) - reasons.keys()
            assert len(reasons) == rejected.total() and len(kept) == min(cap, len(first))
            assert kept <= set(first.values())
            folders[-1].joinpath("reasons.json").write_text(json.dumps(sorted(reasons.items())))
        assert len({folder.joinpath("reasons.json").read_text() for folder in folders}) == 1
        assert len({json.dumps(mixed_sources.digests(folder)) for folder in folders[1:3]}) == 1


DAMAGE: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "cut off": lambda text: text[: len(text) // 2],
    "no JSON": lambda text: text.replace('"question_id": 60,', '"question_id": 60'),
    "an array that ends early": lambda text: text.replace(', {"dataset": "gqa", "split": "b"', "]", 1),
    "not cut where rows begin": lambda text: text.replace('"split": "b"', '"split": [{"dataset": 1}]'),
    "rows that begin in another way": lambda text: text.replace(
        '{"dataset": "gqa", "split": "b", ', '{"split": "b", "dataset": "gqa", '
    ),
    "bad and repeated rows": lambda text: text.replace('"question_id": 61', '"question_id": 3').replace(
        '"question_id": 70', '"question_id": null'
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_large_array_is_ingested_as_if_it_were_read_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    path, sizes = tmp_path / "rows.json", tmp_path / "sizes.jsonl"
    rows = [conversation(number, **({"split": "b"} if 55 <= number < 58 else {})) for number in range(100)]
    text = json.dumps(rows)
    path.write_text(DAMAGE[damage](text))
    assert damage == "none" or path.read_text() != text
    sizes.write_text(json.dumps({"img_path": "cot/gqa/1.jpg", "width": 100, "height": 60}))
    source = Source(name="s", format="viscot", path=path, sizes=sizes)
    told = []
    monkeypatch.setattr(ingest, "CHUNK", 9)
    for number, (stretch, ahead) in enumerate([(2**24, 1), (3_000, 1), (3_000, 4), (1_000, 9)]):
        monkeypatch.setattr(files, "CHUNK", stretch)
        ended = ""
        try:
            written([source], tmp_path / str(number), Late(ahead), Ingest(shards=3, cap=50))
        except UserError as error:
            ended = str(error)
        told.append((ended, mixed_sources.digests(tmp_path / str(number))))
    assert [one for one in told if one != told[0]] == []
    assert bool(told[0][0]) == (damage in ("cut off", "no JSON", "an array that ends early"))


def test_500_parts_are_500_files_and_more_are_allowed(tmp_path: Path) -> None:
    sources = mixed_sources.sources(tmp_path / "in")[1:2]
    config = Config(sources=tuple(sources), ingest=Ingest(shards=500))
    _, rejected = written(sources, tmp_path / "out", Workers(1), config.ingest)
    files = sorted((tmp_path / "out").glob("samples-*.parquet"))
    assert len(files) == 500 and files[-1].name == "samples-00499.parquet"
    assert sum(pq.read_metadata(file).num_rows for file in files) == 150 - rejected.total()
    assert Ingest(shards=2_000).shards == 2_000
