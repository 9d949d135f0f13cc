"""What `sif nightly` prints: what a night could find, its comparisons, and where its report is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from flows.commands.options import console, plain
from sifthinker.config import Nightly
from sifthinker.evaluation import power
from sifthinker.evaluation.gate import Comparison
from sifthinker.evaluation.nights import forecast, outcomes
from sifthinker.evaluation.nights.forecast import FALLS, Expected


def show_plan(lines: Sequence[Expected], settings: Nightly) -> None:
    """Prints what the first look of a night could find."""
    falls = [f"falls {100 * fall:.0f}" for fall in FALLS]
    heads = ("checkpoint", "benchmark", "against", "questions", "before", "finds", *falls)
    table = Table(*heads, box=None, pad_edge=False)
    for row in forecast.table(lines):
        table.add_row(*map(plain, row))
    console.print(table)
    tiers = " -> ".join(settings.chain)
    console.print(
        f"finds: the smallest fall, in points, that is found in {power.RATE:.0%} of the cases. falls N: how often a fall "
        f"of N points is found. A benchmark that is compared with nothing yet is assumed to be half right. Tier {tiers}; "
        f"level {settings.level / len(settings.chain):g} a look.",
        highlight=False,
        soft_wrap=True,
    )


def show(nights: Path, night: str) -> None:
    """Prints the comparisons of a night, look by look; nothing of one that left none, such as a skipped one.

    Args:
        nights: folder of all nights.
        night: its id; looks of further tiers begin with it.
    """
    for folder in sorted(nights.glob(f"{night}*"), key=lambda path: len(path.name)):
        _show(folder)


def _show(folder: Path) -> None:
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
