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
    ("found", "said"),
    [
        ({"judge": 2}, "judge"),
        ({"boxes": 1, "judge": 1_000}, "judge 1,000, boxes 1"),
        ({"a": 1, "b": 1, "c": 1, "d": 7}, "most for d (7)"),
    ],
)
def test_rejects_in_a_few_words_have_all_reasons_or_that_of_most(found, said):
    assert rejects.top(found) == said


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


def test_reasons_are_counted_the_most_frequent_first_and_then_by_name():
    assert rejects.counted({"b": 2, "c": 1_000, "a": 2}) == "c 1,000, a 2, b 2"
    assert rejects.counted({}) == ""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "a row: boxes: no box"),
        ({"id": "s/d/1"}, "s/d/1: boxes: no box"),
        ({"id": "s/d/1", "file": "a.json", "row": 3, "field": "bbox"}, "s/d/1 in file a.json, row 3, field bbox: boxes: no box"),
        ({"row": 0}, "row 0: boxes: no box"),
        ({"row": None, "field": "bbox"}, "field bbox: boxes: no box"),
        ({"detail": "boxes: no box"}, "a row: boxes: no box"),  # the reason is not said twice
        ({"detail": "no boxes: "}, "a row: boxes: no boxes: "),
        ({"detail": "x" * 301}, f"a row: boxes: {'x' * 300}"),
        ({"detail": '{"a": 1}'}, 'a row: boxes: {"a": 1}'),  # JSON, but no attempts
        ({"detail": "[]"}, "a row: boxes: []"),
        (
            {"detail": json.dumps([{"text": "a", "reason": "first"}, {"text": "", "reason": "second"}, {"text": "y" * 301, "reason": "third"}])},
            f"a row: boxes: third; the model wrote: '{'y' * 300}'",
        ),
        ({"detail": json.dumps([{"text": "", "reason": "timeout"}])}, "a row: boxes: timeout"),
    ],
)  # fmt: skip
def test_a_reject_says_where_it_is_what_was_wrong_and_what_was_written(changed, said):
    nowhere = {"id": "", "file": "", "row": -1, "field": "", "reason": "boxes", "detail": "no box"}
    assert rejects.described({**nowhere, **changed}) == said


def test_attempts_are_a_list_or_none():
    tried = [{"text": "a", "reason": "b"}]
    assert rejects.attempts(json.dumps(tried)) == tried
    assert rejects.attempts('{"text": "a"}') == rejects.attempts("no JSON") == []


def test_the_example_is_empty_where_no_row_has_the_reason():
    assert rejects.example([], {"boxes": 1}) == ""
