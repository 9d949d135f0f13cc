"""`sif logs`: what a stage has written, and writes, wherever it runs with this store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.options import StoreConfigOption, StoreOption, existing
from flows.commands.status import asked, killed
from sifthinker.config.choices import suggestion
from sifthinker.core.errors import UserError
from sifthinker.store import runs
from sifthinker.store.artifacts import Store

OWN = "run.log"  # of the stage: tasks/runtime/stage_log.py
FILES = (OWN, "log.txt", "server.log", "standin.log")  # of its program, its model's server, its stand-in
EVERY = 0.5  # seconds between two looks
STEP = 1_000_000  # bytes that are read at once


def logs(
    stage: Annotated[str, typer.Argument(help="label of a stage, as in `sif status`", metavar="STAGE")],
    run: Annotated[
        str | None,
        typer.Option(help="name or id of the run; the latest that came to the stage", metavar="RUN"),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="go on with what is added, until the stage has ended")
    ] = False,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=1, help="only the last so many of each file")
    ] = None,
    store: StoreOption = None,
    config: StoreConfigOption = [],  # noqa: B006 (typer copies it)
) -> None:
    """Shows the log of a stage: its own lines, its program's (a training), and its server's, also while it runs.

    Exit codes: 0 for success, 1 if the run that is followed was killed, 2 for wrong usage or another mistake of the user's.
    """
    opened = existing(store, config)
    record, ref = _found(opened, stage, run)
    work = opened.root / ref["stage"] / f"{ref['key']}.work"
    if not any((work / name).exists() for name in FILES) and not follow:
        raise UserError(
            f"logs: {stage} of run {record['id']} has no log in {work}; its artifact was made by a release that kept none, on "
            "a machine with another store (look there), or its work folder was removed by `sif prune`"
        )
    shown = _Shown()
    for name, text in _read(work, lines):
        shown(name, text)
    if follow:
        record = _follow(opened, work, record["id"], stage, shown)
    if runs.state(opened, record) in (runs.KILLED, runs.CRASHED) and stage not in record["stages"]:
        typer.echo(_killed(opened, record, stage), err=True)
        raise typer.Exit(1 if follow else 0)


def _killed(store: Store, record: Mapping[str, Any], stage: str) -> str:
    """Why a stage did not end. The next run with this store marks the run as crashed, and no longer knows its process."""
    if process := runs.gone(store, record):
        return f"logs: {stage} does not go on: {killed(record, process)}"
    return f"logs: {stage} did not end: run {record['id']} was killed. The same `sif run` resumes it"


def _found(store: Store, stage: str, run: str | None) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """The run that is meant, and the reference of the stage's artifact in it: made, or being made."""
    found = runs.runs(store)
    wanted = [asked(store, run, "logs")] if run else found
    for record in wanted:
        if ref := _stages(record).get(stage):
            return record, ref
    known = list(dict.fromkeys(label for record in wanted for label in _stages(record)))
    which = f"run {run} has" if run else "no run in the store has"
    raise UserError(
        f"logs: {which} {'not ' if run else ''}come to a stage {stage}{suggestion(stage, known)}; "
        f"stages that have been reached: {', '.join(known) or 'none'}"
    )


def _stages(record: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """The references of a run's stages by label, with the one that it is at or failed in."""
    at = record.get("at")
    return {**record["stages"], **({at["label"]: at} if at else {})}


def _read(work: Path, lines: int | None) -> Iterator[tuple[str, str]]:
    for name in FILES:
        file = work / name
        if not file.is_file():
            continue
        if lines is None:
            with file.open(encoding="utf-8", errors="replace") as opened:
                while text := opened.read(STEP):
                    yield name, text
        else:
            text = file.read_text(encoding="utf-8", errors="replace")
            yield name, "".join(text.splitlines(keepends=True)[-lines:])


class _Shown:
    """Prints pieces of files; another file than the last one gets a heading."""

    def __init__(self) -> None:
        self._name = ""

    def __call__(self, name: str, text: str) -> None:
        if name != self._name:
            self._name = name
            typer.echo(f"==> {name} <==")
        typer.echo(text, nl=False)


def _follow(store: Store, work: Path, run: str, stage: str, shown: _Shown) -> dict[str, Any]:
    """Shows what is added, until the run is no longer at the stage, or is killed; the run's record then."""
    seen = {name: (work / name).stat().st_size for name in FILES if (work / name).is_file()}
    while True:
        record = asked(store, run, "logs")  # before the look: what was written until then is shown
        going = _going(store, record, stage)
        for name in FILES:
            file = work / name
            if not file.is_file():
                continue
            size = file.stat().st_size
            at = seen.get(name, 0) if size >= seen.get(name, 0) else 0  # a new file of the same name
            if size == at:
                continue
            with file.open("rb") as opened:
                opened.seek(at)
                new = opened.read()
            seen[name] = at + len(new)
            shown(name, new.decode("utf-8", errors="replace"))
        if not going:
            return record
        time.sleep(EVERY)


def _going(store: Store, record: Mapping[str, Any], stage: str) -> bool:
    at = record.get("at")
    return bool(runs.state(store, record) == runs.RUNNING and at and at["label"] == stage)
