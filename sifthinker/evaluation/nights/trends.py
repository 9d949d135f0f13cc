"""The picture of a checkpoint's strict scores over the nights."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from sifthinker.core.scores import Score, factor
from sifthinker.evaluation import history
from sifthinker.reporting import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NIGHTS = 60  # shown
_AROUND = timedelta(hours=12)  # left free at both ends of a trend
MARKS = {  # in a trend: colour, whether it is filled, size
    history.PASSED: (plots.BLUE, True, 10),
    history.REGRESSED: (plots.RED, True, 26),
    history.WARNED: (plots.ORANGE, True, 26),
    history.INCONCLUSIVE: (plots.BLUE, False, 26),
}
_OPEN = (history.WARNED, history.INCONCLUSIVE)  # outcomes of a night that mark all its points


def trends(rows: Sequence[history.Row], baseline: Sequence[Score]) -> tuple[bytes, int] | None:
    """PNG of the strict scores of one checkpoint over the nights, of 100, and its width on a page.

    Blue with its 95 % interval, and a mark a night: red where the benchmark regressed, orange in a night that warned,
    hollow in one that was inconclusive. A grey cross at the foot where it could not run; dashed the baseline, where the
    latest night has the same rules. A new
    version of the scoring rules begins a new line, behind a dotted bar: what differs across it may be the rules. None
    when no night has a score.

    Args:
        rows: the history of the checkpoint.
        baseline: the scores of the pinned checkpoint.
    """
    nights = sorted({(row["started"], row["night"]) for row in rows})[-NIGHTS:]
    since = nights[0][0] if nights else None
    recent = [row for row in rows if since and row["started"] >= since]
    series = _series(recent)
    if not series:
        return None
    missed = {(row["started"], row["benchmark"]) for row in recent if row["missing"]}
    pinned = {(s["benchmark"], s["metric"], s["rules"]): s["strict"] for s in baseline}
    figure, all_axes = plots.panels(len(series), 3.5, 2.05)
    for axes, ((benchmark, metric), points) in zip(all_axes, series.items(), strict=True):
        _draw(axes, points, pinned.get((benchmark, metric, _rules(points[-1]))))
        days = [day for day, name in missed if name in (benchmark, "")]
        foot = axes.get_xaxis_transform()
        axes.scatter(days, [0.04] * len(days), transform=foot, marker="x", s=16, c=plots.GREY)
        _style(axes, f"{benchmark}  {metric}", nights[0][0], nights[-1][0])
    return plots.png(figure), round(figure.get_figwidth() * plots.PAGE_DPI)


def _draw(axes: Axes, points: Sequence[history.Row], baseline: float | None) -> None:
    """The line of one metric with its interval and marks."""
    times = factor(points[0]["unit"])
    when = [row["started"] for row in points]
    value = [row["strict"] * times for row in points]
    low = [_or(row["low"], row["strict"]) * times for row in points]
    high = [_or(row["high"], row["strict"]) * times for row in points]
    edges = [0, *_rule_changes(points), len(points)]
    for start, end in pairwise(edges):
        part = slice(start, end)
        axes.fill_between(when[part], low[part], high[part], color=plots.BLUE, alpha=0.18, linewidth=0)
        axes.plot(when[part], value[part], color=plots.BLUE, linewidth=1.5, zorder=2)
    for place in edges[1:-1]:
        between = when[place - 1] + (when[place] - when[place - 1]) / 2
        axes.axvline(between, color=plots.GREY, linewidth=1, linestyle=":", zorder=1)
    for mark, of in _marked(points).items():
        colour, filled, size = MARKS[mark]
        axes.scatter(
            [row["started"] for row in of],
            [row["strict"] * times for row in of],
            s=size,
            facecolors=colour if filled else "white",
            edgecolors=colour,
            linewidths=1.2,
            zorder=3,
        )
    if baseline:
        axes.axhline(baseline * times, color=plots.GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)


def _style(axes: Axes, title: str, first: datetime, last: datetime) -> None:
    """The axis of the nights, the same in every panel."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    axes.set_xlim(first - _AROUND, last + _AROUND)  # type: ignore[arg-type]
    locator = AutoDateLocator(minticks=2, maxticks=5)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set(color=plots.GREY, fontsize=7)
    plots.style(axes, title, "y")


def _marked(points: Sequence[history.Row]) -> dict[str, list[history.Row]]:
    """The points of a trend by their mark, a key of `MARKS`: the benchmark's own fall, or what became of its night."""
    found: dict[str, list[history.Row]] = {}
    for row in points:
        mark = history.REGRESSED if row["regressed"] else row["outcome"]
        found.setdefault(mark if row["regressed"] or mark in _OPEN else history.PASSED, []).append(row)
    return found


def _rule_changes(points: Sequence[history.Row]) -> list[int]:
    """The places of the points that are the first by another version of the scoring rules."""
    return [place for place in range(1, len(points)) if _rules(points[place]) != _rules(points[place - 1])]


def _rules(row: history.Row) -> int:
    return row["rules"] or 1  # before versions were written


def _series(rows: Sequence[history.Row]) -> dict[tuple[str, str], list[history.Row]]:
    """The scored rows of each metric that gets a picture."""
    return {
        name: [r for r in rows if (r["benchmark"], r["metric"]) == name and r["strict"] is not None]
        for name in history.headlines(rows)
    }


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
