"""The history of nights and the names of checkpoints: whole or not at all, and who did it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.evaluation import history
from sifthinker.store import aliases
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref

START = datetime(2026, 11, 1, 1, 30, tzinfo=UTC)


def row(night: int, outcome: str = history.PASSED, target: str = "promoted", **values: Any) -> dict[str, Any]:
    common = {
        "night": f"n{night}",
        "started": START + timedelta(days=night),
        "target": target,
        "outcome": outcome,
    }
    return {
        **dict.fromkeys(history.NIGHTS.names),
        "benchmark": "vstar",
        "metric": "overall",
        **common,
        **values,
    }


def test_nights_are_read_in_order_however_they_were_added(tmp_path: Path) -> None:
    for night in (2, 0, 1):
        history.append(tmp_path, f"n{night}", [row(night, strict=0.5), row(night, metric="other")])
    assert [r["night"] for r in history.read(tmp_path)] == ["n0", "n0", "n1", "n1", "n2", "n2"]
    assert len(pd.read_parquet(tmp_path)) == 6  # a folder that others can read too


def test_a_night_written_again_replaces_itself(tmp_path: Path) -> None:
    history.append(tmp_path, "n0", [row(0, history.NOT_RUN)])
    history.append(tmp_path, "n0", [row(0, history.PASSED)])
    assert [r["outcome"] for r in history.read(tmp_path)] == [history.PASSED]


def test_a_night_that_fails_while_it_is_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.append(tmp_path, "n0", [row(0)])

    def broken(path: Path, *_: Any) -> int:
        path.write_bytes(b"half of a file")
        raise OSError("disk full")

    monkeypatch.setattr(tables, "write", broken)
    with pytest.raises(OSError, match="disk full"):
        history.append(tmp_path, "n1", [row(1)])
    assert [path.name for path in tmp_path.iterdir()] == ["n0.parquet"]


def test_good_nights_are_of_the_same_checkpoint_passed_and_later_than_the_pin(tmp_path: Path) -> None:
    rows = [row(0), row(1), row(2, history.REGRESSED), row(3, history.NOT_RUN), row(4, target="other")]
    assert [r["night"] for r in history.good(rows, "promoted")] == ["n1", "n0"]
    since = (START + timedelta(hours=12)).timestamp()
    assert [r["night"] for r in history.good(rows, "promoted", since)] == ["n1"]


def test_a_headline_is_the_average_or_all_there_is() -> None:
    metrics = [("vstar", "attributes"), ("vstar", "overall"), ("refcoco", "testA"), ("refcoco", "testB")]
    rows = [row(0, benchmark=benchmark, metric=metric, strict=0.5) for benchmark, metric in metrics]
    assert history.headlines(rows) == [metrics[1], metrics[2], metrics[3]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    for key in ("aa", "bb"):
        with store.making("merge", key, {}) as draft:
            (draft.out / "model").write_text(key)
    return store


def ref(store: Store, key: str) -> Ref:
    found = store.find("merge", key)
    assert found
    return found.ref


def test_an_alias_says_which_who_when_and_why_and_what_it_was_before(store: Store) -> None:
    aliases.pin(store, "baseline", ref(store, "aa"), "ada", "first")
    aliases.pin(store, "baseline", ref(store, "bb"), "bob", " better ")
    record = aliases.read(store, "baseline")
    assert record
    assert (record["ref"], record["who"], record["why"]) == (ref(store, "bb").model_dump(), "bob", "better")
    assert [(e["ref"]["key"], e["who"], e["why"]) for e in record["earlier"]] == [("aa", "ada", "first")]
    assert record["when"] >= record["earlier"][0]["when"]


@pytest.mark.parametrize(
    ("name", "key", "why", "message"),
    [
        ("latest", "aa", "x", "'latest' is taken"),
        ("../up", "aa", "x", "use lower-case letters"),
        ("baseline", "aa", " ", "say why"),
        ("baseline", "cc", "x", "merge/cc is not in the store"),
    ],
)
def test_an_alias_that_cannot_be_is_refused(
    store: Store, name: str, key: str, why: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        aliases.pin(store, name, Ref(stage="merge", key=key, digest="d"), "ada", why)
    assert aliases.read(store, name) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"ref": 3}', '{"who": "ada"}'])
def test_a_damaged_record_of_an_alias_is_told_with_its_file_and_what_to_do(
    store: Store, content: str
) -> None:
    aliases.pin(store, "baseline", ref(store, "aa"), "ada", "first")
    path = store.root / "aliases" / "baseline.json"
    path.write_text(content)
    with pytest.raises(
        UserError, match=r"baseline\.json: is no record of an alias .*`sif promote RUN --as baseline"
    ):
        aliases.read(store, "baseline")
    path.unlink()
    assert aliases.pin(store, "baseline", ref(store, "bb"), "bob", "again")["earlier"] == []
