"""Matplotlib plots for people: one look for all of them, and the curves of a training.

`figure`, `panels`, `style` and `png` make every plot of this project look alike. Matplotlib is imported when a plot is
drawn, because importing it takes longer than most commands. Equal input gives equal bytes: a PNG holds no clock.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160  # of a plot
PAGE_DPI = 96  # of a page: a plot is shown at PAGE_DPI / DPI of its pixels
BLUE, ORANGE, RED = "#2f81c1", "#d9822b", "#c0392b"  # legible on white and on black
GREY = "#808790"  # of axes and texts where the ground is not known
_COLUMNS = 3  # panels side by side


def figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches, without pyplot: no global state, no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(made)
    return made


def panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of up to three, each `width` x `height` inches, and their axes in order."""
    columns = min(_COLUMNS, count)
    lines = math.ceil(count / columns)
    made = figure(width * columns, height * lines)
    axes = list(made.subplots(lines, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.set_visible(False)
    return made, axes[:count]


def style(axes: Axes, title: str, grid: Literal["x", "y"], ink: str = GREY) -> None:
    """The look of every panel: a small title on the left, lines across the values, no frame, no ground of its own.

    Args:
        axes: of the panel.
        title: what it shows.
        grid: the axis that has the values.
        ink: colour of title, ticks and the two axes; `GREY` shows on any ground.
    """
    axes.set_title(title, fontsize=9, color=ink, loc="left")
    axes.tick_params(colors=ink, labelsize=8, length=3)
    axes.grid(axis=grid, color=GREY, alpha=0.25, linewidth=0.6)
    axes.patch.set_alpha(0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(ink)


def legend_beside(figure: Figure, panels: Iterable[Axes]) -> None:
    """One legend for all panels, right of them: many names would hide points. Equal names are one."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside right upper", fontsize=6, frameon=False)


def png(figure: Figure, ground: Literal["none", "white"] = "none") -> bytes:
    """The figure as a PNG; without a ground it is legible on white and on black, if its inks are."""
    out = io.BytesIO()
    if ground == "none":
        figure.patch.set_alpha(0)
        figure.savefig(out, format="png", transparent=True, metadata={"Software": None})
    else:
        figure.savefig(out, format="png", facecolor=ground, metadata={"Software": None})
    return out.getvalue()


def curves(history: Path, keys: Sequence[str]) -> bytes:
    """PNG of one small plot for each key over the optimiser steps of a training.

    Args:
        history: `history` of a training stage: JSON lines, one logged row each, with "step".
        keys: what to plot; a key that no row has a number for is left out.

    Raises:
        ValueError: no row has a number for any of `keys`.
    """
    rows = read_history(history)
    series = {key: points for key in keys if (points := _series(rows, key))}
    if not series:
        raise ValueError(f"{history.name}: no row has a number for any of {', '.join(keys)}")
    plot, all_axes = panels(len(series), 3.4, 2.1)
    for axes, (key, points) in zip(all_axes, series.items(), strict=True):
        dots = "o" if len(points) < 30 else ""
        axes.plot(*zip(*points, strict=True), color=BLUE, linewidth=1.6, marker=dots, markersize=3)
        axes.locator_params("x", integer=True, nbins=6)
        style(axes, key, "y")
    return png(plot)


def read_history(path: Path) -> list[dict[str, Any]]:
    """The logged rows of a training run, from its JSON lines."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def _series(rows: Iterable[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) of the rows that have a finite number under `key`."""
    return [
        (row["step"], row[key])
        for row in rows
        if isinstance(row.get(key), (int, float)) and math.isfinite(row[key]) and "step" in row
    ]
