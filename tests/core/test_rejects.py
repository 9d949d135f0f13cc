"""When a stage has rejected too many rows, and what is said about them."""

import json

import pytest

from sifthinker.core import rejects


def rows(kept: int, **rejected: int) -> dict[str, object]:
    counted = {reason.replace("_", "-"): count for reason, count in rejected.items()}
    return {"in": kept + sum(counted.values()), "kept": kept, "rejected": counted}


@pytest.mark.parametrize(
    ("found", "most", "wrong"),
    [
        (rows(0, no_box=5), 0.5, "no row was kept of 5"),
        (rows(0, no_box=5), 1.0, "no row was kept of 5"),  # any share, but never all
        (rows(0, not_sampled=5), 0.5, "no row was kept of 5"),
        (rows(0), 0.5, ""),  # a stage without rows: weights, scenes
        (rows(5), 0.0, ""),
        (rows(5, no_box=5), 0.5, ""),  # half is allowed
        (rows(5, no_box=6), 0.5, "6 of 11 rows were rejected, and max_rejected = 0.5 allows 50%"),
        (rows(5, no_box=600), 1.0, ""),
        (rows(50, not_sampled=5_000, excluded=900, no_box=2), 0.5, ""),  # left out by choice
        (
            rows(50, not_sampled=5_000, no_box=51),
            0.5,
            "51 of 101 rows were rejected, and max_rejected = 0.5 allows 50%",
        ),
    ],
)
def test_a_stage_that_keeps_nothing_or_too_little_is_told(found, most, wrong):
    assert rejects.too_many(found, ("not-sampled", "excluded"), most) == wrong


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (rows(1200), "1,200 of 1,200 rows kept"),
        (rows(3, judge=2), "3 of 5 rows kept, 2 rejected: judge"),
        (rows(3, boxes=1, judge=1_000), "3 of 1,004 rows kept, 1,001 rejected: most for judge (1,000)"),
    ],
)
def test_the_line_of_a_stage_names_the_reason_of_most(found, line):
    assert rejects.line(found) == line


def test_the_example_is_of_the_most_frequent_reason_and_shows_where_and_what_the_model_wrote():
    nowhere = {"id": "", "file": "", "row": -1, "field": ""}
    tried = [{"text": "a", "reason": "first"}, {"text": "I cannot help.", "reason": "there is no <think>"}]
    found = [
        {**nowhere, "reason": "boxes", "detail": "x", "id": "s/d/1"},
        {**nowhere, "reason": "malformed", "detail": json.dumps(tried), "id": "s/d/2"},
    ]
    said = rejects.example(found, {"boxes": 1, "malformed": 2})
    assert said == "s/d/2: malformed: there is no <think>; the model wrote: 'I cannot help.'"
    of_a_file = {
        "id": "",
        "file": "a.json",
        "row": 0,
        "field": "bboxs",
        "reason": "no-box",
        "detail": "no boxes",
    }
    assert rejects.example([of_a_file], {"no-box": 1}) == "file a.json, row 0, field bboxs: no-box: no boxes"
    assert rejects.example([], {}) == ""
