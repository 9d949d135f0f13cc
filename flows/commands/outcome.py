"""What a run did with its rows, what it scored, what it took: the closing table of `sif run`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.commands.tables import Column, Printed
from sifthinker.core import durations, rejects, scores
from sifthinker.core.errors import UserError
from sifthinker.llm.call_counts import amounts
from sifthinker.reporting import bought
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Manifest, Ref


@dataclass(frozen=True)
class Row:
    """What became of the rows of a stage, and what that took."""

    stage: str  # its label
    artifact: str  # <stage>/<key>
    rows_in: int | None
    kept: int | None
    rejected: dict[str, int]  # by reason
    made: (
        float | None
    )  # when its making began, in seconds since 1970; None: the artifact is gone from the store
    seconds: float | None  # of all tries, like the cost
    cost: str  # with its currency; "" where nothing was paid
    cached: bool  # made by an earlier run: it took this one nothing
    changed: tuple[str, ...]  # why it is not that of the run before
    tries: int = 1  # that its making took

    @property
    def why(self) -> str:
        """How many rows were rejected, and the reason of most."""
        lost = sum(self.rejected.values())
        return f"{lost:,}: {rejects.top(self.rejected)}" if lost else ""


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
    earlier = before(runs.runs(store), record)
    return [
        _row(store, record, label, ref, earlier["stages"].get(label) if earlier else None)
        for label, ref in record["stages"].items()
    ]


def before(records: Iterable[Mapping[str, Any]], record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The run that another one is compared with: the latest one before it with the same configuration's name.

    Args:
        records: of all runs, the latest first.
        record: of the run.
    """
    name = record.get("config", {}).get("name")
    return next(
        (
            other
            for other in records
            if other["started"] < record["started"]
            and other["stages"]
            and other.get("config", {}).get("name") == name
        ),
        None,
    )


def _row(store: Store, record: Mapping[str, Any], label: str, ref: Mapping[str, str], earlier: Any) -> Row:
    name = f"{ref['stage']}/{ref['key']}"
    manifest = store.manifest(ref["stage"], ref["key"])
    if manifest is None:
        return Row(label, name, None, None, {}, None, None, "", False, ())
    changed: tuple[str, ...] = ()
    if earlier and (earlier["stage"], earlier["key"]) != (ref["stage"], ref["key"]):
        old = store.manifest(earlier["stage"], earlier["key"])
        changed = _changes(old, manifest) if old else ("the earlier artifact is gone",)
    of = manifest["rows"]
    cost = str(bought.notes(manifest).get("cost", ""))
    cached = manifest["made"] < record["started"]
    made, seconds, tries = manifest["made"], bought.seconds(manifest), bought.tries(manifest)
    return Row(label, name, of["in"], of["kept"], of["rejected"], made, seconds, cost, cached, changed, tries)


def _changes(old: Manifest, new: Manifest) -> tuple[str, ...]:
    """Why an artifact is not an earlier one: settings first, since inputs that changed follow from them."""
    from tasks.runtime.identity import differences

    if not (old.get("identity") and new.get("identity")):
        return ()
    found = differences(old["identity"], new["identity"])
    return tuple(sorted(found, key=lambda reason: not reason.startswith("config "))) or ("made again",)


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


STAGES = (
    Column("stage", "stage"),
    Column("rows in", "rows_in"),
    Column("kept", "kept"),
    Column("rejected", "rejected_most"),
    Column("time", lambda row: _time(row)),
    Column("cost", lambda row: f"({row['cost']})" if row["cached"] and row["cost"] else row["cost"]),
)
SCORES = (
    Column("scores", "stage"),
    Column("benchmark", "benchmark"),
    Column("metric", lambda row: "not run" if row["missing"] else row["metric"]),
    Column("official", lambda row: _number(row, "official"), spare=1),
    Column("strict", lambda row: _number(row, "strict")),
    Column("95 %", lambda row: "" if row["missing"] else f"{_number(row, 'low')} to {_number(row, 'high')}"),
    Column("questions", lambda row: "" if row["missing"] else _questions(row), spare=2),
    Column("unparsable", lambda row: "" if row["missing"] else f"{row['unparsable_rate']:.1f} %", spare=3),
)


def show(printed: Printed, store: Store, run_id: str) -> None:
    """Prints the closing table: rows, scores, hours, money."""
    made = rows(store, run_id)
    printed.table("stages", STAGES, map(as_row, made))
    evaluated = scored(store, run_id)
    if evaluated:
        printed.say()
    printed.table("scores", SCORES, map(_scores, evaluated))
    for one in evaluated:
        if why := one.score["missing"]:  # a sentence, which would make the table too wide
            printed.say(f"{one.label} {one.benchmark} not run: {why}")
    if made:
        printed.say()
        printed.say(f"{'took':9} {took(made)}")
    if any(row.rejected for row in made):
        printed.say(
            f"{'rejects':9} `sif view --store {store.root}` shows each with its file, row, field and reason"
        )


def as_row(row: Row) -> dict[str, Any]:
    """A row for programs."""
    return {**asdict(row), "rejected_most": row.why}


def _scores(one: Scored) -> dict[str, Any]:
    rate = None if one.score["missing"] else scores.unparsable_rate(one.score)
    first = {"stage": one.label, "benchmark": one.benchmark, "metric": one.metric}
    return {**first, **{name: value for name, value in one.score.items() if name not in first}} | {
        "unparsable_rate": rate
    }


def _time(row: Mapping[str, Any]) -> str:
    if row["seconds"] is None:
        return "gone"
    said = duration(row["seconds"], row["tries"])
    return f"({said}, cached)" if row["cached"] else said


def duration(seconds: float, tries: int) -> str:
    """How long an artifact took, and in how many tries."""
    return durations.in_words(seconds) + (f", {tries} tries" if tries > 1 else "")


def _questions(row: Mapping[str, Any]) -> str:
    return f"{row['n']:,}{' (a sample)' if row['limit'] else ''}"


def took(made: Iterable[Row]) -> str:
    """What the stages took that the run made, time and money, with the tries before it that ended without them."""
    fresh = [row for row in made if not row.cached and row.seconds is not None]
    money: dict[str, float] = defaultdict(float)
    for row in fresh:
        for currency, amount in amounts(row.cost).items():
            money[currency] += amount
    spent = ", ".join(f"{amount:,.2f} {currency}" for currency, amount in money.items()) or "no cost recorded"
    stages = f"{len(fresh)} stage{'' if len(fresh) == 1 else 's'} made"
    return f"{durations.in_words(sum(row.seconds or 0.0 for row in fresh))} ({stages}), {spent}"


def _number(row: Mapping[str, Any], name: str) -> str:
    if row["missing"]:
        return ""
    return "-" if row[name] is None else f"{row[name]:.1f}"


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
