"""What `sif nightly` prints of a night: its comparisons, and where its report is."""

from __future__ import annotations

import json
from pathlib import Path

from rich.table import Table

from flows.commands.options import console, plain
from sifthinker.evaluation.gate import Comparison
from sifthinker.evaluation.nights import outcomes


def show(folder: Path) -> None:
    """Prints the comparisons of `outcome.json`; nothing for a night that left none, such as a skipped one."""
    file = folder / "outcome.json"
    if not file.is_file():
        return
    targets = json.loads(file.read_text(encoding="utf-8"))["targets"]
    heads = ("checkpoint", "benchmark", "against", "before", "now", "lost / won", "p (Holm)", "finds", "")
    table = Table(*heads, box=None, pad_edge=False)
    for name, target in targets.items():
        for c in outcomes.worst_first(Comparison(**values) for values in target["comparisons"]):
            table.add_row(
                plain(name),
                c.benchmark,
                c.against,
                f"{100 * c.before:.1f}",
                f"{100 * c.after:.1f}",
                f"{c.lost} / {c.won} of {c.n}",
                f"{c.adjusted:.2g}",
                outcomes.finds(c),
                outcomes.remark(c),
            )
    if table.row_count:
        console.print(table)
        console.print(outcomes.LEGEND, highlight=False, soft_wrap=True)
    console.print(f"report    {folder / 'report.html'}", highlight=False, soft_wrap=True)
