"""Rows of an ablation in a small folder that outlives the store: what is kept there, and rows that are made side by side."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.commands.options import plain
from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.store import lineage
from sifthinker.store.artifacts import Store
from sifthinker.system import machine, processes

Say = Callable[[str, str], None]  # a row's name, and a line of its command


def keep(folder: Path, config: Config, names: Sequence[str], options: Sequence[str]) -> None:
    """Keeps the scores of these rows, as far as they are made, and draws the tables of all that are kept.

    Args:
        folder: of the kept rows.
        config: of the ablation.
        names: of rows; none: all.
        options: of the command that made them, without row and seed.

    Raises:
        UserError: another result of a row and seed is kept.
    """
    from flows.ablation import chosen, evaluated, made_with
    from sifthinker.evaluation import kept_rows

    store = Store.of(config)
    command = shlex.join(["sif", "ablation", *options])
    commit = machine.commit(Path(__file__).parents[2])[:10] or "unknown"
    for name, (variant, made) in made_with(config, chosen(config, names)).items():
        if ref := evaluated(variant, made, store):
            found = lineage.trace(store.manifest, ref)
            row, seed = _parts(name)
            by = f"`{command} --row {shlex.quote(row)} --seed {seed}`, commit {commit}"
            histories = {
                node.label: path
                for node in found.values()
                if (path := store.root / node.name / "history.jsonl").exists()
            }
            kept_rows.keep(folder, row, int(seed), store.open(ref).path, found, by, histories)
    draw(folder, config)


def draw(folder: Path, config: Config) -> None:
    """Draws the tables of all rows that are kept."""
    from sifthinker.evaluation import gathered

    rows = config.ablation
    order = [variant.name for variant in rows.variants]
    gathered.draw(folder, order, rows.pairs, config.model.weights, rows.pictured)


def make(
    folder: Path,
    config: Config,
    names: Sequence[str],
    options: Sequence[str],
    at_once: int,
    shown: Console,
) -> dict[str, int]:
    """Makes the rows that are not kept yet, each by a command of its own, and draws the tables.

    Args:
        folder: of the kept rows.
        config: of the ablation.
        names: of rows; none: all.
        options: of each command, without row and seed.
        at_once: so many at a time. What rows share is made once: the others wait for it.
        shown: where the lines of the commands go, each behind the name of its row.

    Returns:
        The exit status of each row that failed.

    Raises:
        UserError: no row is kept at the end.
    """
    from flows.ablation import chosen, made_with

    wanted = list(made_with(config, chosen(config, names)))
    todo = [name for name in wanted if not (folder / name).exists()]
    if kept := len(wanted) - len(todo):
        shown.print(f"{kept} of {len(wanted)} rows are kept already", highlight=False)
    start = [sys.executable, "-m", "flows", "ablation", *options]
    calls = {
        name: [*start, "--row", row, "--seed", seed, "--keep", str(folder)]
        for name in todo
        for row, seed in [_parts(name)]
    }

    def say(name: str, line: str) -> None:
        shown.print(plain(f"{name:24} {line}"), highlight=False, soft_wrap=True)

    failed = side_by_side(calls, at_once, say)
    if not any((folder / name).exists() for name in wanted):
        raise UserError("ablation: no row could be made; what each said is above")
    draw(folder, config)
    return failed


def ends_with_its_starter() -> None:
    """A command that `side_by_side` started is killed once that one is gone, and with it what it started."""
    if not processes.starter_lives():
        raise UserError("ablation: the command that started this one is gone")
    if processes.VARIABLE in os.environ:
        processes.end_with(os.getppid())


def side_by_side(calls: Mapping[str, Sequence[str]], at_once: int, say: Say) -> dict[str, int]:
    """Runs programs, so many at a time; the exit status of each that failed. One that fails does not stop the others.

    SIGTERM and SIGINT are passed on to those that run, and none begins after it.

    Args:
        calls: by name, the arguments of each.
        at_once: so many at a time.
        say: hears each line of their output, on several threads.

    Raises:
        KeyboardInterrupt: a signal came; all have ended.
    """
    running: set[subprocess.Popen[str]] = set()
    lock, told = threading.RLock(), threading.Event()  # a signal may come while one is passed on

    def one(name: str) -> int | None:
        with lock:
            if told.is_set():
                return None
            process = subprocess.Popen(
                calls[name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                env={**os.environ, **processes.mark(), "PYTHONUNBUFFERED": "1"}, start_new_session=True,
            )  # fmt: skip
            running.add(process)
        assert process.stdout is not None
        for line in process.stdout:
            say(name, line.rstrip())
        status = process.wait()
        with lock:
            running.discard(process)
        return status

    def pass_on(number: int, _: Any) -> None:
        with lock:  # else one could start unseen between the two lines
            told.set()
            for process in running:
                with suppress(ProcessLookupError):
                    process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ThreadPoolExecutor(at_once) as pool:
            ended = dict(zip(calls, pool.map(one, calls), strict=True))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if told.is_set():
        raise KeyboardInterrupt
    return {name: status for name, status in ended.items() if status}


def _parts(name: str) -> tuple[str, str]:
    """Row and seed of `<row>.<seed>`."""
    row, _, seed = name.rpartition(".")
    return row, seed
