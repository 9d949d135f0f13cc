"""How the trainings of an ablation's rows went: what is kept of their histories, and the picture over all rows.

Of each training up to `POINTS` points are kept: means over as many equal stretches of its steps.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sifthinker.core.errors import UserError
from sifthinker.reporting import plots

FILE = "curves.json"  # of a kept row: by stage, by metric: [step, mean] each
POINTS = 24
SFT, GRPO = "sft", "grpo"  # stages
# What is drawn, by stage: the metric of the history, and what it is called.
_DRAWN = {
    SFT: {"loss": "SFT: loss"},
    GRPO: {
        "reward": "GRPO: reward",
        "rewards/format/mean": "GRPO: chains of the right form",
        "rewards/answer/mean": "GRPO: answers",
        "rewards/grounding/mean": "GRPO: r_bbox",
        "rewards/depth/mean": "GRPO: depths right",
        "kl": "GRPO: KL from SFT",
    },
}
Curves = Mapping[str, Mapping[str, Sequence[Sequence[float]]]]


def kept(histories: Mapping[str, Path]) -> dict[str, dict[str, list[list[float]]]]:
    """The curves of trainings, from their histories by stage; those of other stages are left out."""
    return {
        stage: {
            metric: points
            for metric in _DRAWN[stage]
            if (points := _thinned(plots.read_history(path), metric))
        }
        for stage, path in histories.items()
        if stage in _DRAWN
    }


def _thinned(rows: Sequence[Mapping[str, Any]], metric: str) -> list[list[float]]:
    found = [
        (float(row["step"]), float(row[metric]))
        for row in rows
        if isinstance(row.get(metric), (int, float)) and math.isfinite(row[metric])
    ]
    count = min(POINTS, len(found))
    bounds = [round(number * len(found) / count) for number in range(count + 1)] if count else []
    return [
        [round(statistics.fmean(values), 5) for values in zip(*found[start:end], strict=True)]
        for start, end in itertools.pairwise(bounds)
    ]


def read(folder: Path) -> dict[str, Any]:
    """The curves of a kept row; none where it was kept without them.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); `sif ablation --keep` writes it") from error
    return found


def picture(rows: Mapping[str, Sequence[Curves]], coloured: Sequence[str]) -> bytes | None:
    """A panel a metric, a line a row: the means over its seeds; None where no row has a curve.

    The loss of SFT is drawn for rows that end with it; those with GRPO begin from the same models.

    Args:
        rows: the curves of each row's seeds.
        coloured: the rows with a colour of their own; the others are grey.
    """
    shown = {
        (stage, metric): series
        for stage, metrics in _DRAWN.items()
        for metric in metrics
        if (series := _series(rows, stage, metric))
    }
    if not shown:
        return None
    figure, panels = plots.panels(len(shown), 3.2, 2.2)
    for axes, ((stage, metric), series) in zip(panels, shown.items(), strict=True):
        for name, (label, points) in series.items():
            if name in coloured:
                color, width = f"C{coloured.index(name) % 10}", 1.4
            else:
                label, color, width = "other rows", plots.GREY, 0.6
            axes.plot(*zip(*points, strict=True), label=label, linewidth=width, color=color)
        axes.locator_params("x", integer=True, nbins=6)
        plots.style(axes, _DRAWN[stage][metric], "y", ink="black")
    plots.legend_beside(figure, panels)
    figure.supxlabel("optimiser steps; means over the seeds", fontsize=8)
    return plots.png(figure, ground="white")


def _series(
    rows: Mapping[str, Sequence[Curves]], stage: str, metric: str
) -> dict[str, tuple[str, list[tuple[float, float]]]]:
    """By row: its name with the number of seeds that have the curve, and (step, value), means over these as far as all go."""
    found = {}
    for name, seeds in rows.items():
        drawn = [of[stage][metric] for of in seeds if of.get(stage, {}).get(metric)]
        if not drawn or (stage == SFT and any(GRPO in of for of in seeds)):
            continue
        label = name if len(drawn) == len(seeds) else f"{name} ({len(drawn)} of {len(seeds)} seeds)"
        last = min(points[-1][0] for points in drawn)
        steps = [step for step, _ in drawn[0] if step <= last] or [last]
        # Seeds that were stopped, or trained for longer, have their points at other steps.
        each = [np.array(points).T for points in drawn]
        values = np.mean([np.interp(steps, own, value) for own, value in each], axis=0)
        found[name] = label, [*zip(steps, values.tolist(), strict=True)]
    return found
