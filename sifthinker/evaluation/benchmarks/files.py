"""Reading the files of benchmarks: what is missing, what is broken, row by row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sifthinker import config
from sifthinker.core import errors, images, tables
from sifthinker.core.errors import BadRow
from sifthinker.core.records import Box, Reject
from sifthinker.evaluation.benchmarks.question import Missing

MAX_PIXELS = config.Ingest().max_pixels  # an image beyond is rejected unopened, as in ingest
_DIGITS, _LARGEST = 18, 1e9  # of a whole number; of a number of a box


def find(source: config.Benchmark, name: str, published: str) -> Path:
    """The file `name` of a benchmark: `source.path` itself when that is a file, else inside that folder.

    Raises:
        Missing: it is not there.
    """
    path = source.path if source.path.is_file() else source.path / name
    if not path.is_file():
        raise Missing(f"{source.name}: wants {name} at {source.path}; published at {published}")
    return path


def image_folder(source: config.Benchmark, published: str) -> None:
    """Checks that the image folder is there.

    Raises:
        Missing: it is not.
    """
    if not source.images.is_dir():
        raise Missing(f"{source.name}: wants its images in {source.images}; published at {published}")


def jsonl(path: Path, benchmark: str) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    """The objects of a JSON-lines file with their line numbers (from 1); a line that is none is a `Reject`."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)  # bytes: UnicodeDecodeError and JSONDecodeError are both ValueErrors
            except (ValueError, RecursionError) as error:  # digits by the thousand, brackets by the thousand
                yield number, reject(benchmark, path, number, BadRow("not-json", str(error)))
                continue
            yield number, row if isinstance(row, dict) else _no_object(benchmark, path, number, row)


def json_array(path: Path, benchmark: str) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    """The objects of a JSON array with their indices (from 0).

    Raises:
        config.UserError: the file is no JSON array.
    """
    rows = json_document(path)
    if not isinstance(rows, list):
        raise errors.UserError(f"{path}: a JSON array of questions is wanted, found {type(rows).__name__}")
    for index, row in enumerate(rows):
        yield index, row if isinstance(row, dict) else _no_object(benchmark, path, index, row)


def json_document(path: Path) -> Any:
    """The value of a whole JSON file.

    Raises:
        config.UserError: it is not JSON; the message names the byte.
    """
    try:
        return json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise errors.UserError(
            f"{path}: not JSON at character {error.pos}: {error.msg}; fetch it again"
        ) from error
    except UnicodeDecodeError as error:
        raise errors.UserError(f"{path}: not UTF-8 at byte {error.start}; fetch it again") from error
    except (ValueError, RecursionError) as error:  # digits by the thousand, brackets by the thousand
        raise errors.UserError(f"{path}: cannot be read as JSON: {error}; fetch it again") from error


def parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file with their indices (from 0), few in memory at once.

    Raises:
        config.UserError: the file is not Parquet.
    """
    try:
        yield from enumerate(tables.read(path))
    except (pa.ArrowInvalid, OSError) as error:  # a damaged page is an OSError
        raise errors.UserError(
            f"{path}: cannot be read as Parquet: {str(error).strip()}; if it is damaged, fetch it again"
        ) from error


def column(path: Path, name: str) -> list[Any]:
    """One column of a Parquet file, the pictures beside it unread.

    Raises:
        config.UserError: the file is not Parquet, or has no such column.
    """
    try:
        values: list[Any] = pq.read_table(path, columns=[name]).column(name).to_pylist()
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise errors.UserError(
            f"{path}: no Parquet file with a column {name}: {error}; fetch it again"
        ) from error
    return values


def shards(source: config.Benchmark, split: str = "test") -> list[Path]:
    """A split's Parquet files as Hugging Face has them (`data/test-00000-of-00004-<digest>.parquet`), in order.

    Empty when there are none; `source.path` is the repository's folder, its `data`, or one of the files.

    Raises:
        Missing: some of the files are there and others are not.
        UserError: two whole uploads of the split lie side by side.
    """
    if source.path.is_file():
        return [source.path] if source.path.suffix == ".parquet" else []
    for pattern in (f"data/{split}-*.parquet", f"{split}-*.parquet"):
        if found := sorted(source.path.glob(pattern)):
            return one_upload(source.name, found)
    return []


def one_upload(benchmark: str, found: list[Path]) -> list[Path]:
    """The shards of one upload, whole. Old revisions leave other sets beside it (`-of-00141-<digest>` and `-of-00143`).

    Raises:
        Missing: no upload is whole.
        UserError: several are, or a shard is there twice.
    """
    sets: dict[int, dict[int, list[Path]]] = {}
    for path in found:
        numbers = re.search(r"-(\d+)-of-(\d+)", path.name)
        if numbers is None:
            return found
        sets.setdefault(int(numbers[2]), {}).setdefault(int(numbers[1]), []).append(path)
    whole = {total: shards for total, shards in sets.items() if len(shards) == total}
    if not whole:
        total, shards = max(sets.items(), key=lambda item: len(item[1]) / item[0])
        absent = sorted(set(range(total)) - set(shards))
        named = ", ".join(f"{number:05}" for number in absent[:5]) + (", ..." if absent[5:] else "")
        raise Missing(
            f"{benchmark}: {found[0].parent} has {len(shards)} of the {total} files like {found[0].name}; missing are "
            f"the numbers {named}; fetch them, or give one file as `path`"
        )
    ((total, chosen), *others) = whole.items()
    twice = [paths for paths in chosen.values() if len(paths) > 1]
    if others or twice:
        one, other = twice[0][:2] if twice else (chosen[0][0], others[0][1][0][0])
        raise errors.UserError(
            f"{benchmark}: {one.parent} holds two uploads of the same questions ({one.name} and {other.name}); "
            "remove the older one"
        )
    return [chosen[number][0] for number in sorted(chosen)]


def picture(row: dict[str, Any], field: str) -> bytes:
    """An embedded image file as it is: bytes, or the struct of bytes and path that `datasets` writes.

    Only its header is read here; `Selection` decodes the pictures of the questions that are asked.

    Raises:
        BadRow: there is none, or it is not an image within `MAX_PIXELS`.
    """
    value = row.get(field)
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise BadRow(
            "image-missing", f"{field}: wanted an embedded image, found {type(data).__name__}", field
        )
    try:
        images.size(data, MAX_PIXELS, field)
    except images.BadImage as error:
        raise BadRow(error.reason, error.detail, field) from error
    return data


def pixels(data: bytes) -> tuple[int, int]:
    """Width and height of an image that `picture` gave, as it is stored: what the boxes beside it speak of."""
    return images.size(data, MAX_PIXELS)


def photo(source: config.Benchmark, image: str | bytes) -> images.Photo:
    """The picture of a `Question.image`.

    Raises:
        images.BadImage: it cannot be used.
    """
    if isinstance(image, bytes):
        return images.photo(image, MAX_PIXELS)
    return images.read(source.images, image, MAX_PIXELS)


def text(row: dict[str, Any], field: str) -> str:
    """A text field that is not empty.

    Raises:
        BadRow: it is missing, of another type or empty.
    """
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise BadRow("bad-field", f"{field}: wanted a text that is not empty, found {value!r:.80}", field)
    return value


def integer(row: dict[str, Any], field: str) -> int:
    """A whole-number field, or a text of digits as some files have it.

    Raises:
        BadRow: it is neither.
    """
    value = row.get(field)
    if isinstance(value, str) and len(value) < _DIGITS and value.strip().lstrip("-").isdecimal():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 10**_DIGITS:
        raise BadRow("bad-field", f"{field}: wanted a whole number, found {value!r:.80}", field)
    return value


def box(row: dict[str, Any], field: str) -> Box:
    """A field of four numbers, whatever they mean.

    Raises:
        BadRow: it is none; JSON has integers of any length, and Python's reads infinities.
    """
    value = row.get(field)
    if not (isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))):
        raise BadRow("bad-box", f"{field}: wanted four numbers, found {value!r:.80}", field)
    x1, y1, x2, y2 = map(float, value)
    return x1, y1, x2, y2


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def reject(benchmark: str, path: Path, row: int, error: BadRow) -> Reject:
    """The `Reject` of a bad row."""
    return Reject(
        "evaluate",
        error.reason,
        f"{path.name}, row {row}: {error.detail}",
        source=benchmark,
        file=path.name,
        row=row,
        field=error.field,
    )


def _no_object(benchmark: str, path: Path, row: int, value: object) -> Reject:
    return reject(
        benchmark, path, row, BadRow("not-an-object", f"wanted an object, found {type(value).__name__}")
    )
