"""The tables that stages write: the Arrow schema of each, and how Parquet files are written and read.

One record type (`core.records`) a table, one table a stage. A stage reads some tables and adds one:

| stage    | reads                     | writes            | one row is                              |
|----------|---------------------------|-------------------|-----------------------------------------|
| ingest   | the users' files          | `SAMPLES`         | one question about one image            |
| expand   | `SAMPLES`                 | `FOCUS`           | where the chain of one sample will look |
| depth    | `SAMPLES`                 | `MAPS`            | the depth map of one image              |
| annotate | `SAMPLES, FOCUS, MAPS`    | `CHAINS`          | the chain of one sample                 |
| publish  | all of the above          | `SIF`             | one row of SIF-50K                      |

Every stage also writes `REJECTS`. The rows that came in are the rows kept plus the rows rejected.

The fields mean what the records say: boxes are in 0..1 of the image itself, depths from 0 (nearest) to 1 (farthest).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# A depth map may have a megabyte, and a row of SIF-50K several. Both numbers bound what a row of any length costs.
_GROUP_BYTES = 64 * 2**20  # of pictures and maps in a row group, from which it is complete
_BATCH_BYTES = 8 * 2**20  # of rows that are turned into Python's objects at a time
_BATCH_ROWS = 256  # at most, however short they are

_BOX = pa.list_(pa.float64(), 4)
_REGION = pa.struct([("box", _BOX), ("depth", pa.float64())])
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

SAMPLES = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("image", pa.string()),
        ("image_sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("boxes", pa.list_(_BOX)),
    ]
)
FOCUS = pa.schema(
    [
        ("id", pa.string()),
        ("image_sha256", pa.string()),
        ("steps", pa.list_(pa.list_(_BOX))),
        ("distractor", pa.int32()),
    ]
)
MAPS = pa.schema(
    [("image_sha256", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("png", pa.binary())]
)
CHAINS = pa.schema(
    [
        ("id", pa.string()),
        ("steps", pa.list_(pa.list_(_REGION))),
        ("chain", pa.string()),
        ("model", pa.string()),
        ("attempts", pa.int32()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("repairs", pa.list_(pa.string())),
    ]
)
REJECTS = pa.schema(
    [
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("field", pa.string()),
    ]
)
# `datasets` reads this key of a Parquet file's schema and shows the two structs as pictures.
_FEATURES = {
    "info": {
        "features": {
            **{
                name: {"dtype": dtype, "_type": "Value"}
                for name, dtype in {
                    "id": "string",
                    "source": "string",
                    "dataset": "string",
                    "split": "string",
                    "question": "string",
                    "answer": "string",
                    "width": "int32",
                    "height": "int32",
                }.items()
            },
            "boxes": {
                "feature": {"feature": {"dtype": "float64", "_type": "Value"}, "length": 4, "_type": "List"},
                "_type": "List",
            },
            "image": {"_type": "Image"},
            "depth_image": {"mode": "RGB", "_type": "Image"},  # the PNG has a palette
            "depth_map": {"dtype": "binary", "_type": "Value"},
            "steps": {
                "feature": {
                    "feature": {
                        "box": {
                            "feature": {"dtype": "float64", "_type": "Value"},
                            "length": 4,
                            "_type": "List",
                        },
                        "depth": {"dtype": "float64", "_type": "Value"},
                    },
                    "_type": "List",
                },
                "_type": "List",
            },
            "chain": {"dtype": "string", "_type": "Value"},
            "model": {"dtype": "string", "_type": "Value"},
            "attempts": {"dtype": "int32", "_type": "Value"},
            "prompt_tokens": {"dtype": "int64", "_type": "Value"},
            "completion_tokens": {"dtype": "int64", "_type": "Value"},
        }
    }
}
SIF = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("boxes", pa.list_(_BOX)),
        ("image", _IMAGE),  # the photograph: the user's own bytes, or a PNG of its picture
        ("depth_image", _IMAGE),  # Spectral_r picture of the depth map, PNG
        ("depth_map", pa.binary()),  # lossless: 16-bit PNG, see DepthMap
        ("steps", pa.list_(pa.list_(_REGION))),
        ("chain", pa.string()),
        ("model", pa.string()),
        ("attempts", pa.int32()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
    ],
    metadata={"huggingface": json.dumps(_FEATURES)},
)


@cache
def _fields(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()


def _plain(value: Any) -> Any:
    """`dataclasses.asdict` without its copies of every number, which took a third of a data stage's time."""
    kind: Any = type(value)
    if names := _fields(kind):
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, tuple) and value and not isinstance(value[0], (int, float, str)):
        return [_plain(item) for item in value]
    return value


class Writer:
    """Streams dataclass records or dicts into a Parquet file.

    Equal records give equal bytes: no clock and no path enters the file.
    """

    def __init__(self, path: Path, schema: pa.Schema, batch: int = 1000) -> None:
        """Opens the file.

        Args:
            path: of the file; one that is there is replaced.
            schema: of its rows.
            batch: most rows of a row group, which are held in memory. Long rows make it complete earlier.
        """
        self.written = 0
        self._held = 0
        self._schema = schema
        self._batch = batch
        self._chunk: list[dict[str, Any]] = []
        self._file: pq.ParquetWriter | None = pq.ParquetWriter(path, schema, compression="zstd")

    def __enter__(self) -> Writer:
        """The writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Completes the file; after an exception it only closes it, so that the exception is the one reported."""
        if kind is None:
            self.close()
            return
        if self._file:
            with suppress(OSError, pa.ArrowException):  # full disk: report the first error
                self._file.close()

    def add(self, record: Any) -> None:
        """Adds one row.

        Raises:
            ValueError: the file was completed before.
        """
        if self._file is None:
            raise ValueError("the file is complete: a row came for a part that was done")
        row = record if isinstance(record, dict) else _plain(record)
        self._chunk.append(row)
        self._held += _length(row)
        self.written += 1
        if len(self._chunk) == self._batch or self._held >= _GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Completes the file. Calling it again does nothing.

        It also lets go of Arrow's writer, which keeps the footer in memory: about 1 kB for each column chunk.
        """
        if self._file:
            self._flush()
            self._file.close()
            self._file = None

    def _flush(self) -> None:
        if self._chunk and self._file:
            self._file.write_table(pa.Table.from_pylist(self._chunk, schema=self._schema))
            self._chunk = []
            self._held = 0


def _length(row: dict[str, Any]) -> int:
    """Bytes of a row's pictures and maps; everything else is short."""
    held = 0
    for value in row.values():
        if isinstance(value, bytes):
            held += len(value)
        elif isinstance(value, dict):
            held += _length(value)
    return held


def write(path: Path, schema: pa.Schema, records: Iterable[Any], batch: int = 1000) -> int:
    """Writes dataclass records or dicts into a Parquet file (see `Writer`) and returns how many there were."""
    with Writer(path, schema, batch) as writer:
        for record in records:
            writer.add(record)
    return writer.written


def read(paths: Path | Iterable[Path], columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yields the rows of Parquet files as dicts. At most one row group is in memory at a time, and few of its rows as dicts.

    Args:
        paths: one file, or several in order.
        columns: names of the columns to read; None reads all.
    """
    for path in [paths] if isinstance(paths, Path) else paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield from rows_of_group(file, group, columns)


def rows_of_group(
    file: pq.ParquetFile, group: int, columns: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yields the rows of one row group as dicts, about 8 MB of them in memory at a time."""
    of = file.metadata.row_group(group)
    chunks = (of.column(index) for index in range(of.num_columns))
    size = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if columns is None or chunk.path_in_schema.partition(".")[0] in columns
    )
    fitting = _BATCH_BYTES * of.num_rows // max(1, size)
    batch_rows = min(max(1, fitting), _BATCH_ROWS)
    # Without `row_groups` Arrow fills a batch from as many row groups as it takes.
    for batch in file.iter_batches(batch_size=batch_rows, row_groups=[group], columns=columns):
        yield from batch.to_pylist()
