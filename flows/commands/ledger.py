"""`sif import-ledger`: what a store's own ledger holds, taken into the ledger that several hosts share."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.tables import Column, JsonOption, Printed

COLUMNS = (Column("ledger", "ledger"), Column("calls taken over", "taken"), Column("were there", "there"))


def import_ledger(
    file: Annotated[Path, typer.Argument(help="calls.sqlite of a store, which no run uses")],
    json_: JsonOption = False,
) -> None:
    """Takes the calls of a store's ledger into the database that SIF_LEDGER names, so that they are not paid again."""
    from sifthinker.llm import bookkeeping
    from sifthinker.llm.ledger_import import take_over

    with closing(bookkeeping.open_ledger(bookkeeping.SHARED)) as ledger:
        taken, there = take_over(file, ledger)
        with Printed(json_, "ledgers") as printed:
            row = {"ledger": ledger.name, "taken": taken, "there": there}
            printed.table("ledgers", COLUMNS, [row])
