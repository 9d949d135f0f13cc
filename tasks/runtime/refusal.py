"""A stage that kept too few of its rows: its artifact is refused, and its rejects are left where a person can look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sifthinker.core import rejects, tables
from sifthinker.core.errors import UserError
from tasks.runtime.stage import Job, Order


def too_many(order: Order, rows: Mapping[str, Any]) -> str:
    """What is wrong with the rows of an artifact; empty where nothing is.

    The whole stage is judged. A shard may reject what it likes, but one that kept nothing is never taken for a hit: it
    may be the rest of a stage that was refused.
    """
    if order.part is not None:
        return rejects.too_many(rows, (), 1.0)
    return rejects.too_many(rows, order.stage.by_choice, order.stage.most(order.config))


def check(job: Job) -> None:
    """Refuses the artifact of a stage that kept nothing, or rejected more than `max_rejected` allows.

    Raises:
        UserError: see `refuse`.
    """
    if job.order.part is None and (wrong := too_many(job.order, job.draft.rows)):
        refuse(job, wrong, job.draft.rows["rejected"], by_choice=job.order.stage.by_choice)


def check_sources(job: Job, empty: Iterable[str]) -> None:
    """Refuses the samples if a source has none: the others would hide that it is missing.

    Raises:
        UserError: see `refuse`; all rejects are kept, the first empty source's are counted.
    """
    for name in empty:
        counted = Counter(row["reason"] for row in _rejected(job) if row["source"] == name)
        refuse(job, f"no row was kept of the source {name}", counted, name)


def refuse(
    job: Job, wrong: str, rejected: Mapping[str, int], source: str = "", by_choice: Iterable[str] = ()
) -> None:
    """Keeps the rejects in the stage's work folder and ends the stage.

    Shards with rejects go: the next run makes them again, and asks again what was never answered.

    Raises:
        UserError: always; it names the reasons, one example, the file of the rejects and what to do.
    """
    kept = _keep(job)
    faults = {reason: count for reason, count in rejected.items() if reason not in by_choice} or rejected
    rows = (row for row in _rejected(job) if source in ("", row["source"]))
    lines = [f"{wrong}: {rejects.counted(rejected) or 'there are no rows in it'}."]
    if shown := rejects.example(rows, faults):
        lines.append(f"For example {shown}")
    lines.append(f"All rejects: {kept}")
    lines.append(_advice(job.draft.rows["kept"], source))
    for shard in (*job.draft.shards, *job.replaced):
        if job.store.open(shard).manifest["rows"]["rejected"]:
            job.store.discard(shard.stage, shard.key)
    raise UserError("\n".join(lines))


def _advice(kept: int, source: str) -> str:
    if source:
        return "Mend the source's files or its configuration, or take the source out."
    if kept:
        return "Mend the cause, or set max_rejected higher to go on with the rows that are left."
    return "Mend the cause: the stages after this one would have nothing to work on."


def _rejected(job: Job) -> Iterator[dict[str, Any]]:
    own = [path for path in (job.out / "rejects.parquet",) if path.exists()]
    shards: list[Path] = [path for shard in job.draft.shards for path in job.store.open(shard).rejects()]
    return tables.read([*own, *shards])


def _keep(job: Job) -> Path:
    path = job.work / "rejects.parquet"
    temporary = path.with_name("rejects.parquet.tmp")
    tables.write(temporary, tables.REJECTS, _rejected(job))
    temporary.rename(path)
    return path
