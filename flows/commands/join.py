"""`sif join`: this machine takes part in trainings over several nodes, without a work pool."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import console, plain
from flows.commands.terminal import told_to_end
from sifthinker.core.errors import UserError

EVERY = 1.0  # seconds between two looks at the store
FRESH = 30.0  # seconds in which a training that waits shows a sign of life


def join(
    store: Annotated[Path, typer.Argument(help="the store of the run, on a volume that both machines see")],
    once: Annotated[bool, typer.Option("--once", help="end after one training")] = False,
) -> None:
    """Lends this machine to the trainings of a store that have `nodes` above 1, until it is interrupted.

    The run on the first machine (`sif run`) waits for it, and so do runs after that. With `placement: pools` no such
    command is needed: a worker on each machine does the same.
    """
    if not store.is_dir():
        raise UserError(f"join: {store} is no folder; give the store of the run, as this machine sees it")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    log = logging.getLogger("sif join")
    log.info("waits for trainings in %s", store.resolve())
    with told_to_end():  # its ranks make their checkpoint first
        _take_part(store, once, log)


def _take_part(store: Path, once: bool, log: logging.Logger) -> None:
    from tasks.runtime import nodes
    from tasks.runtime.following import ProgramFailed

    while True:
        for file in sorted(store.glob(f"*/*.work/{nodes.FILE}")):
            try:
                nodes.join(file.parent, store.resolve(), FRESH, log, file.parent.parent.name)
            except nodes.NoFirstNode:  # the file of a run that was killed
                continue
            except (
                ProgramFailed,
                UserError,
            ) as error:  # the first node's run explains it too, and may try again
                console.print(plain(str(error)), soft_wrap=True)
                if once:
                    raise typer.Exit(1) from error
                continue
            if once:
                return
        time.sleep(EVERY)
