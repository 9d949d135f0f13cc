"""The trainings and merges of the stages: what is started on how many ranks and nodes, and what the UI shows of it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import yaml

from sifthinker.config import Train
from sifthinker.core.errors import UserError
from sifthinker.llm.bookkeeping import SHARED
from sifthinker.system.json_lines import whole_lines
from sifthinker.training import memory, progress_page
from tasks.runtime import nodes, rehearsal, ui_artifacts
from tasks.runtime.following import Watch, follow
from tasks.runtime.progress import STOPPED, how
from tasks.runtime.stage import Job

MINUTE = 60.0
PACKAGE = "sifthinker.training"  # of the programs


def train(job: Job, module: str, settings: Mapping[str, Any], options: Train | None = None) -> None:
    """Runs `python -m sifthinker.training.<module>`, under torchrun with several ranks, and waits for it.

    The program reads its settings from a YAML file in the stage's work folder, which it also keeps its
    checkpoints in: a retried stage finds them there and resumes.
    """
    if options is not None and rehearsal.wanted(job, module, options):
        rehearsal.rehearse(job, module, settings, options, train)
    config = job.work / "config.yaml"
    folders = {"work": str(job.work), "out": str(job.out)}
    config.write_text(yaml.safe_dump({**settings, **folders}, sort_keys=False), encoding="utf-8")
    program = ["-m", f"{PACKAGE}.{module}", str(config)]
    progress = job.work / "progress.jsonl"
    if options is None:
        follow(job, [sys.executable, *program], progress, None)
        return
    page = Page(
        job, [Path(path) for path in settings["dataset"]] if module == "grpo" else [], options.show_steps
    )
    watch, timeout, grace = Watch(page.at, stopping=page.stopping), options.timeout, options.grace
    python = interpreter(options.python, module)
    with page:
        if options.nodes > 1:
            if settings.get("ledger", SHARED) != SHARED:
                job.log.warning(
                    "%s: the ledger of its judge is a file, for one machine: if its nodes are several, set SIF_LEDGER on "
                    "each (infra/README.md, One ledger for several hosts)",
                    job.order.label,
                )
            own = python if options.python else ""
            with nodes.first(job, f"{PACKAGE}.{module}", own, options) as node:
                follow(job, node.command(config), progress, timeout, replace(watch, look=node.look), grace)
        elif options.ranks > 1:
            run = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={options.ranks}"]
            follow(job, [python, *run, *program], progress, timeout, watch, grace)
        else:
            follow(job, [python, *program], progress, timeout, watch, grace, variables=one_gpu())


def one_gpu() -> dict[str, str]:
    """The variable that shows a program the first GPU alone; empty on a machine without.

    A single process that sees several would cut each batch up over them, which the trainers refuse.
    """
    return {"CUDA_VISIBLE_DEVICES": gpus[0]} if (gpus := memory.visible_gpus()) else {}


def interpreter(named: Path | None, module: str) -> str:
    """The interpreter that runs a program: this one, or that of another environment.

    Raises:
        UserError: there is none.
    """
    if named is None:
        return sys.executable
    if not os.access(named, os.X_OK) or named.is_dir():
        raise UserError(
            f"{module}.python: {named} is no interpreter on this machine; name the bin/python of an environment"
        )
    return str(named)


class Page:
    """The page about a training under way in the UI: curves and completions.

    It is one artifact that is renewed in place, every `steps` steps but at most once a minute.
    """

    def __init__(self, job: Job, dataset: Sequence[Path], steps: int) -> None:
        """Shows nothing yet.

        Args:
            job: of the training.
            dataset: the Parquet files that completions are looked up in; none: completions are not shown.
            steps: between two renewals.
        """
        self.job, self.dataset, self.steps = job, dataset, steps
        self.next = steps
        self._started = time.monotonic()
        self._shown = -MINUTE
        self._artifact: Any = None

    def __enter__(self) -> Self:
        """The training begins."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        """Says how the training has ended. A run that is told to end has no time for new curves."""
        ended = how(error)
        try:
            took = f"{ended} after {self._steps()} and {(time.monotonic() - self._started) / MINUTE:.1f} min"
            if ended == "stopped":
                self._describe(f"{took}: {STOPPED}")
            elif ended == "completed" or self._artifact:
                self.show(took)
        except Exception:  # it must neither fail a training that is done nor hide why another one failed
            self.job.log.exception("%s: how it ended is not shown", self.job.order.label)

    def stopping(self) -> None:
        """Says that the training was told to end: the run may be killed before it has written its checkpoint."""
        try:
            self.job.progress.stopping()
            self._describe(f"stopping after {self._steps()}: {STOPPED}")
        except Exception:  # what cannot be shown must not cost a training its checkpoint
            self.job.log.exception("%s: that it stops is not shown", self.job.order.label)

    def _describe(self, said: str) -> None:
        if self._artifact:
            ui_artifacts.describe(self._artifact, f"{self.job.order.label}: {said}")

    def _steps(self) -> str:
        steps = max((row.get("step", 0) for row in whole_lines(self.job.work / "progress.jsonl")), default=0)
        return f"{steps:,} step{'' if steps == 1 else 's'}"

    def at(self, step: int) -> None:
        """Renews the page if a step is the next one to be shown."""
        if step >= self.next and time.monotonic() - self._shown >= MINUTE:
            self.next = step + self.steps
            self.show()

    def show(self, state: str = "under way") -> None:
        """Renews the page now, and says how the training is."""
        self._shown = time.monotonic()
        label = self.job.order.label
        try:
            if text := progress_page.page(self.job.work, self.dataset):
                said = f"{label}: {state}"
                self._artifact = ui_artifacts.page(
                    text, f"{label}{ui_artifacts.TRAINING}", said, self._artifact
                )
        except Exception:  # a page that cannot be shown must not end a training
            self.job.log.exception("%s: its page is not shown", label)


def training_outcome(job: Job) -> None:
    """Takes the rows and notes of a training program's summary into the manifest."""
    summary = json.loads((job.out / "summary.json").read_text(encoding="utf-8"))
    job.draft.rows = {"in": summary["in"], "kept": summary["kept"], "rejected": summary["rejected"]}
    job.notes.update(summary["notes"])
    job.draft.aside |= {"history.jsonl", "summary.json"}  # seconds and tokens per second
