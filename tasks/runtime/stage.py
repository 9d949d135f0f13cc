"""What a stage is: a thin function over a `Job`, and what the pipeline has to know about it.

`@stage(...)` turns such a function into a `Stage`. `tasks/runtime/decide.py` decides whether its artifact has to be made,
and `tasks/runtime/make.py` makes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from sifthinker.config import Config
from sifthinker.core.records import Reject
from sifthinker.core.tables import REJECTS, Writer
from sifthinker.llm.bookkeeping import Place
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Artifact, Draft, Ref
from sifthinker.system import cores
from tasks.runtime import store_paths
from tasks.runtime.elsewhere import Elsewhere
from tasks.runtime.progress import Progress
from tasks.runtime.stage_log import Log
from tasks.runtime.stage_results import Results

PAGE = "page.md"  # of the report: in short, for the UI


class StageFailed(Exception):
    """A stage ended without its artifact. The message says which stage, and why."""


class StageRefused(StageFailed):
    """A stage ended by a mistake of the user's. The message says what to correct."""


@dataclass(frozen=True)
class Endpoints:
    """Where a stage asks its models, and the ledger of what is paid for that."""

    ledger: Place = Path()  # only where there is a URL
    urls: tuple[str, ...] = ()  # a base URL for each section of the configuration that asks, in order
    here: str = ""  # why only this process can ask; "": another machine can, too

    @property
    def url(self) -> str:
        """The base URL of a stage that asks one endpoint."""
        (url,) = self.urls
        return url


@dataclass(frozen=True)
class Sent:
    """Of a shard that a worker of the Dask cluster makes: what it has to know of the flow's machine."""

    root: str  # its store
    remote: str | None  # the copy of the store that both see
    ledger: str  # the database that records what is paid (`bookkeeping.identity`); "": nothing is


@dataclass(frozen=True)
class Further:
    """A further round of a stage's shards: those that are made again, to keep more of their rows."""

    most: Mapping[int, int]  # rows that each shall keep then, by the number of the shard
    said: str  # why, for a person


@dataclass(frozen=True)
class Stage:
    """What one step of the reproduction is made of."""

    name: str
    run: Callable[[Job], None]
    config: Callable[[Config], Any]  # its section, without operational fields
    results: Results  # what decides its result: tasks/runtime/results.py
    parts: tuple[
        str, ...
    ]  # input tables that it works through part by part, where they are given; none: all at once
    files: Callable[[Config], Mapping[str, Path]]  # the user's files that it reads
    around: Callable[[Job], AbstractContextManager[Endpoints]]  # a server that must run meanwhile
    in_turn: bool  # shards one after another in the flow's process: they share a GPU
    retries: int
    lineage: bool  # a model: equal weights made with other settings are another model in every table
    expects: Callable[[Config, Mapping[str, Artifact]], str]  # of the inputs there are: what it will take
    lacks: Callable[
        [Config], Sequence[str]
    ]  # what of the user's is not there, so that it would fail or leave out rows
    most: Callable[[Config], float]  # largest share of its rows that it may reject
    by_choice: tuple[str, ...]  # reasons that the configuration asks for: their rows do not count in it
    shares: Callable[
        [Config, list[int]], list[int | None]
    ]  # of the rows of its parts: how many each shall keep
    further: Callable[
        [Config, Sequence[Mapping[str, Any]]], Further | None
    ]  # of what its parts kept and rejected: which ones go on
    fetches: bool  # it brings what exists elsewhere, so it also runs before `start_at`

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        """Pickles a stage by its name, so that a worker that is sent one runs its own code, and can compare the two."""
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
    endpoints: Endpoints = Endpoints()  # of a shard: those of its stage
    most: int | None = None  # of a shard: rows that it shall keep; none = all
    round: int = 1  # of a shard: how often its stage shared out by now
    sent: Sent | None = None  # of a shard that another machine makes

    @property
    def parts(self) -> tuple[str, ...]:
        """The input tables that it is worked through by, part by part: those of its stage that there are."""
        return tuple(name for name in self.stage.parts if name in self.inputs)

    @property
    def place(self) -> str:
        """The folder of the store: a stage's shards have one of their own."""
        return self.stage.name if self.part is None else f"{self.stage.name}.parts"


@dataclass
class Job:
    """What a stage's function works with."""

    order: Order
    store: Store
    inputs: Mapping[str, Artifact]
    draft: Draft
    endpoints: Endpoints  # that `around` keeps there meanwhile
    log: Log
    progress: Progress
    elsewhere: Elsewhere = field(default_factory=Elsewhere)
    replaced: list[Ref] = field(default_factory=list)  # shards of earlier rounds

    @property
    def config(self) -> Config:
        """Of the run."""
        return self.order.config

    @property
    def out(self) -> Path:
        """The folder that becomes the artifact."""
        return self.draft.out

    @property
    def work(self) -> Path:
        """A folder that survives a failed or killed try of this very artifact."""
        return self.store.work(self.order.place, self.order.key)

    @property
    def folders(self) -> dict[str, Path]:
        """The image folder of each source by its name.

        Raises:
            UserError: one is not on this machine, which makes a shard for another one.
        """
        given = {source.name: source.images for source in self.config.sources if source.images}
        if self.order.sent is None:
            return given
        return {name: store_paths.pictures(name, path, self.store) for name, path in given.items()}

    @property
    def manifest(self) -> dict[str, Any]:
        """What is known of this artifact before it is made."""
        return self.draft.manifest

    @property
    def notes(self) -> dict[str, Any]:
        """What the stage has to say in its manifest, by name."""
        return self.draft.notes

    def table(self, name: str) -> list[Path]:
        """The Parquet files of an input table: this shard's part of it, or all parts."""
        given = self.inputs[name]
        return given.parts(name) if self.order.part is None else [given.part(name, self.order.part)]

    @property
    def cores(self) -> int:
        """Processes that it may work in."""
        return self.config.processes or cores.available()

    def keep(self, table: str, schema: pa.Schema, records: Iterable[Any], batch: int = 1000) -> None:
        """Streams records into the table and rejects into `rejects.parquet`; `batch` rows are held in memory."""
        with Writer(self.out / f"{table}.parquet", schema, batch) as writer:

            def outcomes() -> Iterator[Reject | int]:
                for record in records:
                    if isinstance(record, Reject):
                        yield record
                    else:
                        writer.add(record)
                        yield 1

            self.count(outcomes())

    def count(self, outcomes: Iterable[Reject | int], shown: bool = True) -> None:
        """Streams rejects into `rejects.parquet`, and counts the rows that are written elsewhere.

        Args:
            outcomes: each a reject, or the number of rows that were written.
            shown: the progress is to count them.
        """
        rejected: Counter[str] = Counter()
        kept = 0
        with Writer(self.out / "rejects.parquet", REJECTS) as rejects:
            for outcome in outcomes:
                if isinstance(outcome, Reject):
                    rejects.add(outcome)
                    rejected[outcome.reason] += 1
                else:
                    kept += outcome
                if shown:
                    self.progress.add(1 if isinstance(outcome, Reject) else outcome)
        total = kept + sum(rejected.values())
        self.draft.rows = {"in": total, "kept": kept, "rejected": dict(sorted(rejected.items()))}

    def parts(self, table: str, count: int, folder: str = "") -> list[Path]:
        """The files of a table in so many parts, in `folder` below the artifact's own."""
        place = self.out / folder
        place.mkdir(exist_ok=True)
        return [place / f"{table}-{part:05}.parquet" for part in range(count)]

    def counted(self, rows: Iterable[Any]) -> Iterator[Any]:
        """Passes the input rows on and counts them, so that none can get lost between in and out."""
        self.draft.notes.setdefault("read", 0)
        for row in rows:
            self.draft.notes["read"] += 1
            yield row


@contextmanager
def _alone(_: Job) -> Iterator[Endpoints]:
    yield Endpoints()


def stage(
    *,
    config: Callable[[Config], Any],
    results: Results,
    parts: tuple[str, ...] = (),
    files: Callable[[Config], Mapping[str, Path]] = lambda config: {},
    around: Callable[[Job], AbstractContextManager[Endpoints]] = _alone,
    in_turn: bool = False,
    retries: int = 0,
    lineage: bool = False,
    expects: Callable[[Config, Mapping[str, Artifact]], str] = lambda config, inputs: "",
    lacks: Callable[[Config], Sequence[str]] = lambda config: (),
    most: Callable[[Config], float] = lambda config: config.max_rejected,
    by_choice: tuple[str, ...] = (),
    shares: Callable[[Config, list[int]], list[int | None]] = lambda config, rows: [None] * len(rows),
    further: Callable[[Config, Sequence[Mapping[str, Any]]], Further | None] = lambda config, parts: None,
    fetches: bool = False,
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
            lacks,
            most,
            by_choice,
            shares,
            further,
            fetches,
        )

    return wrap
