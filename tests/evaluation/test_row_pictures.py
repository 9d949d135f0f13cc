"""Pictures of ablation rows: what a dot says, what is drawn, and which rows have a line."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sifthinker.evaluation import gathered, row_pictures
from sifthinker.evaluation.over_seeds import Difference
from sifthinker.evaluation.row_pictures import Compared, Panel, by_number, differences
from sifthinker.reporting import plots
from tests.evaluation.test_gathered import keep

FOUND = Difference(questions=900, seeds=(3, 3), mean=0.1, low=0.05, high=0.15, p=0.001)
PAIRS = (("vqa-sft", "cot-sft"), ("cot-sft", "full"))


def _pixels(picture: bytes, color: str) -> int:
    """How many pixels of a picture have a colour."""
    wanted = [int(color[at : at + 2], 16) for at in (1, 3, 5)]
    found = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    return int((found == wanted).all(axis=-1).sum())


@pytest.mark.parametrize(("p", "full"), [(0.0499, True), (0.05, False), (1.0, False)])
def test_a_dot_is_full_where_the_difference_is_shown(p: float, full: bool) -> None:
    one = Compared("full against cot-sft", "answer", FOUND, 0.001)
    assert (differences([replace(one, p=p)]) == differences([one])) is full


def _compared(ends: list[tuple[float, float]]) -> list[Compared]:
    found = [replace(FOUND, mean=(low + high) / 2, low=low, high=high) for low, high in ends]
    return [Compared(f"row {place} against full", "answer", one, 1.0) for place, one in enumerate(found)]


def test_an_interval_far_wider_than_most_does_not_set_the_scale() -> None:
    usual = [(-0.02, 0.04), (0.0, 0.06), (-0.03, 0.03)]
    assert row_pictures._reach(_compared([*usual, (-0.62, 0.6)])) == pytest.approx((-3.45, 6.45))
    assert row_pictures._reach(_compared([*usual, (-0.08, 0.1)])) == pytest.approx(
        (-8.9, 10.9)
    )  # three times: not cut
    assert row_pictures._reach(_compared([*usual, (0.1, 0.9)])) == pytest.approx(
        (-5.65, 52.65)
    )  # its mean stays in sight


def test_a_cut_interval_ends_in_an_arrow_and_the_picture_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "supxlabel", lambda self, text, **_: said.append(text))
    usual = [(-0.02, 0.04), (0.0, 0.06), (-0.03, 0.03)]
    wide, plain = (
        differences(_compared([*usual, (-0.62, 0.6)])),
        differences(_compared([*usual, (-0.03, 0.03)])),
    )
    assert "an arrow: the interval goes on" in said[0] and "arrow" not in said[1]
    assert _pixels(wide, plots.BLUE) > _pixels(plain, plots.BLUE)


def test_intervals_that_are_not_known_or_have_no_width_are_drawn() -> None:
    unknown = float("nan"), float("nan")
    assert row_pictures._reach(_compared([(0.0, 0.0)])) == (-1.0, 1.0)
    one = [replace(test, found=replace(test.found, mean=0.1)) for test in _compared([unknown])]
    assert row_pictures._reach(one) == (float("-inf"), float("inf"))
    assert differences(one).startswith(b"\x89PNG")


def test_sampled_replies_are_below_the_greedy_ones_of_the_same_score() -> None:
    greedy = Compared("full against cot-sft", "boxes", FOUND, 0.001)
    alone, both = differences([greedy]), differences([greedy, replace(greedy, score="boxes, sampled")])
    assert _pixels(alone, plots.BLUE) > 50 and not _pixels(alone, plots.ORANGE)
    assert _pixels(both, plots.BLUE) > 50 and _pixels(both, plots.ORANGE) > 50
    apart = Image.open(io.BytesIO(alone)).size, Image.open(io.BytesIO(both)).size
    assert apart[0] == apart[1]  # one panel, one line


def test_many_scores_are_in_two_lines_of_panels_and_a_comparison_may_lack_some() -> None:
    first = Compared("cot-sft against vqa-sft", "answer", FOUND, 0.001)
    scores = ["answer", *(f"answer, kind {n}" for n in range(4)), "boxes"]
    tests = [first, *(Compared("full against cot-sft", score, FOUND, 1.0) for score in scores)]
    wide, high = Image.open(io.BytesIO(differences(tests))).size
    inches = 2.2 + 4 * 1.6, 0.3 + 2 * (0.5 + 2 * 0.3)
    assert (wide, high) == pytest.approx([plots.DPI * of for of in inches], abs=1)


def test_a_mean_whose_error_is_not_known_is_drawn() -> None:
    panel = Panel("count", ["3", "4"], {"base": [(40.0, 9.0), (20.0, float("nan"))]})
    assert by_number([panel]).startswith(b"\x89PNG")


def _kept(folder: Path, rows: list[str]) -> Path:
    for place, row in enumerate(rows):
        right = 10 + 10 * place
        keep(folder, row, 0, {"count-4": [1.0] * right + [0.0] * (40 - right), "scenes-4": [1.0] * 10})
    return folder


def test_rows_that_are_not_pictured_have_no_line_and_stay_in_the_tables(tmp_path: Path) -> None:
    every = _kept(tmp_path / "every", ["vqa-sft", "cot-sft", "full"])
    two = _kept(tmp_path / "two", ["vqa-sft", "cot-sft"])
    order = ["vqa-sft", "cot-sft", "full"]
    text = gathered.draw(every, order, PAIRS, "miniature", ["cot-sft", "vqa-sft", "longer"])
    assert "| full | 1 |" in text and "full against cot-sft" in text
    gathered.draw(two, order, PAIRS, "miniature")
    assert (every / "by-number.png").read_bytes() == (two / "by-number.png").read_bytes()
    assert (every / "differences.png").read_bytes() != (two / "differences.png").read_bytes()


def test_if_no_pictured_row_is_there_all_are_drawn(tmp_path: Path) -> None:
    folder = _kept(tmp_path / "kept", ["vqa-sft", "cot-sft"])
    drawn = []
    for pictured in ((), ("longer",)):
        gathered.draw(folder, ["vqa-sft", "cot-sft"], PAIRS, "miniature", pictured)
        drawn.append((folder / "by-number.png").read_bytes())
    assert drawn[0] == drawn[1]


def test_pictures_of_what_is_no_longer_there_are_removed(tmp_path: Path) -> None:
    folder = _kept(tmp_path / "kept", ["vqa-sft", "cot-sft"])
    gathered.draw(folder, ["vqa-sft", "cot-sft"], PAIRS, "miniature")
    assert {path.name for path in folder.glob("*.png")} == {"table.png", "differences.png", "by-number.png"}
    gathered.draw(folder, ["vqa-sft", "cot-sft"], (), "miniature")
    assert {path.name for path in folder.glob("*.png")} == {"table.png", "by-number.png"}
    assert not [path for path in folder.iterdir() if path.name.startswith(".drawn")]


def test_every_score_of_a_sampled_benchmark_is_told_by_its_end() -> None:
    assert row_pictures._greedy("boxes, sampled") == "boxes"
    assert row_pictures._greedy("answer, count") == "answer, count"
