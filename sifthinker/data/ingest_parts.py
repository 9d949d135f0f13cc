"""The files that ingest writes: a table's rows, part by part.

One file is open at a time. Arrow keeps the footer of an open file in memory, about 1 kB for each column of a row group: with
all parts open at once that grows with the rows, by 140 bytes each in 500 parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Self

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from sifthinker.system.cores import Workers

_TOGETHER = 1_000  # rows that are made tables of in one go, at least


@dataclass
class Groups:
    """Row groups of a table: of each its part and its rows, JSON."""

    schema: pa.Schema
    groups: list[tuple[int, list[bytes]]]


def write_parts(
    rows: Iterable[tuple[int, bytes]],
    schema: pa.Schema,
    files: Sequence[Path],
    batch: int,
    workers: Workers,
) -> Iterator[int]:
    """Writes the files of all parts, and says now and then how many rows more are written.

    Args:
        rows: with the part of each, part by part.
        schema: of the table.
        files: one a part.
        batch: rows of a row group.
        workers: make Arrow's tables of the rows.
    """
    with _Parts(files, schema) as out:
        for tables in workers.map(make_tables, _groups(rows, schema, batch)):
            for part, table in tables:
                out.write(part, table)
                yield table.num_rows


def make_tables(given: Groups) -> list[tuple[int, pa.Table]]:
    """The rows as Arrow's tables."""
    return [
        (part, pa.Table.from_pylist(list(map(orjson.loads, rows)), schema=given.schema))
        for part, rows in given.groups
    ]


def _groups(rows: Iterable[tuple[int, bytes]], schema: pa.Schema, batch: int) -> Iterator[Groups]:
    groups: list[tuple[int, list[bytes]]] = []
    held = 0
    for part, of in groupby(rows, key=lambda row: row[0]):
        while group := [row for _, row in islice(of, batch)]:
            groups.append((part, group))
            held += len(group)
            if held >= _TOGETHER:
                yield Groups(schema, groups)
                groups, held = [], 0
    if groups:
        yield Groups(schema, groups)


class _Parts:
    """The files of all parts, written one after another; a part without rows has a file, too."""

    def __init__(self, files: Sequence[Path], schema: pa.Schema) -> None:
        self._files = files
        self._schema = schema
        self._at = -1
        self._open: pq.ParquetWriter | None = None

    def write(self, part: int, table: pa.Table) -> None:
        self._go_to(part)
        assert self._open
        self._open.write_table(table)

    def _go_to(self, part: int) -> None:
        assert part >= self._at, "rows come part by part"
        while self._at < part:
            self._close()
            self._at += 1
            if self._at < len(self._files):
                # As `tables.Writer` does, which makes the tables itself.
                self._open = pq.ParquetWriter(self._files[self._at], self._schema, compression="zstd")

    def _close(self) -> None:
        if self._open:
            self._open.close()
            self._open = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._go_to(len(self._files))
        else:
            self._close()
