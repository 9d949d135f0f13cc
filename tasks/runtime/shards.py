"""The shards of a stage: which are made, in which rounds, and what they add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Artifact, Ref
from tasks.runtime import elsewhere, identity
from tasks.runtime.decide import Decision, lookup
from tasks.runtime.stage import Job, Order

Makes = Callable[[Job, Sequence[Decision]], Iterator[tuple[Decision, Ref]]]


def make(job: Job, all_of: Makes) -> None:
    """Makes the shards of a stage, in rounds where some have to go on, and adds up their rows.

    Args:
        job: of the whole stage.
        all_of: makes shards, and gives each with its artifact.
    """
    order = job.order
    digests = {name: job.inputs[name].part_digests(name) for name in order.parts}
    count = len(next(iter(digests.values())))
    assert all(len(parts) == count for parts in digests.values()), "input tables come in different parts"
    first = order.stage.parts[0]
    most = order.stage.shares(order.config, list(map(length, job.inputs[first].parts(first))))
    made = _round(job, all_of, digests, dict(enumerate(most)), 1)
    number, before = 1, None
    while more := order.stage.further(order.config, [_rows_of(job, made[part]) for part in range(count)]):
        assert more != before, "a part that goes on keeps more rows, or has none left"
        number, before = number + 1, more
        job.log.info(
            "%s: %s; round %d goes on in %d of %d parts",
            order.label,
            more.said,
            number,
            len(more.most),
            count,
        )
        for part in more.most:
            job.replaced.append(made[part])
            job.elsewhere.again(made[part].key, _rows_of(job, made[part]))
        made |= _round(job, all_of, digests, more.most, number)
    _add_up(job, [made[part] for part in range(count)])


def _rows_of(job: Job, shard: Ref) -> Mapping[str, Any]:
    rows: Mapping[str, Any] = job.store.open(shard).manifest["rows"]
    return rows


def _round(
    job: Job,
    all_of: Makes,
    digests: Mapping[str, Sequence[str]],
    most: Mapping[int, int | None],
    number: int,
) -> dict[int, Ref]:
    """Makes some shards, by their number, each of which shall keep at most so many rows."""
    of = replace(job.order, endpoints=job.endpoints, round=number)
    decisions = {
        part: decision(replace(of, most=count), job.store, digests, part) for part, count in most.items()
    }
    job.progress.total = (job.progress.total or 0) + len(decisions)
    # Equal parts, such as empty ones, are one shard.
    twins = Counter(each.order.key for each in decisions.values())
    once = list({each.order.key: each for each in decisions.values()}.values())
    made: dict[str, Ref] = {}
    for each, ref in all_of(job, once):
        made[each.order.key] = ref
        if not each.cached:
            job.elsewhere.counted.add(ref.key)
        job.progress.add(twins[each.order.key])
    return {part: made[each.order.key] for part, each in decisions.items()}


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


def _add_up(job: Job, made: Sequence[Ref]) -> None:
    """What a stage consists of, with the sums of its rows and notes."""
    job.draft.shards = list(made)
    totals: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for shard in made:
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
