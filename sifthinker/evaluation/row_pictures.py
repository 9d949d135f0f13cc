"""Pictures of ablation rows for people: how far rows are apart, and right answers over the number of things in a scene."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sifthinker.evaluation.benchmarks import SAMPLED
from sifthinker.evaluation.over_seeds import Difference
from sifthinker.reporting import plots

_COLUMNS = 4  # panels of differences side by side, beside the names of the rows
_WIDE = 3  # times the median interval of a panel: what is wider is cut, lest it press all others together
SHOWN = 0.05  # a difference with a p under it, corrected over its table, has a full dot


@dataclass(frozen=True, slots=True)
class Compared:
    """A row against an earlier one, by one score."""

    what: str  # "full against cot-sft"
    score: str  # "answer", "answer, count", "boxes, sampled"
    found: Difference
    p: float  # two-sided, corrected over the table


def differences(tests: Sequence[Compared]) -> bytes:
    """A panel a score, a line a comparison: the difference in points of 100 with its 95 % interval.

    Sampled replies are below the greedy ones. An interval over three times as wide as its panel's median is cut at the edge, with an arrow.

    Args:
        tests: of a table, in the order of its lines; at least one.
    """
    lines = [*dict.fromkeys(test.what for test in tests)]
    scores = [*dict.fromkeys(_greedy(test.score) for test in tests)]
    columns = min(_COLUMNS, len(scores))
    high = math.ceil(len(scores) / columns)
    made = plots.figure(2.2 + 1.6 * columns, 0.3 + high * (0.5 + 0.3 * len(lines)))
    panels = [*made.subplots(high, columns, sharey=True, squeeze=False).flat]
    for unused in panels[len(scores) :]:
        unused.set_visible(False)
    cut = False
    for axes, score in zip(panels, scores, strict=False):
        of = [test for test in tests if _greedy(test.score) == score]
        left, right = _reach(of)
        axes.axvline(0, color=plots.GREY, linewidth=0.8)
        for test in of:
            is_greedy = test.score == score
            color, offset = (plots.BLUE, 0.0) if is_greedy else (plots.ORANGE, 0.28)
            place = lines.index(test.what) + offset
            low, high_end = _ends(test)
            axes.hlines(place, max(low, left), min(high_end, right), color=color, alpha=0.4, linewidth=2.5)
            for end, marker in [(left, "<")] * (low < left) + [(right, ">")] * (high_end > right):
                axes.scatter([end], [place], s=14, marker=marker, color=color, clip_on=False, zorder=3)
                cut = True
            face = color if test.p < SHOWN else "white"
            axes.scatter([100 * test.found.mean], [place], s=16, zorder=3, color=face, edgecolors=color)
        axes.set_yticks(range(len(lines)), lines, fontsize=7)
        axes.set_ylim(len(lines) - 0.4, -0.5)
        if math.isfinite(left):
            axes.set_xlim(left, right)
        plots.style(axes, score, "x", ink="black")
    said = f"points of 100, with 95 % intervals; right of 0: the row named first is better; a full dot: p < {SHOWN:g} after Holm"
    if any(_greedy(test.score) != test.score for test in tests):
        said += "\nblue: greedy replies, orange: sampled ones"
    if cut:
        said += "\nan arrow: the interval goes on; of few seeds it may be very wide"
    made.supxlabel(said, fontsize=8)
    return plots.png(made, ground="white")


def _ends(test: Compared) -> tuple[float, float]:
    """The interval, in points of 100."""
    return 100 * test.found.low, 100 * test.found.high


def _reach(tests: Sequence[Compared]) -> tuple[float, float]:
    """Left and right end of a panel: 0, all means, and the intervals that are not far wider than most; infinite if none is known."""
    known = [ends for test in tests if math.isfinite((ends := _ends(test))[1] - ends[0])]
    if not known:
        return -math.inf, math.inf
    widest = _WIDE * statistics.median(high - low for low, high in known)
    inside = [end for low, high in known if high - low <= widest for end in (low, high)]
    points = [0.0, *inside, *(100 * test.found.mean for test in tests)]
    margin = 0.05 * (max(points) - min(points)) or 1.0
    return min(points) - margin, max(points) + margin


def _greedy(score: str) -> str:
    """A score's name without the word for sampled replies."""
    return score.removesuffix(f",{SAMPLED}")


@dataclass(frozen=True, slots=True)
class Panel:
    """Right answers to one kind of question."""

    kind: str
    numbers: Sequence[str]  # of things in the scene, in order; "": not known
    rows: Mapping[str, Sequence[tuple[float, float]]]  # by row, a number each: mean of 100, standard error


def by_number(panels: Sequence[Panel]) -> bytes:
    """A panel a kind of question: right answers of 100 over the number of things in the scene, a line a row."""
    made, drawn = plots.panels(len(panels), 3.0, 2.4)
    for axes, panel in zip(drawn, panels, strict=True):
        for place, (name, values) in enumerate(panel.rows.items()):
            axes.errorbar(
                [index + 0.04 * place for index in range(len(values))],
                [mean for mean, _ in values],
                [error for _, error in values],
                label=name,
                marker="o",
                markersize=3,
                linewidth=1,
                color=f"C{place}",
            )
        axes.set_xticks(range(len(panel.numbers)), [number or "any" for number in panel.numbers])
        axes.set_ylim(0, 102)
        plots.style(axes, panel.kind, "y", ink="black")
    plots.legend_beside(made, drawn)
    made.supxlabel("right answers of 100, by the number of things in the scene", fontsize=8)
    return plots.png(made, ground="white")
