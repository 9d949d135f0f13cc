"""What a run did with its rows, what it scored, what it took: the closing table of `sif run`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.commands.options import plain
from sifthinker.core import rejects, scores
from sifthinker.core.errors import UserError
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Manifest, Ref


@dataclass(frozen=True)
class Row:
    """What became of the rows of a stage, and what that took."""

    label: str
    given: int
    kept: int
    rejected: str  # how many, and the reason of most
    seconds: float
    cost: str  # with its currency; "" where nothing was paid
    cached: bool  # made by an earlier run: it took this one nothing


@dataclass(frozen=True)
class Scored:
    """A metric that stands for its benchmark, of 100."""

    label: str  # of the evaluation's stage
    benchmark: str
    metric: str
    score: scores.Score


def rows(store: Store, run_id: str) -> list[Row]:
    """A row for each stage of a run, also of one that failed later; none where it failed before its first stage."""
    record = _record(store, run_id)
    found = []
    for label, manifest in _manifests(store, record).items():
        given = manifest["rows"]
        lost = sum(given["rejected"].values())
        said = f"{lost:,}: {rejects.top(given['rejected'])}" if lost else ""
        cached = manifest["made"] < record["started"]
        cost = str(manifest["notes"].get("cost", ""))
        found.append(Row(label, given["in"], given["kept"], said, manifest["seconds"], cost, cached))
    return found


def scored(store: Store, run_id: str) -> list[Scored]:
    """The scores of a run's evaluations: the metrics that stand for their benchmarks, and benchmarks without a score."""
    from sifthinker.evaluation import history  # takes a while to import

    found = []
    for label, manifest in _manifests(store, _record(store, run_id)).items():
        if manifest["stage"] != "evaluate":
            continue
        folder = store.open(Ref(stage="evaluate", key=manifest["key"], digest=manifest["digest"])).path
        all_of_it = scores.read(folder)
        first = set(history.headlines([dict(score) for score in all_of_it]))
        found += [
            Scored(label, score["benchmark"], score["metric"], scores.of_100(score))
            for score in all_of_it
            if score["missing"] or (score["benchmark"], score["metric"]) in first
        ]
    return found


def show(store: Store, run_id: str, console: Console) -> None:
    """Prints the closing table: rows, scores, hours, money."""
    made = rows(store, run_id)
    if not made:
        return
    table = Table("stage", "rows in", "kept", "rejected", "time", "cost", box=None, pad_edge=False)
    for row in made:
        time = f"({duration(row.seconds)}, cached)" if row.cached else duration(row.seconds)
        cost = f"({row.cost})" if row.cached and row.cost else row.cost
        table.add_row(row.label, f"{row.given:,}", f"{row.kept:,}", plain(row.rejected), time, cost)
    console.print(table)
    if evaluated := scored(store, run_id):
        console.print()
        console.print(_scores(evaluated))
    console.print()
    console.print(f"{'took':9} {plain(took(made))}", highlight=False, soft_wrap=True)


def _scores(evaluated: Iterable[Scored]) -> Table:
    heads = ("scores", "benchmark", "metric", "official", "strict", "95 %", "questions", "unparsable")
    table = Table(*heads, box=None, pad_edge=False)
    for one in evaluated:
        score = one.score
        if score["missing"]:
            table.add_row(one.label, one.benchmark, f"not run: {plain(score['missing'])}")
            continue
        low, high = _number(score["low"]), _number(score["high"])
        limited = " (a sample)" if score["limit"] else ""
        table.add_row(
            one.label,
            one.benchmark,
            one.metric,
            _number(score["official"]),
            _number(score["strict"]),
            f"{low} to {high}",
            f"{score['n']:,}{limited}",
            f"{scores.unparsable_rate(score):.1f} %",
        )
    return table


def took(made: Iterable[Row]) -> str:
    """What the run itself took: the time of the stages that it made, and the money."""
    fresh = [row for row in made if not row.cached]
    money: dict[str, float] = defaultdict(float)
    for row in fresh:
        if row.cost:
            amount, _, currency = row.cost.partition(" ")
            money[currency] += float(amount)
    spent = ", ".join(f"{amount:,.2f} {currency}" for currency, amount in money.items()) or "no cost recorded"
    stages = f"{len(fresh)} stage{'' if len(fresh) == 1 else 's'} made"
    return f"{duration(sum(row.seconds for row in fresh))} ({stages}), {spent}"


def duration(seconds: float) -> str:
    """Seconds for a person."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _record(store: Store, run_id: str) -> dict[str, Any]:
    file: Path = runs.file(store, run_id)
    if not file.exists():
        return {"started": 0.0, "stages": {}}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _manifests(store: Store, record: dict[str, Any]) -> dict[str, Manifest]:
    refs = {label: Ref(**ref) for label, ref in record["stages"].items()}
    found = {label: store.manifest(ref.stage, ref.key) for label, ref in refs.items()}
    return {label: manifest for label, manifest in found.items() if manifest is not None}


def annotators_rejects(store: Store) -> list[Path]:
    """The rejects of the latest run that got as far as annotate, also where it kept too few rows and failed.

    Raises:
        UserError: there is no such run.
    """
    made = next((run for run in runs.runs(store) if "annotate" in run["stages"]), None)
    refused = [
        path for name in ("annotate", "retry") for path in store.root.glob(f"{name}/*.work/rejects.parquet")
    ]
    latest = max(refused, key=lambda path: path.stat().st_mtime, default=None)
    if latest and (made is None or made["started"] < latest.stat().st_mtime):
        return [latest]
    if made is None:
        raise UserError(f"annotate: {store.root} has no run that got as far as annotate")
    stages = made["stages"]
    return store.open(Ref(**stages.get("retry", stages["annotate"]))).rejects()
