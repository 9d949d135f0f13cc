"""Streams the rows of an annotation file: a JSON array or JSON lines, told apart by content.

A file of any length is read in linear time with a stretch of it in memory. `stretches` cuts it between rows without decoding
it, so that any process can `decode` a stretch. What cannot be cut or decoded so is read by `rest`, row by row: the end of an
array, and all that is damaged. The standard decoder reads there: it knows the byte of a mistake, and leaves bytes that are
not UTF-8 to the row that holds them.
"""

from __future__ import annotations

import codecs
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from sifthinker.core.errors import BadRow, UserError

log = logging.getLogger(__name__)

CHUNK = 1 << 19  # bytes read at a time
MAX_ROW = 1 << 24  # longest row, characters; a VisCoT row has about 1,000
_SPACE = re.compile(r"[ \t\n\r]*")
# How an array begins whose rows are told by how the first one begins: "{" and its first field.
_ROW_BEGINS = re.compile(rb'[ \t\n\r]*\[[ \t\n\r]*(\{[ \t\n\r]*"(?:[^"\\]|\\.)*"[ \t\n\r]*:)', re.DOTALL)
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG = b"0" * 19  # as many digits may be more than 64 bits, of which orjson makes a fraction
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DEEP = 300  # brackets in brackets; Python's own recursion, which the standard decoder keeps to, ends at 1,000 calls
_REPORT_EVERY = 20_000  # rows


@dataclass(frozen=True)
class Stretch:
    """Whole rows of a file, one after another."""

    path: Path
    array: bool  # its rows are elements of one; else lines
    number: int  # of its first row
    offset: int  # in the file, of its first byte
    rows: int  # that it should have: lines, empty ones too, or beginnings of elements
    data: bytes | None  # up to the next row's first byte; none: the rest of the file, which is not cut


def rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Number and value of every row; the value of a line that is not JSON or not UTF-8 is a `BadRow`.

    Numbers are lines from 1 in a JSON lines file and indices from 0 in an array.

    Raises:
        UserError: the file cannot be read, is neither format, or is cut off: names the byte, after the good
            rows before it were yielded.
    """
    for stretch in stretches(path):
        if (found := decode(stretch)) is None:
            yield from rest(stretch)
            return
        yield from found


def stretches(path: Path) -> Iterator[Stretch]:
    """A file in stretches, in order. The last one is what `rest` reads.

    Where an array ends in a stretch cannot be told without decoding it. A stretch is right if those before it were.

    Raises:
        UserError: the file cannot be read or is neither format.
    """
    with _opened(path) as file:
        head = file.read(CHUNK).removeprefix(codecs.BOM_UTF8)
        array = _is_array(path, head)
        file.seek(0)
        buffer = file.read(CHUNK)
        number, offset = (0, 0) if array else (1, 0)
        begins = b"\n"
        if array:
            bom = len(codecs.BOM_UTF8) if buffer.startswith(codecs.BOM_UTF8) else 0
            if not (first := _ROW_BEGINS.match(buffer, bom)):
                yield Stretch(path, array, 0, 0, 0, None)
                return
            begins, offset = first[1], first.start(1)
            buffer = buffer[offset:]
        progress = _Progress(path.name, os.fstat(file.fileno()).st_size)
        while len(buffer) <= MAX_ROW and (more := file.read(CHUNK)):
            buffer += more
            if not (cut := _last_row(buffer, begins, array)):
                continue
            count = buffer.count(begins, 0, cut)
            yield Stretch(path, array, number, offset, count, buffer[:cut])
            number, offset, buffer = number + count, offset + cut, buffer[cut:]
            progress.add(count, offset)
        yield Stretch(path, array, number, offset, 0, None)


def _last_row(buffer: bytes, begins: bytes, array: bool) -> int:
    """Where the last row of a buffer begins, if one does behind its first byte; else 0."""
    if not array:
        return buffer.rfind(begins) + 1
    return max(buffer.rfind(begins, 1), 0)


def decode(stretch: Stretch) -> list[tuple[int, Any]] | None:
    """The rows of a stretch, as `rows` gives them; None: only `rest` can read them."""
    if stretch.data is None:
        return None
    return _decode_array(stretch) if stretch.array else _decode_lines(stretch)


def rest(stretch: Stretch) -> Iterator[tuple[int, Any]]:
    """The rows of the file from where a stretch begins, one by one.

    Raises:
        UserError: see `rows`.
    """
    read = _array if stretch.array else _lines
    with _opened(stretch.path) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(stretch.offset)
        progress = _Progress(stretch.path.name, size, stretch.offset)
        for row in read(stretch, file):
            yield row
            progress.add(1, file.tell())


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}; check the source's `path`") from error


class _Progress:
    """Says how far a file is read."""

    def __init__(self, name: str, size: int, began_at: int = 0) -> None:
        self.name, self.size, self.began_at = name, size, began_at
        self.count = 0
        self.said = 0
        self.start = time.monotonic()

    def add(self, rows: int, at: int) -> None:
        """So many rows more are read, up to this byte."""
        self.count += rows
        if self.count - self.said < _REPORT_EVERY:
            return
        self.said = self.count
        seconds = time.monotonic() - self.start
        log.info(
            "%s: %d rows, %.0f rows/s, %.0f %%, about %.0f s to go",
            *(self.name, self.count, self.count / seconds, 100 * at / self.size),
            seconds * (self.size - at) / max(at - self.began_at, 1),
        )


def _decode_array(stretch: Stretch) -> list[tuple[int, Any]] | None:
    assert stretch.data
    body = stretch.data.rstrip(b" \t\n\r")
    # Without its comma the stretch ends in the middle of a row, or behind the array.
    if not body.endswith(b",") or not _alike(body):
        return None
    try:
        values = orjson.loads(b"[%b]" % body[:-1])
    except orjson.JSONDecodeError:
        return None
    # Another number of rows: the first field is one of inner objects too, or rows begin with different ones.
    return list(enumerate(values, stretch.number)) if len(values) == stretch.rows else None


def _decode_lines(stretch: Stretch) -> list[tuple[int, Any]]:
    assert stretch.data
    offset = stretch.offset
    alike = _alike(stretch.data)
    found: list[tuple[int, Any]] = []
    for number, bare in enumerate(stretch.data.split(b"\n")[:-1], stretch.number):
        line = bare + b"\n"
        if line.strip():
            found.append((number, _any_line(stretch.path, line, number, offset, alike)))
        offset += len(line)
    return found


def _any_line(path: Path, line: bytes, number: int, offset: int, alike: bool) -> Any:
    """The value of one line, or what is wrong with it as a `BadRow`; `alike`: see `_alike`."""
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    if alike:
        try:
            return orjson.loads(line)
        except orjson.JSONDecodeError:
            pass  # the standard decoder takes more, and tells more
    return _line(path, line, number, offset)


def _alike(data: bytes) -> bool:
    """Whether orjson, where it takes these bytes at all, makes the values of them that the standard decoder makes."""
    brackets = np.frombuffer(data.translate(None, _NO_BRACKETS), np.uint8)
    opening = np.isin(brackets, np.frombuffer(b"[{", np.uint8))
    depth = np.cumsum(np.where(opening, 1, -1), dtype=np.int64)  # those in texts are counted, too
    return _LONG not in data.translate(_DIGITS) and (not depth.size or int(np.ptp(depth)) < _DEEP)


def _is_array(path: Path, head: bytes) -> bool:
    first, _, rest = head.strip().partition(b"\n")
    lines = path.suffix in (".jsonl", ".ndjson")
    if first.startswith(b"["):  # an array, unless the first line is a whole (and wrong) row of a lines file
        return not (lines and rest and _is_json(first))
    if lines and first:
        return False
    if first.startswith(b"{") and (_is_json(first) or not rest):
        return False
    found = "it is empty" if not first else f"found {first[:20]!r} at byte 0"
    raise UserError(
        f"{path}: not JSON: {found}, expected a JSON array or one JSON object a line; is it compressed?"
    )


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(start: Stretch, file: BinaryIO) -> Iterator[tuple[int, Any]]:
    path, number, offset = start.path, start.number - 1, start.offset
    while line := file.readline(MAX_ROW):
        number += 1
        if len(line) == MAX_ROW and not line.endswith(b"\n"):
            raise UserError(
                f"{path}: line {number}, byte {offset}: longer than {MAX_ROW} bytes; not JSON lines?"
            )
        if line.strip():
            yield number, _any_line(path, line, number, offset, _alike(line))
        offset += len(line)


def _line(path: Path, line: bytes, number: int, offset: int) -> Any:
    """The value of one line, or what is wrong with it as a `BadRow`."""
    last = not line.endswith(b"\n") and line.lstrip().startswith(b"{")
    cut = UserError(
        f"{path}: cut off: the file ends at byte {offset + len(line)} inside line {number}; the {number - 1} lines "
        "before it were read; fetch the file again"
    )
    try:
        text = line.decode()
        return json.loads(text)
    except UnicodeDecodeError as error:
        if last and error.reason == "unexpected end of data":
            raise cut from error
        return BadRow(
            "not-utf8", f"byte {offset + error.start} is {line[error.start]:#04x}; save the file as UTF-8"
        )
    except json.JSONDecodeError as error:
        if last and _unfinished(error):
            raise cut from error
        return BadRow(
            "not-json", f"byte {offset + len(text[: error.pos].encode())}: {error.msg}; mend or drop the line"
        )
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, thousands of brackets
        return BadRow("not-json", f"{error}; mend or drop the line")


def _unfinished(error: json.JSONDecodeError) -> bool:
    return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")


class _Window:
    """A stretch of a UTF-8 file as text; what was read is dropped as more comes in.

    Bytes that are not UTF-8 stay as lone surrogates, which the checks of a row's texts find.
    """

    def __init__(self, path: Path, file: BinaryIO, before: int) -> None:
        self.path = path
        self.file = file  # at byte `before`
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.json = json.JSONDecoder()
        self.text = ""
        self.at = 0  # position in text
        self.before = before  # bytes of the file before text
        self.ended = False
        self.more()
        self.at = int(self.text.startswith("\ufeff"))

    def more(self) -> bool:
        """Reads on and moves `text`; false, and nothing moves, where the file has ended."""
        if self.ended:
            return False
        chunk = self.file.read(CHUNK)
        self.ended = not chunk
        self.before = self.byte(self.at)
        self.text = self.text[self.at :] + self.decoder.decode(chunk, final=self.ended)
        self.at = 0
        return True

    def byte(self, at: int) -> int:
        """Offset in the file of a position in `text`."""
        return self.before + len(self.text[:at].encode("utf-8", "surrogateescape"))

    def peek(self) -> str:
        """The next character that is no white space, "" at the end; it becomes the position."""
        while True:
            space = _SPACE.match(self.text, self.at)
            assert space is not None
            self.at = space.end()
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def value(self, row: int) -> Any:
        """The JSON value at the position, which moves behind it."""
        while True:
            try:
                value, end = self.json.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if len(self.text) - self.at < MAX_ROW and self.more():
                    continue
                if self.ended and _unfinished(error):
                    raise self.cut(row) from error
                raise self.wrong(row, error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:  # an integer of thousands of digits, ...
                raise self.wrong(row, str(error), self.at) from error
            if len(self.text) - end < 3 and self.more():
                continue  # 12 may be the beginning of 123, 1.5e+ of 1.5e+3
            self.at = end
            return value

    def cut(self, row: int) -> UserError:
        return UserError(
            f"{self.path}: cut off: the file ends at byte {self.byte(len(self.text))} in or after row {row}; "
            "the rows before it were read; fetch the file again"
        )

    def wrong(self, row: int, what: str, at: int) -> UserError:
        return UserError(
            f"{self.path}: not JSON at byte {self.byte(at)}, row {row}: {what}; the rows before it were read; "
            "mend the file"
        )


def _array(start: Stretch, file: BinaryIO) -> Iterator[tuple[int, Any]]:
    window = _Window(start.path, file, start.offset)
    row = start.number
    found = window.peek()
    if not start.offset:
        window.at += 1  # the bracket that made it an array
        found = window.peek()
    while found != "]":
        yield row, window.value(row)
        found = window.peek()
        if found == ",":
            window.at += 1
            row += 1
            window.peek()
        elif not found:
            raise window.cut(row)
        elif found != "]":
            raise window.wrong(row, "expected ',' or ']' after the row", window.at)
    window.at += 1
    if window.peek():
        raise window.wrong(row, "text after the end of the array", window.at)
