"""The rehearsal of a training before its ranks start for good: one step with the longest sample."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from sifthinker.config import Grpo, Train
from sifthinker.training import memory
from tasks.runtime.stage import Job

FOLDER = "rehearsal"
TRAINED = ("sft", "grpo")


class _Rehearsed(Job):
    """The same job in folders of its own, which are removed."""

    @property
    def work(self) -> Path:
        """Below the training's own."""
        return self.store.work(self.order.place, self.order.key) / FOLDER

    @property
    def out(self) -> Path:
        """Of results that nobody wants."""
        return self.work / "out"


def wanted(job: Job, module: str, options: Train) -> bool:
    """Whether a training is rehearsed: where memory may end it, and not where it goes on from a checkpoint.

    A training over several nodes is not: its other nodes wait for one program, and not for two.
    """
    if module not in TRAINED or options.rehearse == "never" or options.nodes > 1:
        return False
    if any(job.work.glob("checkpoint-*")):
        return False
    return options.rehearse == "always" or bool(memory.free_gpus())


def rehearse(
    job: Job, module: str, settings: Mapping[str, Any], options: Train, train: Callable[..., None]
) -> None:
    """Runs one step with the longest sample that pre-flight has found, and notes what it took.

    Args:
        job: of the training.
        module: of its program.
        settings: of its program.
        options: its section of the configuration.
        train: runs a program for a job (`programs.train`).

    Raises:
        UserError: the step does not fit into memory.
    """
    longest = job.notes["preflight"]["longest_id"]
    again = _Rehearsed(**{field.name: getattr(job, field.name) for field in fields(job)})
    again.order = replace(job.order, label=f"{job.order.label}-rehearsal")
    shutil.rmtree(again.work, ignore_errors=True)
    again.out.mkdir(parents=True)
    dataset = again.work / "longest.parquet"
    write([Path(path) for path in settings["dataset"]], longest, _rows(options), dataset)
    job.log.info("%s: one step with the longest sample, %s", job.order.label, longest)
    own = {name: value for name, value in settings.items() if name not in ("settings", "held_out")}
    program = {
        "rehearses": module,
        "sample": longest,
        "settings": settings["settings"],
        "fields": {**own, "dataset": [str(dataset)]},
    }
    train(again, FOLDER, program, options)
    notes = json.loads((again.out / "summary.json").read_text(encoding="utf-8"))["notes"]
    job.notes["rehearsal"] = {name: notes[name] for name in ("seconds", "peak_memory_bytes")}
    shutil.rmtree(again.work)


def _rows(options: Train) -> int:
    """As many rows as one step takes."""
    if isinstance(options, Grpo):
        return options.ranks * options.batch * options.accumulation // options.generations
    return options.ranks * options.batch


def write(dataset: list[Path], id: str, count: int, out: Path) -> None:
    """Writes a row of SIF Parquet files so many times."""
    [*found] = ds.dataset([str(path) for path in dataset]).to_table(filter=ds.field("id") == id).to_batches()
    row = pa.Table.from_batches(found)
    assert row.num_rows == 1, f"{id}: {row.num_rows} rows"
    pq.write_table(pa.concat_tables([row] * count), out)
