"""Streams the rows of an annotation file: a JSON array or JSON lines, told apart by content.

A file of any length is read in linear time with one window of it in memory. The standard decoder is run on
that window: it is faster than `json.load` of the whole, knows the byte of a mistake, and leaves bytes that
are not UTF-8 to the row that holds them, none of which a streaming SAX parser does.
"""

from __future__ import annotations

import codecs
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from sifthinker.core.errors import BadRow, UserError

log = logging.getLogger(__name__)

CHUNK = 1 << 20  # bytes read at a time
MAX_ROW = 1 << 24  # longest row, characters; a VisCoT row has about 1,000
_SPACE = re.compile(r"[ \t\n\r]*")
_REPORT_EVERY = 20_000  # rows


def rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Number and value of every row; the value of a line that is not JSON or not UTF-8 is a `BadRow`.

    Numbers are lines from 1 in a JSON lines file and indices from 0 in an array.

    Raises:
        UserError: the file cannot be read, is neither format, or is cut off: names the byte, after the good
            rows before it were yielded.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}; check the source's `path`") from error
    with file:
        head = file.read(CHUNK).removeprefix(codecs.BOM_UTF8)
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        start = time.monotonic()
        read = _array if _is_array(path, head) else _lines
        for count, row in enumerate(read(path, file), 1):
            yield row
            if count % _REPORT_EVERY == 0:
                seconds = time.monotonic() - start
                done = file.tell() / size
                log.info(
                    "%s: %d rows, %.0f rows/s, %.0f %%, about %.0f s to go",
                    *(path.name, count, count / seconds, 100 * done, seconds * (1 - done) / done),
                )


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


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, Any]]:
    number = offset = 0
    while line := file.readline(MAX_ROW):
        number += 1
        if len(line) == MAX_ROW and not line.endswith(b"\n"):
            raise UserError(
                f"{path}: line {number}, byte {offset}: longer than {MAX_ROW} bytes; not JSON lines?"
            )
        if line.strip():
            yield (
                number,
                _line(path, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, number, offset),
            )
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

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.json = json.JSONDecoder()
        self.text = ""
        self.at = 0  # position in text
        self.before = 0  # bytes of the file before text
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


def _array(path: Path, file: BinaryIO) -> Iterator[tuple[int, Any]]:
    window = _Window(path, file)
    window.peek()
    window.at += 1  # the bracket that made it an array
    row = 0
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
