"""Exactly N chains: the shortest beginning of the draw that has them, whatever order the replies come in."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.annotation.annotate import NOT_NEEDED
from sifthinker.annotation.wanted import Wanted, shares
from sifthinker.config import Config, parse
from sifthinker.core.errors import UserError
from sifthinker.core.records import Annotation, Reject
from sifthinker.llm import standin
from tasks.stages import annotate as stage
from tests import annotation_rows as rows


@pytest.mark.parametrize(("most", "concurrency"), [(10, 1), (10, 32), (1, 8), (0, 8)])
def test_no_row_is_asked_that_is_not_needed(tmp_path: Path, most: int, concurrency: int) -> None:
    with standin.running(tmp_path / "log", {"wrong-depths": 0.4}, latency=0.01, jitter=1) as url:
        config = rows.settings(concurrency=concurrency).model_copy(update={"attempts": 1})
        all_ = list(rows.run(tmp_path, 30, url, tmp_path / "all.db", config))
        before = standin.counts(url)["requests"]
        some = list(rows.run(tmp_path, 30, url, tmp_path / "some.db", config, most=most))
        asked = standin.counts(url)["requests"] - before
    kept = [number for number, row in enumerate(all_) if isinstance(row, Annotation)]
    end = kept[most - 1] + 1 if most else 0
    assert some[:end] == all_[:end]
    assert asked == end
    assert all(isinstance(row, Reject) and row.reason == NOT_NEEDED for row in some[end:])
    assert len(some) == 30


def test_a_draw_that_is_too_small_gives_what_it_has(tmp_path: Path) -> None:
    with standin.running(tmp_path / "log", {"wrong-depths": 0.4}) as url:
        config = rows.settings().model_copy(update={"attempts": 1})
        all_ = list(rows.run(tmp_path, 10, url, tmp_path / "calls.db", config))
        assert list(rows.run(tmp_path, 10, url, tmp_path / "calls.db", config, most=10)) == all_
    assert sum(isinstance(row, Annotation) for row in all_) < 10


def test_an_error_of_a_row_ends_the_waiting() -> None:
    wanted = Wanted(1)
    row: Future[object] = Future()
    wanted.add(row)
    threading.Timer(0.05, lambda: row.set_exception(UserError("the budget is spent"))).start()
    with pytest.raises(UserError, match="the budget"):
        wanted.more()


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=80), st.integers(0, 5000))
def test_the_shares_add_up_and_are_in_proportion(counts: list[int], most: int) -> None:
    found = shares(most, counts)
    if not sum(counts):
        assert found == [None] * len(counts)
        return
    assert sum(share or 0 for share in found) == most
    for share, count in zip(found, counts, strict=True):
        assert abs((share or 0) - most * count / sum(counts)) < 1


def test_without_a_number_every_row_is_wanted() -> None:
    assert shares(None, [3, 4]) == [None, None]
    wanted = Wanted(None)
    wanted.add(Future())
    assert wanted.more()


def test_how_many_are_asked_does_not_depend_on_time() -> None:
    random.seed(1)
    for _ in range(20):
        accepts = [random.random() < 0.5 for _ in range(60)]
        wanted, asked = Wanted(12), 0
        for accepted in accepts:
            if not wanted.more():
                break
            row: Future[object] = Future()
            wanted.add(row)
            asked += 1
            value = (
                Annotation("x", (), "", "m", 1, 1, 1, ())
                if accepted
                else Reject("annotate", "x", "", "x", "s")
            )
            threading.Timer(random.random() / 500, row.set_result, (value,)).start()
        ends = [n for n, accepted in enumerate(accepts, 1) if sum(accepts[:n]) == 12]
        assert asked == (ends[0] if ends else 60)
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("fields", "total"),
    [
        ({"publish": {"rows": 100}}, 150),
        ({"publish": {"rows": 7}}, 11),
        ({"publish": {"rows": 100}, "ingest": {"total": 120}}, 120),
        ({"publish": {"rows": 100}, "ingest": {"shards": 2}}, 150),
        ({"ingest": {"shards": 2}}, 50_000),
        ({"publish": {"rl_samples": 3}}, 50_000),
    ],
)
def test_the_draw_leaves_room_for_rejects_unless_it_is_given(fields: dict[str, object], total: int) -> None:
    made = Config.model_validate({"scenes": {}, **fields})
    assert made.ingest.total == total
    assert Config.model_validate(made.model_dump()) == made


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"publish": {"rows": 100}, "ingest": {"total": 99}}, "set it to at least 150"),
        ({"publish": {"rows": 100}, "retry": {"passes": [{"seed": 1}]}}, "exclude each other"),
        ({"publish": {"rows": 0}}, "at least 1"),
        ({"publish": {"rows": "many"}}, "whole number"),
        ({"publish": {"rows": True}}, "must be a number"),
        ({"publish": {"rows": 100}, "ingest": 3}, "must be a section"),
    ],
)
def test_what_cannot_be_held_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse({"scenes": {}, **fields}, "mine.yaml")


@pytest.mark.parametrize(
    ("kept", "spared", "words"),
    [
        (100, 12, "100 chains are accepted, 12 rows of the draw were not needed"),
        (
            90,
            0,
            "90 of 100 chains: all 150 rows of the draw are used up; set ingest.total higher to draw more",
        ),
        (150, 0, ""),
    ],
)
def test_the_stage_says_whether_there_are_as_many_as_are_wanted(kept: int, spared: int, words: str) -> None:
    fields = {"rows": 100} if words else {}
    said: list[str] = []
    rows_ = {"in": 150, "kept": kept, "rejected": {NOT_NEEDED: spared} if spared else {}}
    job = SimpleNamespace(
        config=Config.model_validate({"scenes": {}, "publish": fields}),
        draft=SimpleNamespace(rows=rows_),
        notes={},
        order=SimpleNamespace(label="annotate"),
        log=SimpleNamespace(
            info=lambda text, *values: said.append(f"info {text % values}"),
            warning=lambda text, *values: said.append(f"warning {text % values}"),
        ),
    )
    stage._say_how_many(job)  # type: ignore[arg-type]
    if not words:
        assert not said and not job.notes
        return
    level = "info" if kept == 100 else "warning"
    assert said == [f"{level} annotate: {job.notes['rows_wanted']}"]
    assert job.notes["rows_wanted"].startswith(f"publish.rows: {words}")
