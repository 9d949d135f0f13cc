"""What a store can tell Prometheus: rows, rejects, time, money, calls, tokens, training, scores, nights.

Stages are short-lived processes on whichever machine, so they are not scraped themselves. All that they have to say lies in
the store (records of runs, manifests, progress files of trainings, histories of nights) and in the ledger of paid calls. An
exporter beside the store reads them when it is scraped; it works with every placement and can be restarted at any time.
A record is read while it may be written: records are renamed into place, and of a progress file whole lines count.

What the Prefect server says is a part that the command adds (`tasks/operations/server_metrics.py`). While the server is dead, the
rest is served, and `sif_server_up` is 0.

`FAMILIES` is the list of all metrics. `infra/grafana.json` draws them, and `infra/alert_rules.yaml` has alerts on them; tests compare.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sifthinker.core import scores
from sifthinker.core.errors import UserError
from sifthinker.evaluation import history
from sifthinker.llm import bookkeeping, call_counts
from sifthinker.reporting import bought
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Damaged, Manifest
from sifthinker.system.json_lines import whole_lines

logger = logging.getLogger(__name__)
CONFIGURATIONS = 20  # of which the latest run is shown; each name is a time series of its own
TAIL = 65_536  # bytes at the end of a progress file: more than one step writes
FRESH = 10.0  # seconds for which what was read is served again: several scrapers cost one look

RUN = ("configuration",)
STAGE = (*RUN, "stage")


@dataclass(frozen=True)
class Family:
    """A metric: what it means, in which unit, and by what it is divided."""

    help: str
    labels: tuple[str, ...] = ()
    counter: bool = False  # its name gets `_total`


FAMILIES: dict[str, Family] = {
    "sif_part_readable": Family("1 where this part could be read at the last look, else 0", ("part",)),
    "sif_look_seconds": Family("What the last look at the store took"),
    "sif_runs": Family("Recorded runs by their state; 'stopped' has reached --stop-after", ("state",)),
    "sif_run_started_timestamp_seconds": Family(
        "When the latest run of a configuration began", (*RUN, "state")
    ),
    "sif_stage_under_way_timestamp_seconds": Family("Since when the latest run is at this stage", STAGE),
    "sif_stage_rows": Family("Rows of a stage of the latest run", (*STAGE, "outcome")),
    "sif_stage_rejected_rows": Family("Rejected rows of a stage of the latest run", (*STAGE, "reason")),
    "sif_stage_duration_seconds": Family(
        "What the making of the stage's artifact took, with tries that ended without it", STAGE
    ),
    "sif_stage_made_timestamp_seconds": Family("When the stage's artifact was made", STAGE),
    "sif_stage_cost": Family("Money that the stage has cost, in its currency", (*STAGE, "currency")),
    "sif_api_calls": Family("Calls that were answered and recorded", ("account",), counter=True),
    "sif_api_tokens": Family("Tokens of recorded calls", ("account", "kind"), counter=True),
    "sif_api_money": Family("Money of recorded calls, in the account's currency", ("account",), counter=True),
    "sif_training_step": Family("The last step of a training", STAGE),
    "sif_training_steps": Family("Steps that the training has in all", STAGE),
    "sif_training_updated_timestamp_seconds": Family("When the training last wrote a step", STAGE),
    "sif_training_loss": Family("Loss of the last logged step", STAGE),
    "sif_training_reward": Family("Mean weighted reward of the last logged step of GRPO", STAGE),
    "sif_training_reward_part": Family("Mean of one reward at the last logged step", (*STAGE, "reward")),
    "sif_training_kl": Family("KL to the reference of the last logged step of GRPO", STAGE),
    "sif_training_tokens_per_second": Family("Tokens per second of the last logged step, all ranks", STAGE),
    "sif_score": Family("Score of 100 of the latest evaluation", (*STAGE, "benchmark", "metric", "kind")),
    "sif_unparsable_percent": Family("Unparsable replies, of 100", (*STAGE, "benchmark", "metric")),
    "sif_night_started_timestamp_seconds": Family("When the latest night of a checkpoint began", ("target",)),
    "sif_night_ended_timestamp_seconds": Family("When the latest night of a checkpoint ended", ("target",)),
    "sif_night_outcome": Family("1 for the outcome of the checkpoint's latest night", ("target", "outcome")),
    "sif_server_up": Family("1 where the Prefect server and its database answer, else 0"),
    "sif_server_late_runs": Family("Scheduled runs that no worker has taken a minute after they were due"),
    "sif_server_late_seconds": Family("For how long the oldest of these runs is due; 0 without one"),
    "sif_server_unscheduled_deployments": Family(
        "Deployments with an active schedule for which the server has made no run"
    ),
}
OF_STEP = {  # metrics by what a training logs
    "step": "sif_training_step",
    "total": "sif_training_steps",
    "loss": "sif_training_loss",
    "reward": "sif_training_reward",
    "kl": "sif_training_kl",
    "tokens_per_second": "sif_training_tokens_per_second",
}
Found = tuple[str, tuple[str, ...], float]  # the metric, the values of its labels, the value


class StoreCollector(Collector):
    """Reads a store when Prometheus scrapes it, at most every `FRESH` seconds."""

    def __init__(self, store: Store, more: Mapping[str, Callable[[], Iterator[Found]]] = {}) -> None:
        """Reads nothing yet.

        Args:
            store: of the runs.
            more: parts besides those of the store, by their names. One that cannot be read raises an OSError.
        """
        self._store = store
        self._more = more
        self._lock = threading.Lock()
        self._at = -math.inf
        self._found: list[Metric] = []

    def describe(self) -> Iterable[Metric]:
        """The metrics without values, so that registering the collector reads nothing."""
        return list(_families({}).values())

    def collect(self) -> Iterable[Metric]:
        """The metrics with the values that they have now."""
        with self._lock:
            if time.monotonic() - self._at >= FRESH:
                self._found = _look(self._store, self._more)
                self._at = time.monotonic()
            return self._found


def _look(store: Store, more: Mapping[str, Callable[[], Iterator[Found]]]) -> list[Metric]:
    began = time.monotonic()
    values: dict[str, dict[tuple[str, ...], float]] = {}
    parts: dict[str, Callable[[], Iterator[Found]]] = {
        "runs": lambda: _runs(store),
        "ledger": lambda: _ledger(store),
        "nights": lambda: _nights(store),
        **more,
    }
    for part, read in parts.items():
        readable = 1.0
        try:
            for name, labels, value in read():
                values.setdefault(name, {})[labels] = value
        except (OSError, ValueError, KeyError, UserError, Damaged, sqlite3.Error, psycopg.Error) as error:
            logger.warning("the part %s cannot be read (store %s): %s", part, store.root, error)
            readable = 0.0
        values.setdefault("sif_part_readable", {})[(part,)] = readable
    values["sif_look_seconds"] = {(): time.monotonic() - began}
    return list(_families(values).values())


def _families(values: Mapping[str, Mapping[tuple[str, ...], float]]) -> dict[str, Metric]:
    found: dict[str, Metric] = {}
    for name, family in FAMILIES.items():
        kind: Any = CounterMetricFamily if family.counter else GaugeMetricFamily
        made = kind(name, family.help, labels=family.labels)
        for labels, value in values.get(name, {}).items():
            made.add_metric(labels, value)
        found[name] = made
    return found


def _runs(store: Store) -> Iterator[Found]:
    store.pull()
    records = runs.runs(store)
    counts: dict[str, int] = {}
    for record in records:
        state = _state(store, record)
        counts[state] = counts.get(state, 0) + 1
    for state, count in counts.items():
        yield "sif_runs", (state,), count
    latest: dict[str, Mapping[str, Any]] = {}
    for record in records:
        latest.setdefault(str(record.get("config", {}).get("name", "")), record)
    for name, last in list(latest.items())[:CONFIGURATIONS]:
        yield from _run(store, name, last)


def _state(store: Store, record: Mapping[str, Any]) -> str:
    """The first word of a run's state: where it stopped is no label."""
    return runs.state(store, record).partition(" ")[0]


def _run(store: Store, name: str, record: Mapping[str, Any]) -> Iterator[Found]:
    state = _state(store, record)
    yield "sif_run_started_timestamp_seconds", (name, state), record["started"]
    at = record.get("at")
    if at and state == runs.RUNNING:
        yield "sif_stage_under_way_timestamp_seconds", (name, at["label"]), at["since"]
        yield from _training(store.folder(at["stage"], at["key"]).with_suffix(".work"), (name, at["label"]))
    for label, ref in record["stages"].items():
        manifest = store.manifest(ref["stage"], ref["key"])
        if manifest is None:  # pruned
            continue
        stage = (name, label)
        yield from _stage(manifest, stage)
        folder = store.folder(ref["stage"], ref["key"])
        if at is None or at["label"] != label:
            yield from _training(folder.with_suffix(".work"), stage)
        if ref["stage"] == "evaluate" and folder.is_dir():
            yield from _scores(folder, stage)


def _stage(manifest: Manifest, stage: tuple[str, str]) -> Iterator[Found]:
    rows = manifest["rows"]
    yield "sif_stage_rows", (*stage, "in"), rows["in"]
    yield "sif_stage_rows", (*stage, "kept"), rows["kept"]
    yield "sif_stage_rows", (*stage, "rejected"), sum(rows["rejected"].values())
    for reason, count in rows["rejected"].items():
        yield "sif_stage_rejected_rows", (*stage, reason), count
    yield "sif_stage_duration_seconds", stage, bought.seconds(manifest)
    yield "sif_stage_made_timestamp_seconds", stage, manifest["made"]
    for currency, amount in call_counts.amounts(str(bought.notes(manifest).get("cost", ""))).items():
        yield "sif_stage_cost", (*stage, currency), amount


def _training(work: Path, stage: tuple[str, str]) -> Iterator[Found]:
    """The last step of a training's progress file; nothing of a stage that is none."""
    file = work / "progress.jsonl"
    if not file.is_file():
        return
    logged_steps = whole_lines(file, TAIL)
    if not logged_steps:
        return
    step = logged_steps[-1]
    yield "sif_training_updated_timestamp_seconds", stage, file.stat().st_mtime
    for logged, name in OF_STEP.items():
        if step.get(logged) is not None:
            yield name, stage, step[logged]
    for logged, value in step.items():
        what, _, rest = logged.removeprefix("rewards/").partition("/")
        if logged.startswith("rewards/") and rest == "mean" and value is not None:
            yield "sif_training_reward_part", (*stage, what), value


def _scores(folder: Path, stage: tuple[str, str]) -> Iterator[Found]:
    for score in scores.read(folder):
        if score["missing"]:
            continue
        of: Mapping[str, Any] = scores.of_100(score)
        what = (*stage, score["benchmark"], score["metric"])
        for kind in ("official", "strict", "low", "high"):
            if of[kind] is not None:
                yield "sif_score", (*what, kind), of[kind]
        yield "sif_unparsable_percent", what, scores.unparsable_rate(score)


def _ledger(store: Store) -> Iterator[Found]:
    """What the accounts have cost since the ledger began."""
    query = "SELECT account, calls, prompt_tokens, cached_tokens, completion_tokens, money FROM accounts"
    where = bookkeeping.place(store.root)
    rows: Any  # the two drivers name their types otherwise
    if isinstance(where, Path):
        if not where.exists():
            return
        with closing(sqlite3.connect(f"{where.resolve().as_uri()}?mode=ro", uri=True, timeout=10)) as db:
            rows = db.execute(query).fetchall()
    else:
        with closing(bookkeeping.database().open()) as opened:
            rows = opened.execute(query).fetchall()
    for account, calls, prompt, cached, completion, money in rows:
        yield "sif_api_calls", (account,), calls
        for kind, tokens in (("prompt", prompt), ("cached", cached), ("completion", completion)):
            yield "sif_api_tokens", (account, kind), tokens
        yield "sif_api_money", (account,), float(money)


def _nights(store: Store) -> Iterator[Found]:
    """The latest night of each checkpoint."""
    latest: dict[str, tuple[float, float, str]] = {}
    for file in (store.root / "history").glob("*.parquet"):
        try:
            rows: list[Any] = pq.read_table(file, columns=["started", "target", "outcome"]).to_pylist()
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file}: {error}") from error
        ended = file.stat().st_mtime  # a night writes it at its end
        for row in rows:
            started = row["started"].timestamp()
            if started >= latest.get(row["target"], (0.0, 0.0, ""))[0]:
                latest[row["target"]] = (started, ended, row["outcome"])
    for target, (started, ended, outcome) in latest.items():
        yield "sif_night_started_timestamp_seconds", (target,), started
        yield "sif_night_ended_timestamp_seconds", (target,), ended
        for one in history.WORST_FIRST:
            yield "sif_night_outcome", (target, one), float(one == outcome)
