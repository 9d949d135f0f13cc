"""Which replies people are shown, and their pictures."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sifthinker.core import images
from sifthinker.evaluation import shown
from tests import nights


def job(name: str, count: int) -> Any:
    """A selection of made-up questions with their pictures."""
    questions = [(SimpleNamespace(id=f"q/{n}", image=n), f"{n:064x}") for n in range(count)]
    return SimpleNamespace(
        source=SimpleNamespace(name=name),
        questions=lambda: iter(questions),
        image=lambda question: nights.picture(question.image),
    )


def offered(verdicts: list[float | None], order: int = 1) -> shown.Shown:
    chosen = shown.Shown()
    for number in list(range(len(verdicts)))[::order]:
        chosen.offer(nights.row("vstar", number, verdicts[number]), 0)
    return chosen


def test_some_right_and_some_wrong_ones_are_chosen_whatever_their_order() -> None:
    verdicts = [1.0, 0.0, None, 1.0] * 10
    found = list(offered(verdicts).rows([job("vstar", 40)]))
    assert sorted(row["strict"] for row in found) == [0.0] * shown.EACH + [1.0] * shown.EACH
    again = list(offered(verdicts, -1).rows([job("vstar", 40)]))
    assert again == found
    for row in found:
        assert images.rgb(row["picture"]).size == (480, 360)


def test_a_question_whose_answer_is_hidden_is_neither() -> None:
    chosen = shown.Shown()
    chosen.offer(nights.row("mmbench", 0, 1.0) | {"strict": None}, 0)
    assert list(chosen.rows([job("mmbench", 1)])) == []


def test_the_files_of_a_benchmark_without_chosen_replies_are_not_read_again() -> None:
    unread = SimpleNamespace(
        source=SimpleNamespace(name="other"), questions=lambda: pytest.fail("its files were read")
    )
    jobs: list[Any] = [job("vstar", 1), unread]
    assert [row["id"] for row in offered([1.0]).rows(jobs)] == ["q/0"]


def test_they_are_written_as_a_table(tmp_path: Path) -> None:
    from sifthinker.core import tables

    rows = offered([1.0, 0.0]).rows([job("vstar", 2)])
    tables.write(tmp_path / shown.FILE, shown.SHOWN, rows)
    assert {row["id"] for row in tables.read(tmp_path / shown.FILE)} == {"q/0", "q/1"}
