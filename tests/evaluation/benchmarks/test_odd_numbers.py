"""Digits by the hundred and brackets by the thousand, in replies and in files: no benchmark ends in a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sifthinker.core.errors import BadRow, UserError
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import BENCHMARKS, files, replies
from sifthinker.evaluation.benchmarks.question import Question
from tests.evaluation.benchmarks.published_files import written

LONG = "1" * 310  # no float
REPLIES = [
    LONG,
    "-" + LONG,
    "9" * 5_000,  # more than Python reads as an integer
    f"{LONG}.5e{LONG}",
    '{"answer": ' + "[" * 1_500 + "]" * 1_500 + "}",
    "[" * 1_500,
    f'[{{"bbox_2d": [0, 0, {LONG}, 1], "label": "thing 0"}}]',
    '[{"bbox_2d": [0, 0, Infinity, NaN], "label": "thing 0"}]',
    f"[0.1, 0.2, {LONG}, 0.4]",
    f"({LONG})",
]


def asked(name: str, folder: Path) -> list[Question]:
    """A question a group, of four groups at most."""
    found = [one for one in BENCHMARKS[name].load(written(folder, name, "")) if isinstance(one, Question)]
    return list({question.group: question for question in found}.values())[:4]


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_no_reply_ends_a_benchmark(name: str, tmp_path: Path) -> None:
    """With every odd reply, plain and as the answer of a chain."""
    benchmark, questions = BENCHMARKS[name], asked(name, tmp_path)
    assert questions
    area = '<area>[{"bbox_2d": [0, 0, ' + LONG + ', 1], "depth": 0.5}]</area>'
    chains = [f"<think>{area}</think><answer>{reply}</answer>" for reply in REPLIES]
    for question in questions:
        for reply, think in [*((reply, False) for reply in REPLIES), *((reply, True) for reply in chains)]:
            answer = replies.read(reply, think)
            for rule in (benchmark.official, benchmark.strict):
                if rule is not None:
                    assert isinstance(rule(question, answer).score, (int, float))


@pytest.mark.parametrize("value", [10**18, -(10**18), 10**400, "9" * 5_000, True, 1.5, None])
def test_a_whole_number_has_an_end(value: Any) -> None:
    with pytest.raises(BadRow, match="wanted a whole number"):
        files.integer({"id": value}, "id")
    assert files.integer({"id": 10**17}, "id") == files.integer({"id": "1" + "0" * 16}, "id") * 10


@pytest.mark.parametrize(
    "value",
    [
        None, "1,2,3,4", [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, "4"], [1, 2, 3, True], [1, 2, 3, 10**400],
        [1, 2, 3, float("inf")], [1, 2, 3, float("nan")],
    ],
)  # fmt: skip
def test_a_box_is_four_numbers(value: Any) -> None:
    with pytest.raises(BadRow, match="bbox: wanted four numbers") as raised:
        files.box({"bbox": value}, "bbox")
    assert (raised.value.reason, raised.value.field) == ("bad-box", "bbox")
    assert files.box({"bbox": [1, 2.5, 3, 4]}, "bbox") == (1.0, 2.5, 3.0, 4.0)


@pytest.mark.parametrize("text", ["[" * 100_000, f"[{'9' * 5_000}]"])
def test_a_file_that_json_cannot_read_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"rows\.json: cannot be read as JSON: .*; fetch it again"):
        files.json_document(path)
    [(number, row)] = files.jsonl(path, "pope")
    assert number == 1 and isinstance(row, Reject) and row.reason == "not-json"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"annotations": [{"image_id": 0, "category_id": 0}]}, "bad-box"),
        ({"annotations": [{"image_id": 0, "bbox": [0, 0, 5, 5]}]}, "bad-box"),
        ({"annotations": [{"image_id": 0, "category_id": 0, "bbox": [0, 0, 10**400, 5]}]}, "bad-box"),
        ({"annotations": [{"category_id": 0, "bbox": [0, 0, 5, 5]}]}, "annotations need image_id"),
        ({"categories": [{"id": 0}]}, "categories need id and name"),
        ({"categories": ["thing"]}, "categories need id and name"),
    ],
)
def test_ovdevals_document_is_checked(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    source = written(tmp_path, "ovdeval", "")
    path = sorted(source.path.glob("*.json"))[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    found = BENCHMARKS["ovdeval"].load(source)
    if said == "bad-box":
        assert "bad-box" in {row.reason for row in found if isinstance(row, Reject)}
    else:
        with pytest.raises(UserError, match=said):
            list(found)
