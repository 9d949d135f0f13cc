"""How much of a table is in memory, and that its rows are the same however few are read at a time."""

import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sifthinker.core import tables

MB = 2**20


def maps(path: Path, count: int, size: int, group: int) -> list[dict[str, object]]:
    rows = [
        {"image_sha256": str(number), "width": 1, "height": 1, "png": os.urandom(size)}
        for number in range(count)
    ]
    tables.write(path, tables.MAPS, rows, group)
    return rows


def test_of_long_rows_one_row_group_is_in_memory_and_a_few_rows_as_objects(tmp_path: Path) -> None:
    path = tmp_path / "maps.parquet"
    maps(path, 64, MB, 8)  # 8 MB a row group
    tracemalloc.start()
    try:
        before = pa.total_allocated_bytes()
        rows = tables.read(path)
        next(rows)
        arrow, objects = pa.total_allocated_bytes() - before, tracemalloc.get_traced_memory()[0]
        rows.close()
    finally:
        tracemalloc.stop()
    assert (
        arrow < 40 * MB
    )  # a row group as it is in the file, decompressed, and decoded; not the 64 MB of the file
    assert objects < 10 * MB


def test_a_row_group_is_complete_with_so_many_bytes_or_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_GROUP_BYTES", 10_000)
    path = tmp_path / "maps.parquet"
    for size, groups in ((10, [4, 4, 1]), (4_000, [3, 3, 3]), (20_000, [1] * 9)):
        expected = maps(path, 9, size, 4)
        found = pq.ParquetFile(path).metadata
        assert [found.row_group(number).num_rows for number in range(found.num_row_groups)] == groups
        assert list(tables.read(path)) == expected


def test_the_bytes_of_a_picture_count_where_they_are_in_a_struct(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_GROUP_BYTES", 10_000)
    rows = [{"id": str(number), "image": {"bytes": bytes(6_000), "path": "a.png"}} for number in range(4)]
    tables.write(tmp_path / "sif.parquet", tables.SIF, rows)
    assert pq.read_metadata(tmp_path / "sif.parquet").num_row_groups == 2


@pytest.mark.parametrize("columns", [None, ["image_sha256"], ["png"]])
@pytest.mark.parametrize("budget", [1, 3_000, 10**9])
def test_rows_are_the_same_however_few_are_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: list[str] | None, budget: int
) -> None:
    path, empty = tmp_path / "maps.parquet", tmp_path / "empty.parquet"
    expected = maps(path, 9, 1_000, 4)
    maps(empty, 0, 1, 4)
    monkeypatch.setattr(tables, "_BATCH_BYTES", budget)
    found = list(tables.read([path, empty, path], columns))
    assert found == [{name: row[name] for name in columns or row} for row in expected] * 2


def test_of_a_large_row_group_few_rows_are_objects_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "maps.parquet"
    maps(path, 32, MB, 32)
    tracemalloc.start()
    try:
        rows = tables.read(path)
        next(rows)
        objects = tracemalloc.get_traced_memory()[0]
        rows.close()
    finally:
        tracemalloc.stop()
    assert objects < 10 * MB
