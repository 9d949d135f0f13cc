"""The ablation of the paper's Table 5: configurations of its rows, and the table of their scores.

Each row is the same pipeline under a configuration that differs in a few fields, so that rows share every stage that
does not. The paper's rows without a reward, without progress and without the depth image could not be obtained; its
VQA-SFT, CoT-SFT and full rows are shown beside ours.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sifthinker import draw, gate, history, paper
from sifthinker.config import Config, Variant, changed

TOY = "The base model is a random toy. It learns nothing: every row is chance, and differences mean nothing."
_INK, _GREY = "#2f81c1", "#808790"


def configured(config: Config, variant: Variant) -> Config:
    """The configuration of a row.

    Raises:
        UserError: the row sets a field that there is not, or a wrong value.
    """
    fields = {**variant.fields, "name": f"{config.name}.{variant.name}"}
    return changed(config, fields, f"ablation, row {variant.name}")


def write(out: Path, rows: Mapping[str, Path], reference: str, toy: bool) -> str:
    """Writes `table.json`, `table.md` and `table.png` into `out`; returns the Markdown.

    Args:
        out: a folder.
        rows: the folders of evaluations (`scores.json`, `predictions.parquet`) by row, in order.
        reference: the row that the others are compared with, where it is there.
        toy: whether the base model is a random one.
    """
    scores = {
        name: json.loads((path / "scores.json").read_text(encoding="utf-8"))["scores"]
        for name, path in rows.items()
    }
    compared = _compared(rows, reference) if reference in rows else {}
    columns = history.headlines([score for of in scores.values() for score in of])
    table = [
        {
            "row": name,
            "scores": [s for s in of if (s["benchmark"], s["metric"]) in columns],
            "missing": {s["benchmark"]: s["missing"] for s in of if s["missing"]},
            "compared": [asdict(c) for c in compared.get(name, [])],
        }
        for name, of in scores.items()
    ]
    limit = next((score["limit"] for of in scores.values() for score in of if score["limit"]), None)
    document = {"reference": reference, "toy": toy, "limit": limit, "rows": table}
    (out / "table.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = _markdown(table, columns, compared, reference, toy, limit)
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    if columns:
        (out / "table.png").write_bytes(_plot(table, columns, limit))
    return text


def _compared(rows: Mapping[str, Path], reference: str) -> dict[str, list[gate.Comparison]]:
    """Every other row against the reference, benchmark by benchmark; Holm over the whole table, no margin."""
    verdicts = {name: gate.load(path / "predictions.parquet") for name, path in rows.items()}
    made = [
        (name, comparison)
        for name, of in verdicts.items()
        for benchmark in of
        if name != reference
        if (
            comparison := gate.compare(
                benchmark, reference, verdicts[reference].get(benchmark, []), of[benchmark], 0.0
            )
        )
    ]
    judged = gate.judge([comparison for _, comparison in made], level=0.05)
    found: dict[str, list[gate.Comparison]] = {}
    for (name, _), comparison in zip(made, judged, strict=True):
        found.setdefault(name, []).append(comparison)
    return found


def _markdown(
    table: Sequence[Mapping[str, Any]],
    columns: Sequence[tuple[str, str]],
    compared: Mapping[str, Sequence[gate.Comparison]],
    reference: str,
    toy: bool,
    limit: int | None,
) -> str:
    names = [" ".join(column) for column in columns]
    lines = [f"**{TOY}**", ""] if toy else []
    lines += [f"**This is {history.quick_look(limit)}.**", ""] if limit else []
    lines += [f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for row in table:
        found = {(s["benchmark"], s["metric"]): s for s in row["scores"]}
        lines.append(f"| {row['row']} | {' | '.join(_cell(found.get(column)) for column in columns)} |")
    lines += ["", "Strict score of 100 (official in brackets), unparsable replies in per cent."]
    worse = [
        f"| {name} | {c.benchmark} | {100 * c.difference:+.1f} | {100 * c.low:+.1f} to {100 * c.high:+.1f} | {c.adjusted:.2g} |"
        for name, of in compared.items()
        for c in of
    ]
    if worse:
        head = f"Mean strict score against {reference}, paired; p one-sided (not worse), Holm over the table:"
        lines += [
            "",
            head,
            "",
            "| | benchmark | difference | 95 % interval | p |",
            "|---|---|---:|---|---:|",
            *worse,
        ]
    published = [
        f"{n.metric} {n.value:g} of 1, " + ", ".join(f"{name} {value:g}" for name, value in n.baselines)
        for n in paper.NUMBERS
        if n.table == 5
    ]
    lines += [
        "",
        f"The paper's Table 5, {paper.QWEN}: full run, {'; '.join(published)}. Its other rows are not known.",
    ]
    return "\n".join(lines)


def _cell(score: Mapping[str, Any] | None) -> str:
    if score is None or score["strict"] is None:
        return "n/a"
    factor = 100 if score["unit"] == "share" else 1
    official = "n/a" if score["official"] is None else f"{score['official'] * factor:.1f}"
    unparsable = 100 * score["unparsable"] / score["n"] if score["n"] else 0.0
    return f"{score['strict'] * factor:.1f} ({official}), {unparsable:.0f} %"


def _plot(table: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]], limit: int | None) -> bytes:
    """One panel a metric, one line a row: the strict score of 100 with its 95 % interval."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # not pyplot: no global state, no display
    from matplotlib.figure import Figure

    names = [row["row"] for row in table]
    figure = Figure(
        figsize=(1.6 + 2.3 * len(columns), 0.9 + 0.3 * len(names)), dpi=draw.DPI, layout="constrained"
    )
    FigureCanvasAgg(figure)
    for axes, column in zip(
        figure.subplots(1, len(columns), sharey=True, squeeze=False).flat, columns, strict=True
    ):
        for place, row in enumerate(table):
            score = next((s for s in row["scores"] if (s["benchmark"], s["metric"]) == column), None)
            if score is None or score["strict"] is None:
                continue
            factor = 100 if score["unit"] == "share" else 1
            if score["low"] is not None and score["high"] is not None:
                axes.hlines(
                    place, score["low"] * factor, score["high"] * factor, color=_INK, alpha=0.4, linewidth=3
                )
            axes.scatter([score["strict"] * factor], [place], color=_INK, s=22, zorder=3)
        axes.set_title(" ".join(column), fontsize=9, loc="left")
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.tick_params(labelsize=8, length=3)
        axes.grid(axis="x", color=_GREY, alpha=0.25, linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    if limit:
        figure.supxlabel(history.quick_look(limit), fontsize=8, color=_GREY)
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="white", metadata={"Software": None})
    return out.getvalue()
