"""How trainings went: what is kept of their histories, and which lines are drawn."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sifthinker.core.errors import UserError
from sifthinker.evaluation import learning_curves


def history(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_long_history_is_kept_as_means_over_equal_stretches(tmp_path: Path) -> None:
    steps = 2 * learning_curves.POINTS
    rows: list[dict[str, object]] = [{"step": n + 1, "reward": float(n), "tokens": 9} for n in range(steps)]
    rows += [{"step": steps, "train_runtime": 5.0}, {"step": steps, "reward": math.nan}]
    kept = learning_curves.kept({"grpo": history(tmp_path / "h", rows), "evaluate": tmp_path / "gone"})
    assert [*kept] == ["grpo"] and [*kept["grpo"]] == ["reward"]
    points = kept["grpo"]["reward"]
    assert len(points) == learning_curves.POINTS
    assert points[0] == [1.5, 0.5] and points[-1] == [steps - 0.5, steps - 1.5]


@pytest.mark.parametrize("steps", [0, 1, 3, 25, 60])
def test_every_step_is_in_one_point(steps: int, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"step": n, "loss": 1.0} for n in range(steps)]
    points = learning_curves.kept({"sft": history(tmp_path / "h", rows)})["sft"].get("loss", [])
    assert len(points) == min(steps, learning_curves.POINTS)
    assert all(value == 1.0 for _, value in points)
    assert [step for step, _ in points] == sorted({step for step, _ in points})


def test_a_line_is_the_mean_over_the_seeds_and_sft_is_drawn_of_rows_that_end_with_it() -> None:
    sft = [{"sft": {"loss": [[1.0, 2.0], [2.0, 1.0]]}}, {"sft": {"loss": [[1.0, 4.0], [2.0, 3.0]]}}]
    grpo = [{**of, "grpo": {"reward": [[1.0, 2.5]]}} for of in sft]
    rows = {"cot-sft": sft, "full": grpo, "base": [{}]}
    assert learning_curves._series(rows, "sft", "loss") == {"cot-sft": ("cot-sft", [(1.0, 3.0), (2.0, 2.0)])}
    assert learning_curves._series(rows, "grpo", "reward") == {"full": ("full", [(1.0, 2.5)])}
    drawn = learning_curves.picture(rows, [*rows])
    assert drawn and drawn.startswith(b"\x89PNG")


def test_seeds_with_other_steps_are_read_at_the_same_ones() -> None:
    """The second was stopped, and so has its points at other steps; the third was kept without curves."""
    line = {"grpo": {"reward": [[1.0, 0.0], [11.0, 10.0], [21.0, 20.0]]}}
    stopped = {"grpo": {"reward": [[2.0, 2.0], [7.0, 7.0], [12.0, 12.0]]}}
    found = learning_curves._series({"full": [line, stopped, {}]}, "grpo", "reward")
    line_of = [(1.0, pytest.approx(1.0)), (11.0, pytest.approx(10.5))]
    assert found == {"full": ("full (2 of 3 seeds)", line_of)}


def test_damaged_curves_are_named(tmp_path: Path) -> None:
    (tmp_path / "curves.json").write_text("{")
    with pytest.raises(UserError, match=r"curves\.json: cannot be read .*; `sif ablation --keep` writes it"):
        learning_curves.read(tmp_path)


def test_rows_without_curves_draw_nothing(tmp_path: Path) -> None:
    assert learning_curves.read(tmp_path) == {}
    assert learning_curves.picture({"base": [{}]}, ["base"]) is None
