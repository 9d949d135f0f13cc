"""Further rounds: as many chains as all parts together have, each row asked once, whatever the parts reject."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.annotation.annotate import NOT_NEEDED
from sifthinker.annotation.rounds import further
from sifthinker.annotation.wanted import shares
from sifthinker.config import Config
from tasks.stages.annotate import annotate

Replies = list[bool]  # of the rows of a part, in order: whether the reply is accepted


def made(replies: Replies, most: int | None) -> dict[str, Any]:
    """The rows that the manifest of a part counts that shall keep `most`."""
    kept = asked = 0
    for accepted in replies:
        if most is not None and kept == most:
            break
        asked += 1
        kept += accepted
    rejected = {"answer": asked - kept, NOT_NEEDED: len(replies) - asked}
    return {"in": len(replies), "kept": kept, "rejected": {name: n for name, n in rejected.items() if n}}


def rounds(wanted: int, parts: list[Replies]) -> tuple[list[dict[str, Any]], list[dict[int, int]]]:
    """What the parts end with, and what each further round asked for."""
    found = [
        made(part, most) for part, most in zip(parts, shares(wanted, list(map(len, parts))), strict=True)
    ]
    more: list[dict[int, int]] = []
    while going := further(wanted, found):
        more.append(going)
        assert len(more) <= len(parts), "each round reaches the number or uses a part up"
        for part, most in going.items():
            assert most > found[part]["kept"] and found[part]["rejected"][NOT_NEEDED]
            found[part] = made(parts[part], most)
    return found, more


@given(st.lists(st.lists(st.booleans(), max_size=40), min_size=1, max_size=12), st.integers(1, 300))
def test_there_are_as_many_chains_as_all_rows_have_and_no_row_is_asked_after_the_last_one(
    parts: list[Replies], wanted: int
) -> None:
    found, _ = rounds(wanted, parts)
    there_are = sum(map(sum, parts))
    assert sum(rows["kept"] for rows in found) == min(wanted, there_are)
    for rows, replies in zip(found, parts, strict=True):
        asked = rows["in"] - rows["rejected"].get(NOT_NEEDED, 0)
        if asked < rows["in"] and asked:
            assert replies[asked - 1], "the last row that was asked has a chain"
    if there_are <= wanted and sum(map(len, parts)):
        assert all(NOT_NEEDED not in rows["rejected"] for rows in found) or there_are == wanted


ALL, NONE = [True] * 10, [False] * 10
HALF = [True, False] * 5
FIRST = [True] * 5 + [False] * 5


@pytest.mark.parametrize(
    ("wanted", "parts", "expected"),
    [
        (20, [ALL, ALL, ALL], []),  # at once
        (15, [ALL, NONE, ALL], [{0: 10}]),  # one part rejects all that it has; one other is enough for it
        (10, [ALL, NONE, HALF], [{0: 7}]),
        (18, [ALL, NONE, ALL], [{0: 10, 2: 8}]),  # both are needed
        (
            15,
            [FIRST, NONE, ALL],
            [{0: 10}, {2: 10}],
        ),  # the first is expected to go on as it began, and does not
        (12, [HALF, HALF, HALF], []),
        (30, [ALL, NONE, ALL], []),  # all rows are asked in the first round
        (7, [[True], [False] * 20, [True] * 9], [{2: 7}]),
    ],
)
def test_what_is_missing_is_asked_of_the_parts_that_have_most_rows_left(
    wanted: int, parts: list[Replies], expected: list[dict[int, int]]
) -> None:
    assert rounds(wanted, parts)[1] == expected


def test_without_a_number_there_is_one_round() -> None:
    assert further(None, [made(HALF, None), made(ALL, 3)]) == {}


def test_the_stage_says_what_is_missing_and_what_is_left() -> None:
    config = Config.model_validate({"scenes": {}, "publish": {"rows": 15}})
    parts = [made(part, 5) for part in (ALL, NONE, ALL)]
    more = annotate.further(config, parts)
    assert more and more.most == {0: 10}
    assert more.said == "publish.rows: 10 of 15 chains are accepted, and 10 rows of the draw are left"
    assert annotate.further(config, []) is None
