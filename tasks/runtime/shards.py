"""The shards of a stage: what decides whether one is made, and what they add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Artifact, Ref
from tasks.runtime import elsewhere, identity
from tasks.runtime.decide import Decision, lookup
from tasks.runtime.stage import Job, Order


def decision(order: Order, store: Store, digests: Mapping[str, Sequence[str]], index: int) -> Decision:
    """The decision of one shard of a stage's order.

    Args:
        order: the whole stage's, with what this shard shall keep at most.
        store: of the artifacts.
        digests: of the parts of its input tables.
        index: of the shard, from 0.
    """
    of = {
        **order.identity,
        "inputs": {**order.identity["inputs"], **{name: parts[index] for name, parts in digests.items()}},
        "stage": f"{order.stage.name}.parts",
        **({} if order.most is None else {"most": order.most}),
    }
    return lookup(store, replace(order, identity=of, key=identity.key(of), part=index))


def add_up(job: Job, shards: Sequence[Ref]) -> None:
    """What a stage consists of, with the sums of its rows and notes."""
    job.draft.shards = list(shards)
    totals: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for shard in shards:
        manifest = job.store.open(shard).manifest
        totals.update({name: manifest["rows"][name] for name in ("in", "kept")})
        rejected.update(manifest["rows"]["rejected"])
        for name, value in manifest["notes"].items():
            if isinstance(value, (int, float)):
                job.notes[name] = job.notes.get(name, 0) + value
            elif name != elsewhere.BOUGHT:
                job.notes[name] = value
    job.draft.rows = {"in": totals["in"], "kept": totals["kept"], "rejected": dict(sorted(rejected.items()))}


def rows(order: Order, inputs: Mapping[str, Artifact]) -> int | None:
    """How many rows will come in, where that is known before: the first part-wise input's."""
    if order.part is None or not order.stage.parts:
        return None
    first = order.stage.parts[0]
    return length(inputs[first].part(first, order.part))


def length(table: Path) -> int:
    """Rows of a Parquet file."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(table).num_rows)
