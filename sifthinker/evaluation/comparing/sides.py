"""The evaluation that a name means: of a run, a checkpoint, a night, or by its key."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from sifthinker import config as configuration
from sifthinker import scenes
from sifthinker.core import scores
from sifthinker.core.errors import UserError
from sifthinker.evaluation import evaluations, history
from sifthinker.store import aliases, checkpoints, lineage, runs
from sifthinker.store.artifacts import Store
from sifthinker.store.lineage import Node
from sifthinker.store.manifest import Artifact, Damaged, Ref


@dataclass(frozen=True)
class Side:
    """One of the evaluations that are compared."""

    name: str  # as it was asked for
    what: str  # "run demo of 2026-11-29", "night of 2026-11-29, promoted"
    evaluation: str  # <stage>/<key>
    folder: Path  # of its files
    nodes: Mapping[str, Node] = field(
        default_factory=dict
    )  # what it was made from, by artifact; itself first
    benchmarks: tuple[configuration.Benchmark, ...] = ()  # where its pictures may be

    @property
    def rules(self) -> dict[str, int]:
        """The version of the scoring rules, by benchmark."""
        return scores.rules(self.folder)

    @property
    def predictions(self) -> Path:
        """The file of its replies."""
        return self.folder / "predictions.parquet"


def find(store: Store, name: str) -> Side:
    """The evaluation that a name means.

    Args:
        store: of the artifacts.
        name: `evaluate/<key>`; an alias of a checkpoint; the name or id of a run; the id or date of a night, "2026-11-29" or
            "2026-11-29/promoted" where it evaluated several checkpoints; 'latest'; or a checkpoint, <stage>/<key>.

    Raises:
        UserError: it means nothing, nothing of it was evaluated, or it means several runs or nights.
    """
    if name.startswith(f"{evaluations.STAGE}/"):
        ref = lineage.named(store, name)
        assert ref, "the form was looked at"
        return _side(store, name, "evaluation", ref, {})
    alias = aliases.read(store, name)

    def of(record: Mapping[str, Any]) -> dict[str, Any] | None:
        return record["stages"].get(evaluations.STAGE)  # type: ignore[no-any-return]

    if not alias and (record := runs.only(store, name, of, "compare")):
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(record["started"]))
        return _side(
            store,
            name,
            f"run {record['name']} of {when} UTC",
            Ref(**record["stages"][evaluations.STAGE]),
            record,
        )
    if not alias and (row := _night(store, name)):
        stage, _, key = row["evaluation"].partition("/")
        what = f"night of {row['started']:%Y-%m-%d}, {row['target']}"
        return _side(store, name, what, Ref(stage=stage, key=key, digest=""), _record(store, row["night"]))
    try:
        model = checkpoints.find(store, name)
    except UserError as error:
        raise UserError(
            f"compare: {name!r} is no evaluated run, no night, no checkpoint and no evaluate/<key> of {store.root}; "
            "`sif status` lists the runs"
        ) from error
    if isinstance(model, Path):
        raise UserError(
            f"compare: {name} is a folder outside the store: what was evaluated of it is not known"
        )
    found = evaluations.of_model(store, model)
    if found is None:
        raise UserError(
            f"compare: {name} ({model.stage}/{model.key}) was never evaluated; `sif nightly --model {name}` does it"
        )
    return _side(store, name, f"checkpoint {model.stage}/{model.key}", found.ref, {})


def _night(store: Store, name: str) -> history.Row | None:
    """The latest scored row of the night that a name means; where several checkpoints fit, one must be named."""
    night, _, target = name.partition("/")
    called = {run["id"] for run in runs.named(store, night)}
    rows = [
        row
        for row in history.read(store.root / "history")
        if row["evaluation"]
        and (
            (len(night) >= runs.SHORTEST and row["night"].startswith(night))
            or f"{row['started']:%Y-%m-%d}" == night
            or _held(row) in called
        )
        and target in ("", row["target"])
    ]
    if not rows:
        return None
    if len({_held(row) for row in rows}) > 1:
        names = {run["id"]: run["name"] for run in runs.runs(store)}
        held = {
            _held(row): {
                "id": _held(row),
                "name": names.get(_held(row), "night"),
                "started": row["started"].timestamp(),
            }
            for row in rows
        }
        raise UserError(f"compare: {runs.ambiguous(night, list(held.values()))}")
    of = [row for row in rows if row["night"] == rows[-1]["night"]]
    if len(targets := sorted({row["target"] for row in of})) > 1:
        raise UserError(f"compare: night {night} evaluated {', '.join(targets)}: write {night}/{targets[0]}")
    return of[-1]


def _held(row: history.Row) -> str:
    """The id of the run that held a night; the looks of its further tiers are nights of their own, `<id>-<tier>`."""
    return str(row["night"])[: len(str(UUID(int=0)))]


def _record(store: Store, identifier: str) -> Mapping[str, Any]:
    return next((record for record in runs.runs(store) if record["id"] == identifier), {})


def _side(store: Store, name: str, what: str, ref: Ref, record: Mapping[str, Any]) -> Side:
    try:
        found = store.find(ref.stage, ref.key)
    except Damaged as damage:
        raise UserError(f"compare: {name}: {damage}; evaluate it again") from damage
    if found is None:
        raise UserError(f"compare: {name}: {ref.stage}/{ref.key} is gone from the store; evaluate it again")
    nodes = lineage.trace(store.manifest, found.ref)
    of = f"{found.ref.stage}/{found.ref.key}"
    return Side(name, what, of, found.path, nodes, tuple(_benchmarks(store, found, record)))


def _benchmarks(
    store: Store, found: Artifact, record: Mapping[str, Any]
) -> Sequence[configuration.Benchmark]:
    """Where the pictures of an evaluation may be: the files of its run's configuration, and rendered scenes."""
    given = ((record.get("config") or {}).get("evaluate") or {}).get("benchmarks") or []
    known = [configuration.Benchmark.model_validate(values) for values in given]
    for manifest in store.manifests("scenes"):
        known += scenes.benchmarks(store.folder("scenes", manifest["key"]) / "data")
    asked = {score["benchmark"] for score in scores.read(found.path)}
    return [benchmark for benchmark in known if benchmark.name in asked]
