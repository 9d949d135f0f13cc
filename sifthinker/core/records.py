"""The records that go through the pipeline, and the Arrow schema of every stage's output.

One record type a table, one table a stage; a stage reads some and adds one:

| stage    | reads                     | writes            | one row is                              |
|----------|---------------------------|-------------------|-----------------------------------------|
| ingest   | the users' files          | `SAMPLES`         | one question about one image            |
| expand   | `SAMPLES`                 | `FOCUS`           | where the chain of one sample will look |
| depth    | `SAMPLES`                 | `MAPS`            | the depth map of one image              |
| annotate | `SAMPLES, FOCUS, MAPS`    | `CHAINS`          | the chain of one sample                 |
| publish  | all of the above          | `SIF`             | one row of SIF-50K                      |

Every stage also writes `REJECTS`; rows in = rows kept + rows rejected.

Boxes are `(x1, y1, x2, y2)` in 0..1 of the image itself everywhere in here, with x2 > x1 and y2 > y1.
Depths are 0 (nearest pixel of the image) to 1 (farthest).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one image, with the boxes of what answers it."""

    id: str  # unique in the data set and the same in every run: "<source>/<dataset>/<n>"
    source: str  # name of the configured source, which knows the folder of its images
    dataset: str  # "gqa", "cub", "tallyqa", ...
    split: str
    question: str
    answer: str
    image: str  # path relative to the source's image folder
    image_sha256: str  # of the file's bytes; "" where images were not opened
    width: int  # pixels
    height: int  # pixels
    boxes: tuple[Box, ...]  # ground truth, at least one


@dataclass(frozen=True, slots=True)
class Focus:
    """Where a chain looks, in the order in which it looks: whole image first, ground truth last."""

    id: str
    image_sha256: str
    steps: tuple[tuple[Box, ...], ...]  # 3 decimals
    distractor: int  # index in `steps` of the distractor, -1 for none


@dataclass(frozen=True, slots=True)
class DepthMap:
    """A lossless depth map: (height, width), 16-bit grey PNG, 0 = nearest, 65535 = farthest."""

    image_sha256: str
    width: int
    height: int
    png: bytes


@dataclass(frozen=True, slots=True)
class Region:
    """A box and the mean depth inside it (3 decimals)."""

    box: Box
    depth: float


@dataclass(frozen=True, slots=True)
class Annotation:
    """The chain of one sample, as it was accepted from the annotator."""

    id: str
    steps: tuple[tuple[Region, ...], ...]  # what was asked for: Focus.steps with depths
    chain: str  # canonical text, chain.render(chain.parse(reply))
    model: str  # as the server named it
    attempts: int  # calls it took, 1 = accepted at once
    prompt_tokens: int  # over all attempts
    completion_tokens: int
    repairs: tuple[str, ...]  # what was mended exactly, e.g. "fence", "depth-rounding"


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that a stage did not keep, and why."""

    stage: str
    reason: str  # short and countable: "box-outside", "image-missing", "not-sampled"
    detail: str  # for a person: what was found, where, what to do
    id: str = ""  # of the sample, where there is one
    source: str = ""
    file: str = ""  # name of the file it came from, without its folder
    row: int = -1  # line (from 1) of a JSONL file, index (from 0) of a JSON array; -1 where there is none
    field: str = ""


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
        ("image", _IMAGE),  # the photograph, the file's own bytes
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
    """Streams dataclass records or dicts into a Parquet file, `batch` rows a row group.

    Equal records give equal bytes: no clock and no path enters the file.
    """

    def __init__(self, path: Path, schema: pa.Schema, batch: int = 1000) -> None:
        self.written = 0
        self._schema = schema
        self._batch = batch
        self._chunk: list[dict[str, Any]] = []
        self._file: pq.ParquetWriter | None = pq.ParquetWriter(path, schema, compression="zstd")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        if self._file:
            with suppress(OSError, pa.ArrowException):  # a full disk: its first error is the one to be told
                self._file.close()

    def add(self, record: Any) -> None:
        if self._file is None:
            raise ValueError("the file is complete: a row came for a part that was done")
        self._chunk.append(record if isinstance(record, dict) else _plain(record))
        self.written += 1
        if len(self._chunk) == self._batch:
            self._flush()

    def close(self) -> None:
        """Completes the file, once; nothing of it stays in memory (Arrow's writer keeps its footer, a kB a column chunk)."""
        if self._file:
            self._flush()
            self._file.close()
            self._file = None

    def _flush(self) -> None:
        if self._chunk and self._file:
            self._file.write_table(pa.Table.from_pylist(self._chunk, schema=self._schema))
            self._chunk = []


def write(path: Path, schema: pa.Schema, records: Iterable[Any], batch: int = 1000) -> int:
    """Writes records into a Parquet file, see `Writer`; returns how many."""
    with Writer(path, schema, batch) as writer:
        for record in records:
            writer.add(record)
    return writer.written


def read(paths: Path | Iterable[Path], columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of Parquet files as dicts, one row group in memory at a time."""
    for path in [paths] if isinstance(paths, Path) else paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256, columns=columns):
                yield from batch.to_pylist()


def sample(row: Mapping[str, Any]) -> Sample:
    """The `Sample` of a row of `SAMPLES`."""
    return Sample(**{**row, "boxes": boxes(row["boxes"])})


def focus(row: Mapping[str, Any]) -> Focus:
    """The `Focus` of a row of `FOCUS`."""
    return Focus(**{**row, "steps": tuple(boxes(step) for step in row["steps"])})


def annotation(row: Mapping[str, Any]) -> Annotation:
    """The `Annotation` of a row of `CHAINS`."""
    steps = tuple(
        tuple(Region(tuple(region["box"]), region["depth"]) for region in step) for step in row["steps"]
    )
    return Annotation(**{**row, "steps": steps, "repairs": tuple(row["repairs"])})


def boxes(values: Iterable[Iterable[float]]) -> tuple[Box, ...]:
    """Lists of four numbers as boxes."""
    return tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in values)
