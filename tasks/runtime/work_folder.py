"""The work folder of a training: what a try goes on from, and what stays once its artifact is there.

A retried training resumes from its checkpoints. Those of a training that has ended are no beginning of another one: a refresh
would find all its steps done, and publish the old weights again. So the folder says whose checkpoints it holds
(`training.json`): of a refresh, which artifact it replaces; of a training that is published, that it is.

Logs stay, for `sif logs`. Of a published training all stays that pages and metrics read. What it only went on from goes:
checkpoints, adapters that were the best so far, and the copy of the data set with all its pictures. Of 7B parameters and 50,000
rows they are tens of gigabytes.
"""

from __future__ import annotations

import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sifthinker.store.artifacts import Store
from sifthinker.system.files import read_json, write_json
from tasks.runtime import following, rehearsal
from tasks.runtime.stage import Order
from tasks.runtime.stage_log import Log

MARKER = "training.json"
SPENT = (
    "checkpoint-*",
    "best",
    "sampler",
    "dataset",
    "held_out/dataset",
)  # nothing reads them after publication
LOGS = ("*.log", "log.txt", "log-*.txt")  # of several tries, in one file each; `sif logs` shows them


def begin(order: Order, store: Store, log: Log) -> None:
    """Empties the folder where a training has to start anew; whoever makes the artifact calls it first.

    It starts anew after a published one, and where a refresh is asked for, except that a refresh which was killed goes on from
    its own checkpoints.
    """
    if not _is_training(order):
        return
    work = store.work(order.place, order.key)
    said = _said(work)
    replaces = _there(store, order) if order.refresh else None
    own = not order.refresh or ("replaces" in said and said["replaces"] == replaces)
    if said.get("published") or not own:
        following.reap(work / "pid.json")  # a killed run's program would write on
        if any(work.glob("checkpoint-*")):
            log.info("%s: starts anew, and not from the checkpoints of an earlier training", order.label)
        _empty(work)
    if order.refresh:
        write_json(work / MARKER, {"replaces": replaces})


def finished(order: Order, store: Store) -> bool:
    """Whether a refresh has made its artifact already, and was ended after that: by a kill, or by an upload that failed."""
    if not (order.refresh and _is_training(order)):
        return False
    said, there = _said(store.work(order.place, order.key)), _there(store, order)
    return "replaces" in said and there is not None and there != said["replaces"]


def end(order: Order, store: Store, log: Log) -> None:
    """Removes what a training has needed (`SPENT`) when its artifact is published; says what cannot be removed."""
    if not _is_training(order):
        return
    work = store.work(order.place, order.key)
    write_json(
        work / MARKER, {"published": True}
    )  # first: what a kill leaves below is then removed at the next start
    for folder in (folder for pattern in SPENT for folder in work.glob(pattern)):
        try:
            shutil.rmtree(folder)
        except OSError as error:  # the artifact is there: no reason to fail
            log.warning("%s: %s stays, and takes disk space: %s", order.label, folder, error)


def _is_training(order: Order) -> bool:
    return order.part is None and order.stage.name in rehearsal.TRAINED


def _said(work: Path) -> dict[str, Any]:
    return read_json(work / MARKER)


def _there(store: Store, order: Order) -> list[Any] | None:
    """What tells the artifact of today from one that was made again: equal contents have equal digests."""
    found = store.manifest(order.place, order.key)
    return [found["digest"], found["made"]] if found else None


def _empty(work: Path) -> None:
    for path in work.iterdir():
        if any(fnmatchcase(path.name, name) for name in LOGS):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
