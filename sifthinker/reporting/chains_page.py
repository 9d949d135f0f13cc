"""The page that sets chains of several sources side by side. One HTML file without script or network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sifthinker.core.images import data_url
from sifthinker.reporting import pages, plots
from sifthinker.system.files import whole

if TYPE_CHECKING:
    import pandas as pd

# Column of the figures: its title, and how its value is shown.
SHOWN: dict[str, tuple[str, str]] = {
    "chains": ("chains", "{:,.0f}"),
    "steps": ("steps", "{:.2f}"),
    "regions": ("boxes", "{:.2f}"),
    "words": ("words", "{:.0f}"),
    "characters": ("characters", "{:,.0f}"),
    "begins": ("begin at the whole image", "{:.1%}"),
    "overlap": ("last step on the boxes (HIoU)", "{:.3f}"),
    "depth_off": ("depths off by", "{:.3f}"),
    "depths_right": ("depths right (within 0.1)", "{:.1%}"),
    "answer_right": ("answers right", "{:.1%}"),
    "answer_unclear": ("answers for a judge", "{:.1%}"),
}
PANELS = (
    ("steps", "steps a chain"),
    ("words", "words a chain"),
    ("depth_off", "depths off by"),
    ("overlap", "HIoU of the last step"),
)
_INKS = (plots.BLUE, plots.ORANGE, plots.RED, "#4c9f70", "#8e6bb0", plots.GREY)
_BINS = 20


@dataclass(frozen=True)
class Rows:
    """What became of the rows of one source in one data set, before they were published."""

    of: str
    source: str
    kept: int
    rejected: Mapping[str, int]  # by reason, of ingest and annotate

    @property
    def total(self) -> int:
        """All rows of the source's files."""
        return self.kept + sum(self.rejected.values())


def write(
    out: Path, found: pd.DataFrame, figures: pd.DataFrame, rows: Sequence[Rows], notes: Sequence[str]
) -> None:
    """Writes the page to the file `out`; equal figures give equal bytes.

    Args:
        out: the file.
        found: a row a chain: `annotation.chain_figures.chains`.
        figures: by source: `annotation.chain_figures.by_source`.
        rows: what became of the sources' rows.
        notes: sentences about what was measured when the chains were taken.
    """
    text = pages.render(
        "chains.html.jinja",
        titles=[title for title, _ in SHOWN.values()],
        lines=_lines(figures),
        rows=rows,
        reasons=sorted({reason for one in rows for reason in one.rejected}),
        notes=notes,
        plot=data_url(histograms(found), "image/png"),
    )
    with whole(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def markdown(figures: pd.DataFrame) -> str:
    """The figures as a table for a terminal, a line a measure and a column a source."""
    lines = _lines(figures)
    heads = [f"{line['source']} of {line['of']}{', taken' if line['taken'] else ''}" for line in lines]
    table = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for at, (title, _) in enumerate(SHOWN.values()):
        table.append(f"| {title} | {' | '.join(line['cells'][at] for line in lines)} |")
    return "\n".join(table)


def histograms(found: pd.DataFrame) -> bytes:
    """PNG of small plots: how the chains of each source are spread."""
    import numpy as np

    plot, axes = plots.panels(len(PANELS), 3.6, 2.3)
    groups = list(found.groupby(["of", "source"], sort=False))
    for panel, (column, title) in zip(axes, PANELS, strict=True):
        values = found[column]
        if column == "steps":
            edges = np.arange(values.min() - 0.5, values.max() + 1.5)
        else:
            high = float(values.max()) if values.max() > 0 else 1.0
            edges = np.linspace(0, high, _BINS + 1)
        for number, ((of, source), rows) in enumerate(groups):
            share = np.full(len(rows), 1 / len(rows))
            panel.hist(
                rows[column],
                bins=edges.tolist(),
                weights=share,
                histtype="step",
                linewidth=1.6,
                color=_INKS[number % len(_INKS)],
                label=f"{source} of {of}",
            )
        plots.style(panel, f"{title} (share of chains)", "y")
    axes[0].locator_params("x", integer=True)
    handles, labels = axes[0].get_legend_handles_labels()
    plot.legend(
        handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False, labelcolor=plots.GREY
    )
    return plots.png(plot)


def _lines(figures: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "of": row["of"],
            "source": row["source"],
            "taken": bool(row["taken"]),
            "cells": [form.format(row[column]) for column, (_, form) in SHOWN.items()],
        }
        for row in figures.to_dict("records")
    ]
