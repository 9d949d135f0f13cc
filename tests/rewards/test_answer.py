"""The answer reward and the book of scores behind its progress."""

import json
from itertools import permutations

import pytest

from sifthinker.rewards import REWARDS
from sifthinker.rewards.answer import Book

reward = REWARDS["answer"]


@pytest.mark.parametrize(
    ("score", "mean", "paper", "release"),
    [
        (0.8, 0.5, 1.1, 1.1),  # better than last epoch
        (0.2, 0.5, -0.1, 0.2),  # worse: the paper is signed, the release clips
        (0.5, 0.5, 0.5, 0.5),
        (0.8, 0.0, 1.6, 1.6),  # a mean of 0 is a mean
        (0.0, 0.9, -0.9, 0.0),
        (0.8, None, 0.8, 0.8),  # first epoch: no progress
        (None, 0.5, None, None),  # the judge was not reached: not applicable, not wrong
        (None, None, None, None),
    ],
)
def test_progress_by_hand(
    score: float | None, mean: float | None, paper: float | None, release: float | None
) -> None:
    assert reward([score], [mean], "paper") == [pytest.approx(paper) if paper is not None else None]
    assert reward([score], [mean], "release") == [pytest.approx(release) if release is not None else None]
    assert reward([score], [mean], "paper", progress=False) == [score]


def test_lists_of_different_length_are_an_error() -> None:
    with pytest.raises(ValueError):
        reward([0.5, 0.5], [None])


def test_the_book_means_the_epoch_before_and_no_other() -> None:
    book = Book()
    book.add("a", 0, [0.0, 1.0, None, 0.5])
    book.add("a", 1, [1.0])
    book.add("b", 0, [None, None])
    assert book.previous("a", 0) is None
    assert book.previous("a", 1) == 0.5
    assert book.previous("a", 2) == 1.0
    assert book.previous("a", 3) is None  # the sample was left out in epoch 2
    assert book.previous("b", 1) is None
    assert book.previous("c", 1) is None


def test_a_mean_of_zero_is_kept() -> None:
    book = Book()
    book.add("a", 0, [0.0, 0.0])
    assert book.previous("a", 1) == 0.0  # the release forgets it (PAPER.md R5.2)


def test_scores_make_the_same_book_in_any_order() -> None:
    parts = [("a", 0, [0.1, 0.7]), ("a", 0, [0.3]), ("b", 0, [1.0]), ("a", 1, [0.2])]
    books = []
    for order in permutations(parts):
        whole = Book()
        for sample, epoch, scores in order:
            whole.add(sample, epoch, scores)
        books.append(json.dumps(whole.to_json()))
    assert set(books) == {'{"a": {"0": [0.1, 0.3, 0.7], "1": [0.2]}, "b": {"0": [1.0]}}'}


def test_the_book_survives_a_checkpoint() -> None:
    book = Book()
    book.add("b", 10, [0.1 + 0.2, 1 / 3])
    book.add("a", 2, [1.0])
    restored = Book.from_json(json.loads(json.dumps(book.to_json())))
    assert restored.to_json() == book.to_json()
    assert restored.previous("b", 11) == book.previous("b", 11)
    assert list(book.to_json()) == ["a", "b"]


@pytest.mark.parametrize(
    "values", [[], {"a": [1]}, {"a": {"x": [1]}}, {"a": {"0": 1}}, {"a": {"0": [float("nan")]}}]
)
def test_what_is_no_book_is_refused(values: object) -> None:
    with pytest.raises(ValueError):
        Book.from_json(values)  # type: ignore[arg-type]
