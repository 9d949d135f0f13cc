"""What one wants to know first: how far each step of the training came, and what the model itself says.

The report begins with it. Everything else on the page is about how it came about.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain as joined
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sifthinker.core.images import data_url
from sifthinker.core.scores import ModelScore, of_100, unparsable_rate
from sifthinker.core.tables import read
from sifthinker.reporting import pages, paper_results

TITLES = {"base": "Base", "sft": "SFT", "grpo": "GRPO"}  # of the models, in the order of the training
_TEXT = 600  # characters of a reply


def side_by_side(
    scores: Mapping[str, Sequence[ModelScore]], headlines: Collection[tuple[str, str]] = ()
) -> dict[str, Any]:
    """The strict scores of the models in columns, with their intervals and the paper's numbers; of 100 (MME: points).

    Args:
        scores: of each evaluated model, by a name of `TITLES`.
        headlines: the metrics that stand for their benchmarks (benchmark, metric); none: all but parts of another.

    Returns:
        `columns`, the titles; and `rows`: benchmark, metric, `cells` (a score as it is shown, or None where the
        model was not scored on it), `rendered` (a look-alike of the benchmark) and `paper`.
    """
    names = [name for name in TITLES if scores.get(name)]
    found: dict[tuple[str, str], dict[str, ModelScore]] = defaultdict(dict)
    for name in names:
        for score in scores[name]:
            if score["strict"] is not None:
                found[score["benchmark"], score["metric"]][name] = score
    rows = [
        {
            "benchmark": benchmark,
            "metric": metric,
            "cells": [_cell(found[benchmark, metric].get(name)) for name in names],
            "rendered": (
                rendered := any(score.get("rendered") for score in found[benchmark, metric].values())
            ),
            # Rendered look-alikes are other questions: no number of the paper stands beside them.
            "paper": []
            if rendered
            else [
                (number.model, number.table, number.value * (100 if number.unit == "share" else 1))
                for number in paper_results.published(benchmark, metric)
            ],
        }
        for benchmark, metric in _first(found, headlines)
    ]
    return {"columns": [TITLES[name] for name in names], "rows": rows}


def markdown(table: Mapping[str, Any]) -> str:
    """What `side_by_side` gives, as a table in Markdown; "" where nothing was scored."""
    if not table["rows"]:
        return ""
    columns = [*table["columns"], "Paper"]
    said = " (MME: points)" if any(pages.in_points(row["benchmark"]) for row in table["rows"]) else ""
    lines = [
        f"Strict scores of 100{said}, with 95 % intervals.",
        "",
        f"| benchmark | metric | {' | '.join(columns)} |",
        "|---|---|" + "---|" * len(columns),
    ]
    for row in table["rows"]:
        other = "<br>rendered look-alike" if row["rendered"] else ""
        paper = "<br>".join(f"{value:.1f} {model}, Table {number}" for model, number, value in row["paper"])
        cells = [*map(_in_words, row["cells"]), paper or ("other questions" if other else "not published")]
        metric = literally(row["metric"]) + ("<br>points" if pages.in_points(row["benchmark"]) else "")
        lines.append(f"| {row['benchmark']}{other} | {metric} | {' | '.join(cells)} |")
    return "\n".join(lines)


def literally(text: str) -> str:
    """A name in a cell of a table in Markdown, as code: it is no HTML, and "Acc@0.5" is no address to write to."""
    plain = text.replace("`", "'").replace("|", "\\|")
    return f"`{plain}`"


def _in_words(cell: Mapping[str, Any] | None) -> str:
    """A score of the table, with its interval where it has one; in lines, because the UI's page is narrow."""
    if cell is None:
        return "not scored"
    known = cell["low"] is not None and cell["high"] is not None
    interval = f"<br>{cell['low']:.1f} – {cell['high']:.1f}" if known else ""
    unread = f"<br>{cell['unparsable_rate']:.0f} % unparsable" if cell["unparsable_rate"] >= 5 else ""
    return f"**{cell['strict']:.1f}**{interval}{unread}"


def _first(
    metrics: Iterable[tuple[str, str]], headlines: Collection[tuple[str, str]]
) -> list[tuple[str, str]]:
    """The metrics of the table, benchmark by benchmark."""
    grouped: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for benchmark, metric in metrics:
        if (benchmark, metric) in headlines or (not headlines and "/" not in metric):
            grouped[benchmark].append((benchmark, metric))
    return [*joined.from_iterable(grouped.values())]


def _cell(score: ModelScore | None) -> dict[str, Any] | None:
    if score is None:
        return None
    return {**of_100(score), "unparsable_rate": unparsable_rate(score)}


def replies(shown: Path, most: int) -> dict[str, list[dict[str, Any]]]:
    """The model's own replies with the pictures that show where it looked: `right` and `wrong`, in turns by benchmark.

    Args:
        shown: `shown.parquet` of an evaluation.
        most: replies of both kinds together.
    """
    found: dict[bool, dict[str, list[dict[str, Any]]]] = {True: defaultdict(list), False: defaultdict(list)}
    for row in read(shown):
        found[row["strict"] >= 1][row["benchmark"]].append(_reply(row))
    half = most // 2
    right, wrong = (_in_turns(found[kind].values()) for kind in (True, False))
    return {
        "right": right[: most - min(half, len(wrong))],
        "wrong": wrong[: most - min(most - half, len(right))],
    }


def _in_turns(groups: Iterable[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [row for row in joined.from_iterable(zip_longest(*groups)) if row is not None]


def _reply(row: Mapping[str, Any]) -> dict[str, Any]:
    right = _plainly(row["reference"])
    # Where the right answer is a box, the boxes were scored, and not the words beside them.
    said = _plainly(row["read_as"]) if row["reference"].startswith("[") and row["read_as"] else row["answer"]
    return {
        "benchmark": row["benchmark"],
        "id": row["id"],
        "question": row["question"],
        "reference": right[:_TEXT],
        "said": (said or f"nothing that could be read ({row['unparsable']})")[:_TEXT],
        "score": row["strict"],
        "reply": row["reply"],
        "picture": data_url(row["picture"]),
    }


def _plainly(text: str) -> str:
    """A reference or a reading for people: JSON without its marks, coordinates with three decimals."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, dict) and isinstance(value.get("answer"), str):
        return str(value["answer"])
    if isinstance(value, list):
        numbers = [item for box in value for item in (box if isinstance(box, list) else [box])]
        if numbers and all(isinstance(number, (int, float)) for number in numbers):
            return "box " + ", ".join(f"{number:.3f}" for number in numbers)
    return text
