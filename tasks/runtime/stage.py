"""A stage as a Prefect task: its identity, its verified cache, its shards, its summary.

`@stage(...)` turns a thin function over a `Job` into a `Stage`; `make` is the one Prefect task that runs any of
them. Whether it runs is decided before it starts (`decide`), by the same code that `sif plan` prints from: the
key is computed, the artifact of that key is looked up in the store and verified, and only then Prefect's own
cache is allowed to answer (state `Cached`), so that a deleted or damaged output is never taken for a result.
"""

from __future__ import annotations

import logging
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import Timeout
from prefect import task
from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.core.tables import REJECTS, Writer
from sifthinker.store.artifacts import Artifact, Damaged, Draft, Ref, Store
from sifthinker.system.disk_errors import explained
from tasks.runtime import cluster, identity, placement, refusal, ui_artifacts
from tasks.runtime.results import Results

Log = logging.Logger | logging.LoggerAdapter[Any]
PAGE = "page.md"  # of the report: in short, for the UI
VERSIONS = ("prefect", "torch", "transformers", "peft", "trl", "deepspeed", "pyarrow", "openai")


class StageFailed(Exception):
    """A stage ended without its artifact; the message says which and why."""


@dataclass(frozen=True)
class Stage:
    """What one step of the reproduction is made of."""

    name: str
    run: Callable[[Job], None]
    config: Callable[[Config], Any]  # its section, without operational fields
    results: Results  # what decides its result: tasks/runtime/results.py
    parts: tuple[str, ...]  # input tables that it works through part by part; none: all at once
    files: Callable[[Config], Mapping[str, Path]]  # the user's files that it reads
    around: Callable[[Job], AbstractContextManager[dict[str, str]]]  # a server that must run meanwhile
    in_turn: bool  # shards one after another in the flow's process: they share a GPU
    retries: int
    lineage: bool  # a model: equal weights made with other settings are another model in every table
    expects: Callable[[Config, Mapping[str, Artifact]], str]  # of the inputs there are: what it will take
    most: Callable[[Config], float]  # largest share of its rows that it may reject
    by_choice: tuple[str, ...]  # reasons that the configuration asks for: their rows do not count in it

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        """By name: whoever is sent a stage runs its own code, and can tell whether it is the sender's."""
        return _named, (self.run.__module__, self.name)


def _named(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


@dataclass(frozen=True)
class Order:
    """One artifact to be made: what the Prefect task is given."""

    stage: Stage
    label: str  # of the stage in the flow: "merge-sft"
    config: Config
    inputs: Mapping[str, Ref]
    identity: Mapping[str, Any]
    key: str
    refresh: bool = False
    part: int | None = None
    context: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The folder of the store: a stage's shards have one of their own."""
        return self.stage.name if self.part is None else f"{self.stage.name}.parts"


@dataclass(frozen=True)
class Decision:
    """Whether a stage runs, and why."""

    order: Order
    artifact: Artifact | None  # the verified hit
    reasons: tuple[str, ...]  # why there is none
    estimate: float | None  # seconds it took the last time

    @property
    def cached(self) -> bool:
        return self.artifact is not None


@dataclass
class Job:
    """What a stage's function works with."""

    order: Order
    store: Store
    inputs: Mapping[str, Artifact]
    draft: Draft
    context: Mapping[str, str]  # of `around`, e.g. the base URL of a server
    log: Log
    progress: Progress

    @property
    def config(self) -> Config:
        return self.order.config

    @property
    def out(self) -> Path:
        return self.draft.out

    @property
    def work(self) -> Path:
        """Survives a failed or killed try of this very artifact."""
        return self.store.work(self.order.place, self.order.key)

    @property
    def folders(self) -> dict[str, Path]:
        """The image folder of each source by its name."""
        return {source.name: source.images for source in self.config.sources if source.images}

    @property
    def manifest(self) -> dict[str, Any]:
        """What is known of this artifact before it is made."""
        return self.draft.manifest

    @property
    def notes(self) -> dict[str, Any]:
        return self.draft.notes

    def table(self, name: str) -> list[Path]:
        """The Parquet files of an input table: this shard's part of it, or all parts."""
        files = self.inputs[name].parts(name)
        return files if self.order.part is None else [files[self.order.part]]

    def keep(
        self,
        table: str,
        schema: pa.Schema,
        records: Iterable[Any],
        route: Callable[[Any], int] | None = None,
        parts: int = 1,
        batch: int = 1000,
        part_by_part: bool = False,
    ) -> None:
        """Streams records into the table (`route` says into which part) and rejects into `rejects.parquet`.

        Each part holds up to `batch` rows in memory; only one does if they come `part_by_part`, each part in one go.
        """
        names = [f"{table}-{i:05}.parquet" for i in range(parts)] if route else [f"{table}.parquet"]
        rejected: Counter[str] = Counter()
        kept = at = 0
        with ExitStack() as stack:
            writers = [stack.enter_context(Writer(self.out / name, schema, batch)) for name in names]
            rejects = stack.enter_context(Writer(self.out / "rejects.parquet", REJECTS))
            for record in records:
                if isinstance(record, Reject):
                    rejects.add(record)
                    rejected[record.reason] += 1
                else:
                    part = route(record) if route else 0
                    if part_by_part and part != at:
                        writers[at].close()
                    at = part
                    writers[part].add(record)
                    kept += 1
                self.progress.add(1)
        total = kept + sum(rejected.values())
        self.draft.rows = {"in": total, "kept": kept, "rejected": dict(sorted(rejected.items()))}

    def counted(self, rows: Iterable[Any]) -> Iterator[Any]:
        """Passes the input rows on and counts them, so that none can get lost between in and out."""
        self.draft.notes.setdefault("read", 0)
        for row in rows:
            self.draft.notes["read"] += 1
            yield row


class Progress:
    """Rows done, rate and time left: a line in the log and a progress artifact in the UI, at most every 2 s."""

    def __init__(self, label: str, total: int | None, log: Log) -> None:
        self.label, self.total, self.log = label, total, log
        self.done = 0
        self._started = self._shown = time.monotonic()
        self._artifact: Any = None

    def add(self, rows: int, note: str = "") -> None:
        self.at(self.done + rows, note)

    def at(self, done: float, note: str = "") -> None:
        """Says that `done` of `total` is done."""
        self.done = int(done)
        now = time.monotonic()
        if now - self._shown < 2:
            return
        self._shown = now
        rate = done / (now - self._started)
        left = f", {(self.total - done) / rate:.0f} s left" if self.total and rate else ""
        of = f" of {self.total}" if self.total else ""
        self.log.info("%s: %d%s, %.1f/s%s%s", self.label, done, of, rate, left, f" | {note}" if note else "")
        if self.total:
            percent = min(100.0, 100.0 * done / self.total)
            self._artifact = ui_artifacts.progress(percent, f"Progress of {self.label}", self._artifact)


@contextmanager
def _alone(_: Job) -> Iterator[dict[str, str]]:
    yield {}


def stage(
    *,
    config: Callable[[Config], Any],
    results: Results,
    parts: tuple[str, ...] = (),
    files: Callable[[Config], Mapping[str, Path]] = lambda config: {},
    around: Callable[[Job], AbstractContextManager[dict[str, str]]] = _alone,
    in_turn: bool = False,
    retries: int = 0,
    lineage: bool = False,
    expects: Callable[[Config, Mapping[str, Artifact]], str] = lambda config, inputs: "",
    most: Callable[[Config], float] = lambda config: config.max_rejected,
    by_choice: tuple[str, ...] = (),
) -> Callable[[Callable[[Job], None]], Stage]:
    """Makes a stage of a function, named after it."""

    def wrap(run: Callable[[Job], None]) -> Stage:
        return Stage(
            run.__name__,
            run,
            config,
            results,
            parts,
            files,
            around,
            in_turn,
            retries,
            lineage,
            expects,
            most,
            by_choice,
        )

    return wrap


def decide(
    store: Store, stage: Stage, label: str, config: Config, inputs: Mapping[str, Ref], refresh: bool
) -> Decision:
    """Whether the stage's artifact is in the store, whole; and if not, why not."""
    files = stage.files(config)
    for name, path in files.items():
        if not path.exists():
            raise UserError(f"{label}: {name}: {path} does not exist; correct the path in the configuration")
    of = identity.identity(
        stage.name,
        stage.results.of(config),
        stage.config(config),
        {name: ref.digest for name, ref in inputs.items()},
        {name: store.digests.tree(path) for name, path in files.items()},
    )
    order = Order(stage, label, config, inputs, of, identity.key(of), refresh)
    return _look_up(store, order)


def latest(store: Store, place: str, label: str, name: str) -> dict[str, Any] | None:
    """The manifest of the latest artifact of a stage, rather of a configuration of the same name."""
    earlier = [m for m in store.manifests(place) if m["label"] == label]
    return next((m for m in earlier if m["name"] == name), earlier[0] if earlier else None)


def _look_up(store: Store, order: Order) -> Decision:
    # Nobody asks why a shard runs.
    last = latest(store, order.place, order.label, order.config.name) if order.part is None else None
    estimate = last["seconds"] if last else None
    if order.refresh:
        return Decision(order, None, ("asked for by `refresh`",), estimate)
    try:
        found = store.find(order.place, order.key)
    except Damaged as damage:
        return Decision(order, None, (f"damaged: {damage}",), estimate)
    if found and (
        wrong := refusal.too_many(order, found.manifest["rows"])
    ):  # a stricter max_rejected than then
        return Decision(order, None, (wrong,), estimate)
    if found:
        return Decision(order, found, (), estimate)
    if last is None:
        return Decision(order, None, ("never made",), None)
    reasons = identity.differences(last["identity"], order.identity)
    return Decision(order, None, tuple(reasons) or ("its output is gone from the store",), estimate)


def execute(decision: Decision, store: Store) -> Ref:
    """Runs the Prefect task of a decision, or has Prefect's cache answer; waits for it."""
    return _result(decision, outcome(decision, store))


def outcome(decision: Decision, store: Store) -> State[Ref]:
    """The same, as the task's final state."""
    state: State[Ref] = _task(decision, store)(decision.order, str(store.root), return_state=True)
    return state


def _result(decision: Decision, state: State[Ref]) -> Ref:
    if not state.is_completed():
        raise StageFailed(f"{decision.order.label}: {state.message}")
    made = Ref.model_validate(state.result())
    # The very object that the task returned draws the arrow in the UI's graph; what counts is the verified artifact.
    return made if decision.artifact is None or made == decision.artifact.ref else decision.artifact.ref


def _task(decision: Decision, store: Store) -> Any:
    order = decision.order
    return make.with_options(
        name=order.label,
        task_run_name=order.label if order.part is None else f"{order.label} part {order.part + 1}",
        retries=order.stage.retries,
        retry_delay_seconds=10,
        cache_policy=CachePolicy.from_cache_key_fn(lambda *_: f"{order.place}-{order.key}"),
        result_storage=store.root / "prefect" / "results",
        refresh_cache=not decision.cached,
    )


@task(persist_result=True, result_serializer="json")
def make(order: Order, root: str) -> Ref | State[Ref]:
    """Makes one artifact (of a stage or of one of its shards) where the stage is placed, unless it is there by now."""
    log = get_run_logger()
    store = Store(Path(root))
    there = placement.pool(order.config, order.stage.name)
    state = placement.elsewhere(order, there, store, log) if there else _here(order, store, log)
    if not state.is_completed():
        return state
    artifact = store.find(order.place, order.key)
    assert artifact, "the artifact was just made"
    if state.name == "Cached":
        return Completed(name="Cached", message=state.message, data=artifact.ref)
    if order.part is None:
        ui_artifacts.markdown(summary(order.label, artifact.manifest), order.label, order.label)
    return artifact.ref


def _here(order: Order, store: Store, log: Log) -> State[Any]:
    """Makes the artifact in this process; `Cached` when another run has made it meanwhile."""
    try:
        if order.part is not None and _spread(order):
            cluster.check(order)
        with explained(order.label), ExitStack() as stack:
            lock = store.lock(order.place, order.key)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.info("another run is making %s %s: waiting for it", order.label, order.key)
                lock.acquire()
            stack.callback(lock.release)
            if found := _made_meanwhile(store, order):
                return Completed(name="Cached", message=f"{found.stage}/{found.key} is in the store")
            _make(order, store, log)
    except (UserError, StageFailed) as error:  # explained already: no traceback, and no use in a retry
        log.error("%s", error)
        return Failed(message=str(error))
    return Completed()


def _made_meanwhile(store: Store, order: Order) -> Ref | None:
    if order.refresh:
        return None
    try:
        found = store.find(order.place, order.key)
    except Damaged as damage:
        get_run_logger().warning("%s is made again: %s", order.label, damage)
        store.discard(order.place, order.key)
        return None
    return found.ref if found and not refusal.too_many(order, found.manifest["rows"]) else None


def _make(order: Order, store: Store, log: Log) -> None:
    inputs = {name: store.open(ref) for name, ref in order.inputs.items()}
    manifest = {
        "label": order.label,
        "name": order.config.name,
        "identity": order.identity,
        "inputs": {name: ref.model_dump() for name, ref in order.inputs.items()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _installed()}},
    }
    with store.making(order.place, order.key, manifest) as draft:
        draft.lineage = order.stage.lineage
        fan_out = bool(order.stage.parts) and order.part is None
        progress = Progress(order.label, None if fan_out else _rows(order, inputs), log)
        job = Job(order, store, inputs, draft, order.context, log, progress)
        around = order.stage.around(job) if order.part is None else nullcontext(dict(order.context))
        with around as context:
            job.context = context
            if fan_out:
                _fan_out(job)
            else:
                order.stage.run(job)
        rows = draft.rows
        read = draft.notes.pop("read", rows["in"])
        lost = read - rows["kept"] - sum(rows["rejected"].values())
        assert not lost, f"{order.label}: {read} rows in, {rows} out: {lost} lost"
        refusal.check(job)


def _fan_out(job: Job) -> None:
    """Makes the shards, each a cached task of its own, and adds up their rows."""
    order, store = job.order, job.store
    digests = {name: job.inputs[name].part_digests(name) for name in order.stage.parts}
    count = len(next(iter(digests.values())))
    assert all(len(parts) == count for parts in digests.values()), "input tables come in different parts"
    job.progress.total = count
    decisions = []
    for index in range(count):
        of = {
            **order.identity,
            "inputs": {**order.identity["inputs"], **{name: parts[index] for name, parts in digests.items()}},
            "stage": f"{order.stage.name}.parts",
        }
        part = replace(order, identity=of, key=identity.key(of), part=index, context=dict(job.context))
        decisions.append(_look_up(store, part))
    shards = []
    if order.stage.in_turn and not _spread(order):
        for decision in decisions:
            shards.append(execute(decision, store))
            job.progress.add(1)
    else:
        with _submitting(order) as submit:
            futures = [
                submit(_task(decision, store), decision.order, str(store.root)) for decision in decisions
            ]
            for decision, future in zip(decisions, futures, strict=True):
                future.wait()
                shards.append(_result(decision, future.state))
                job.progress.add(1)
    job.draft.shards = shards
    totals: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for shard in shards:
        manifest = store.open(shard).manifest
        totals.update({name: manifest["rows"][name] for name in ("in", "kept")})
        rejected.update(manifest["rows"]["rejected"])
        for name, value in manifest["notes"].items():
            if isinstance(value, (int, float)):
                job.notes[name] = job.notes.get(name, 0) + value
            else:
                job.notes[name] = value
    job.draft.rows = {"in": totals["in"], "kept": totals["kept"], "rejected": dict(sorted(rejected.items()))}


def _spread(order: Order) -> bool:
    """Whether the shards go to the Dask cluster: not where a server or a ledger of this machine serves them."""
    return bool(order.config.dask) and order.stage.around is _alone


@contextmanager
def _submitting(order: Order) -> Iterator[Callable[[Any, Order, str], Any]]:
    """How shards are started: by the flow's runner, or on the Dask cluster."""
    if not _spread(order):
        yield lambda task, order, root: task.submit(order, root)
        return
    assert order.config.dask
    with cluster.runner(order.config.dask) as runner:
        yield lambda task, order, root: runner.submit(task, {"order": cluster.portable(order), "root": root})


def _rows(order: Order, inputs: Mapping[str, Artifact]) -> int | None:
    """How many rows will come in, where that is known before: the first part-wise input's."""
    if order.part is None or not order.stage.parts:
        return None
    import pyarrow.parquet as pq

    first = order.stage.parts[0]
    return int(pq.read_metadata(inputs[first].parts(first)[order.part]).num_rows)


def _installed() -> list[str]:
    from importlib.util import find_spec

    return [name for name in VERSIONS if find_spec(name)]


def summary(label: str, manifest: Mapping[str, Any]) -> str:
    """A stage's outcome in Markdown."""
    rows = manifest["rows"]
    lines = [
        f"### {label}",
        "",
        "| rows in | kept | rejected | seconds | key | digest |",
        "|---|---|---|---|---|---|",
        f"| {rows['in']} | {rows['kept']} | {sum(rows['rejected'].values())} | {manifest['seconds']:.1f} "
        f"| `{manifest['key']}` | `{manifest['digest'][:12]}` |",
    ]
    if rows["rejected"]:
        lines += ["", "| rejected because | rows |", "|---|---|"]
        lines += [f"| {reason} | {count} |" for reason, count in rows["rejected"].items()]
    notes = {name: value for name, value in manifest["notes"].items() if not isinstance(value, (dict, list))}
    if notes:
        lines += ["", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in notes.items())]
    return "\n".join(lines)
