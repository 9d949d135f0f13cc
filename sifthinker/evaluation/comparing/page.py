"""The page of a comparison, and the same in Markdown. One HTML file without script or network; what is data is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sifthinker.core import scores
from sifthinker.core.scores import of_100, unparsable_rate
from sifthinker.evaluation import drift, history
from sifthinker.evaluation.comparing.differences import effort
from sifthinker.evaluation.comparing.paired import LEVEL, Pair, differs, other_rules
from sifthinker.evaluation.comparing.sides import Side
from sifthinker.evaluation.nights import changed_replies
from sifthinker.reporting import pages

FLIPS = 6  # changed replies of a benchmark that are shown, where two are compared
CODE = 12  # changed modules that are named in Markdown


def write(out: Path, sides: Sequence[Side], pairs: Sequence[Pair]) -> None:
    """Writes the page to the file `out`; equal sides give equal bytes.

    Args:
        out: the file.
        sides: what is compared, the reference first.
        pairs: each of the others against it.
    """
    text = pages.render(
        "comparison.html.jinja",
        sides=sides,
        pairs=[_pair(pair) for pair in pairs],
        table=table(sides),
        efforts=[effort(side) for side in sides],
        changes=_changes(pairs[0]) if len(pairs) == 1 else [],
        percent=drift.percent,
        level=LEVEL,
        clip=changed_replies.CLIP,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")


def table(sides: Sequence[Side]) -> dict[str, Any]:
    """The scores, a row a side and a column a metric: the ablation's form. Of 100 (MME: points); None where one has no score."""
    found = [{(s["benchmark"], s["metric"]): s for s in scores.read(side.folder)} for side in sides]
    columns = history.headlines([score for of in found for score in of.values()])
    rows = []
    for side, of in zip(sides, found, strict=True):
        cells = []
        for column in columns:
            score = of.get(column)
            shown = score is not None and score["strict"] is not None
            cells.append({**of_100(score), "rate": unparsable_rate(score)} if score and shown else None)
        limit = next((score["limit"] for score in of.values() if score["limit"]), None)
        rendered = sorted({score["benchmark"] for score in of.values() if score["rendered"]})
        missing = {s["benchmark"]: s["missing"] for s in of.values() if s["missing"]}
        rows.append({"side": side, "cells": cells, "limit": limit, "rendered": rendered, "missing": missing})
    return {"columns": columns, "rows": rows}


def markdown(sides: Sequence[Side], pairs: Sequence[Pair]) -> str:
    """The comparison for a terminal and for the UI."""
    made = table(sides)
    heads = [" ".join(column) for column in made["columns"]]
    lines = [f"| | {' | '.join(heads)} | hours |", f"|---|{'---:|' * (len(heads) + 1)}"]
    for row in made["rows"]:
        cells = [_cell(cell) for cell in row["cells"]]
        lines.append(f"| {row['side'].name} | {' | '.join(cells)} | {effort(row['side']).hours:.2f} |")
    lines += ["", "Strict score of 100 (MME: points), its 95 % interval, unparsable replies in per cent."]
    for pair in pairs:
        lines += ["", f"### {pair.other.name} against {pair.reference.name}", ""]
        lines += [pair.untested, ""] if pair.untested else []
        lines += _tests(pair) if pair.comparisons else []
        lines += ["", *_differences(pair)]
    return "\n".join(lines)


def rows(sides: Sequence[Side], pairs: Sequence[Pair]) -> dict[str, list[dict[str, Any]]]:
    """The comparison for programs: scores of 100 by evaluation and metric, tests of 1, and what differs."""
    made = table(sides)
    found = [
        {"name": row["side"].name, "what": row["side"].what, "evaluation": row["side"].evaluation}
        | {"hours": effort(row["side"]).hours, "benchmark": benchmark, "metric": metric, "score": cell}
        for row in made["rows"]
        for (benchmark, metric), cell in zip(made["columns"], row["cells"], strict=True)
    ]
    names = [(pair, {"name": pair.other.name, "against": pair.reference.name}) for pair in pairs]
    return {
        "scores": found,
        "tests": [
            {**asdict(c), **name, "differs": differs(c)} for pair, name in names for c in pair.comparisons
        ],
        "untested": [{**name, "why": pair.untested} for pair, name in names if pair.untested],
        "differences": [{**name, **asdict(one)} for pair, name in names for one in pair.differences],
    }


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "n/a"
    between = "" if cell["low"] is None else f" ({cell['low']:.1f} to {cell['high']:.1f})"
    return f"{cell['strict']:.1f}{between}, {cell['rate']:.0f} %"


def _tests(pair: Pair) -> list[str]:
    lines = [
        "| benchmark | before | after | difference | 95 % interval | lost / won | p (Holm) | |",
        "|---|---:|---:|---:|---|---|---:|---|",
    ]
    for c in pair.comparisons:
        lines.append(
            f"| {c.benchmark} | {100 * c.before:.1f} | {100 * c.after:.1f} | {100 * c.difference:+.1f} "
            f"| {100 * c.low:+.1f} to {100 * c.high:+.1f} | {c.lost} / {c.won} of {c.n} | {c.adjusted:.2g} "
            f"| {'**differs**' if differs(c) else ''} |"
        )
    said = drift.sentences(pair.drifts, article="")
    return [*lines, *(["", *(f"- {text}" for text in said)] if said else [])]


def _differences(pair: Pair) -> list[str]:
    shown = [one for one in pair.differences if one.kind != "code"]
    code = [f"{one.stage}: {one.what}" for one in pair.differences if one.kind == "code"]
    lines = [f"- {one.stage}: {one.kind} {one.what}: {one.before} -> {one.after}" for one in shown]
    if code:
        more = f" and {len(code) - CODE} more" if len(code) > CODE else ""
        lines.append(f"- code: {', '.join(code[:CODE])}{more}")
    return lines or ["Nothing that decides a result differs."]


def _pair(pair: Pair) -> dict[str, Any]:
    scale = 1.1 * max([0.05, *(max(abs(c.low), abs(c.high)) for c in pair.comparisons)])

    def at(value: float) -> float:
        return 50 + 50 * value / scale

    bars = [
        {"low": at(c.low), "width": at(c.high) - at(c.low), "middle": at(c.difference)}
        for c in pair.comparisons
    ]
    return {
        "pair": pair,
        "rows": [(c, bar, differs(c)) for c, bar in zip(pair.comparisons, bars, strict=True)],
        "shown": [one for one in pair.differences if one.kind != "code"],
        "code": [one for one in pair.differences if one.kind == "code"],
    }


def _changes(pair: Pair) -> list[dict[str, Any]]:
    """The replies with another score, by benchmark."""
    apart = other_rules(pair.reference, pair.other)
    flips = changed_replies.find(pair.reference.predictions, pair.other.predictions)
    changed = [flip for flip in flips if flip.after["benchmark"] not in apart]
    shown = changed_replies.shown(changed, FLIPS, [*pair.other.benchmarks, *pair.reference.benchmarks])
    names = (pair.reference.name, pair.other.name)
    found = []
    for benchmark in dict.fromkeys(flip.after["benchmark"] for flip in changed):
        of = [flip for flip in changed if flip.after["benchmark"] == benchmark]
        cards = [changed_replies.card(flip, names) for flip in shown if flip.after["benchmark"] == benchmark]
        lost = sum(flip.lost for flip in of)
        found.append(
            {
                "benchmark": benchmark,
                "lost": lost,
                "won": len(of) - lost,
                "more": len(of) - len(cards),
                "flips": cards,
            }
        )
    return found
