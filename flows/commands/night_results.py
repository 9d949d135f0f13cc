"""What `sif nightly` prints: what a night could find, its comparisons, and where its report is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.commands.tables import Column, Printed
from sifthinker.config import Nightly
from sifthinker.evaluation import power
from sifthinker.evaluation.gate import Comparison
from sifthinker.evaluation.nights import forecast, outcomes
from sifthinker.evaluation.nights.forecast import FALLS, Expected

COMPARISONS = (
    Column("checkpoint", "checkpoint"),
    Column("benchmark", "benchmark"),
    Column("against", "against"),
    Column("before", lambda row: f"{100 * row['before']:.1f}"),
    Column("now", lambda row: f"{100 * row['after']:.1f}"),
    Column("lost / won", lambda row: f"{row['lost']} / {row['won']} of {row['n']}"),
    Column("p (Holm)", lambda row: f"{row['adjusted']:.2g}"),
    Column("finds", "finds"),
    Column("", "remark"),
)


def show_plan(printed: Printed, lines: Sequence[Expected], settings: Nightly) -> None:
    """Prints what the first look of a night could find."""
    falls = [f"falls {100 * fall:.0f}" for fall in FALLS]
    heads = ("checkpoint", "benchmark", "against", "questions", "before", "finds", *falls)
    printed.value("expected", [{**asdict(line), "falls": FALLS} for line in lines])
    printed.lines(heads, forecast.table(lines))
    tiers = " -> ".join(settings.chain)
    printed.say(
        f"finds: the smallest fall, in points, that is found in {power.RATE:.0%} of the cases. falls N: how often a fall "
        f"of N points is found. A benchmark that is compared with nothing yet is assumed to be half right. Tier {tiers}; "
        f"level {settings.level / len(settings.chain):g} a look."
    )


def show(printed: Printed, nights: Path, night: str) -> None:
    """Prints the comparisons of a night, look by look; nothing of one that left none, such as a skipped one.

    Args:
        printed: takes them, and the paths of the reports.
        nights: folder of all nights.
        night: its id; looks of further tiers begin with it.
    """
    found = sorted(nights.glob(f"{night}*/outcome.json"), key=lambda path: len(path.parent.name))
    rows = {file.parent: _rows(file) for file in found}
    for folder, of in rows.items():
        printed.table("comparisons", COMPARISONS, of)
        if of:
            printed.say(outcomes.LEGEND)
        printed.say(f"report    {folder / 'report.html'}")
    printed.value("comparisons", [row for of in rows.values() for row in of])
    printed.value("reports", [folder / "report.html" for folder in rows])


def _rows(file: Path) -> list[dict[str, Any]]:
    targets = json.loads(file.read_text(encoding="utf-8"))["targets"]
    return [
        {"night": file.parent.name, "checkpoint": name, **asdict(c)}
        | {"finds": outcomes.finds(c), "remark": outcomes.remark(c)}
        for name, target in targets.items()
        for c in outcomes.worst_first(Comparison(**values) for values in target["comparisons"])
    ]
