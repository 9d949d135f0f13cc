"""A file that is cut into stretches has the rows, the mistakes and the words of one that is read row by row."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sifthinker.core.errors import BadRow, UserError
from sifthinker.data.sources import files

Read = Callable[[], Any]


def told(read: Read) -> tuple[list[tuple[int, Any]], str]:
    """Number and value of each row, types included, and what then ended the reading."""
    found: list[tuple[int, Any]] = []
    try:
        for number, value in read():
            plain = [value.reason, value.detail] if isinstance(value, BadRow) else value
            found.append((number, repr(plain)))
    except UserError as error:
        return found, str(error)
    return found, ""


def compared(path: Path, array: bool) -> tuple[list[tuple[int, Any]], str]:
    """The same of both ways, which are equal."""
    whole = files.Stretch(path, array, 0 if array else 1, 0, 0, None)
    found = told(lambda: files.rows(path))
    assert found == told(lambda: files.rest(whole))
    return found


def stretched(path: Path) -> int:
    """How many rows are decoded by the stretch, before the first stretch that is not."""
    count = 0
    for stretch in files.stretches(path):
        if (found := files.decode(stretch)) is None:
            break
        count += len(found)
    return count


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stretches of a few rows."""
    monkeypatch.setattr(files, "CHUNK", 300)


def row(number: int, **more: Any) -> dict[str, Any]:
    return {
        "dataset": "gqa",
        "question": f"Où {number}? 图片 {{",
        "turns": [{"from": "a"}, {"from": "b"}],
        **more,
    }


ROWS = [row(number) for number in range(60)]
NESTED = [row(number, turns=[{"dataset": "gqa"}] * (number % 3)) for number in range(60)]
TURNED = [value if number < 30 else dict(reversed(value.items())) for number, value in enumerate(ROWS)]


def written(values: list[Any], **how: Any) -> bytes:
    return json.dumps(values, ensure_ascii=False, **how).encode()


@pytest.mark.parametrize(
    ("text", "by_the_stretch"),
    [
        (written(ROWS), 50),
        (written(ROWS, separators=(",", ":")), 50),
        (written(ROWS, indent=4), 50),
        (written(ROWS, indent=4).replace(b"\n", b"\r\n"), 50),
        (b"\xef\xbb\xbf \n" + written(ROWS, indent=1), 50),
        (written(ROWS) + b"\n\n", 50),
        (written([row(n, q='{"dataset": "gqa"}, {"dataset":') for n in range(60)]), 50),  # in a text
        (written(NESTED), 0),  # what a row begins with is in rows, too
        (written(TURNED), 20),  # rows that begin with another field
        (written([1, "a", None, *ROWS]), 0),  # no object at the beginning
        (written([*ROWS[:30], 12345, ["]"], *ROWS[30:]]), 20),
        (written([*ROWS[:30], row(30, more="x" * 2000), *ROWS[30:]]), 50),  # longer than a stretch
        (written([*ROWS[:30], row(30, question_id=2**64), *ROWS[30:]]), 20),  # a fraction for orjson
        (written([*ROWS[:30], row(30, size=float("nan")), *ROWS[30:]]), 20),  # no JSON for orjson
        (json.dumps([*ROWS[:30], row(30, text="\ud800"), *ROWS[30:]]).encode(), 20),  # half a character
        (written(ROWS).replace(b"30?", b"\xff\xfe?"), 20),  # no UTF-8
        (written([*ROWS[:30], row(30, deep=json.loads("[" * 400 + "]" * 400)), *ROWS[30:]]), 20),
        (b"[]", 0),
        (b"[\n]\n", 0),
    ],
)
def test_the_rows_of_an_array(tmp_path: Path, text: bytes, by_the_stretch: int) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    found, ended = compared(path, array=True)
    assert not ended
    assert [number for number, _ in found] == list(range(len(found))) and len(found) in (0, 60, 61, 62, 63)
    at_least = stretched(path)
    assert at_least >= by_the_stretch and (by_the_stretch or not at_least)


def lines(values: list[Any], end: str = "\n") -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + end for value in values).encode()


@pytest.mark.parametrize(
    "text",
    [
        lines(ROWS),
        lines(ROWS, "\r\n"),
        b"\xef\xbb\xbf" + lines(ROWS),
        lines(ROWS, "\n\n \t\n"),
        lines(ROWS)[:-1],  # no newline at the end
        lines(ROWS).replace(b"30?", b"\xff\xfe?").replace(b"40?", b'4"0?'),  # broken rows between good ones
        lines([*ROWS[:30], row(30, question_id=2**64), row(31, size=float("inf")), 5, ["a"], *ROWS[30:]]),
        lines(ROWS[:30]) + b'{"a": ' + b"1" * 5000 + b"}\n" + lines(ROWS[30:]),  # an integer that is refused
        lines(ROWS[:30]) + b"[" * 700 + b"]" * 700 + b"\n" + lines(ROWS[30:]),
        lines(ROWS[:30]) + b"[" * 70_000 + b"\n" + lines(ROWS[30:]),
        lines([*ROWS[:30], row(30, other="a\u2028b\x0b\x85"), *ROWS[30:]]),  # ends of lines elsewhere
    ],
)
def test_the_rows_of_lines(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(text)
    found, ended = compared(path, array=False)
    assert not ended and len(found) >= 60
    assert stretched(path) >= 50


@pytest.mark.parametrize("array", [True, False])
def test_damage_anywhere_is_told_as_it_is_without_stretches(tmp_path: Path, array: bool) -> None:
    """Cut off, or a byte lost, changed or too many: within a stretch, at its border, in the last one."""
    draw = random.Random(7)
    sound = written(ROWS, indent=1) if array else lines(ROWS)
    path = tmp_path / ("a.json" if array else "a.jsonl")
    ends = set()
    for _ in range(400):
        at = draw.randrange(1, len(sound))
        damaged = draw.choice(
            [
                sound[:at],
                sound[:at] + sound[at + 1 :],
                sound[:at] + bytes([draw.choice(b'"{}[],:\\\n x\xff')]) + sound[at + 1 :],
                sound[:at] + draw.choice([b"}", b"]", b'"', b",", b"],[", b"\n"]) + sound[at:],
            ]
        )
        path.write_bytes(damaged)
        ended = compared(path, array)[1]
        ends.add(ended.partition(":")[2][:12])
        if ended:
            assert "byte" in ended and str(path) in ended
    assert len(ends) >= (3 if array else 2)  # sound after all, cut off, no JSON


@pytest.mark.parametrize("array", [True, False])
def test_a_row_that_is_too_long_is_refused_at_its_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, array: bool
) -> None:
    monkeypatch.setattr(files, "MAX_ROW", 3_000)
    values = [*ROWS[:30], row(30, more="x" * 5_000), *ROWS[30:]]
    path = tmp_path / ("a.json" if array else "a.jsonl")
    path.write_bytes(written(values) if array else lines(values))
    found, ended = compared(path, array)
    assert len(found) == 30 and "byte" in ended


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json: cannot read: No such file"):
        list(files.stretches(tmp_path / "none.json"))
