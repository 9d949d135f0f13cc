"""`sif chains`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows import server
from flows.commands import places
from flows.commands.options import StoreConfigOption, StoreOption, console, existing, plain


def chains(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="runs, by name or id; none: the latest that published a data set", metavar="[RUN]..."
        ),
    ] = None,
    store: StoreOption = None,
    config: StoreConfigOption = [],  # noqa: B006 (typer copies it)
    out: Annotated[
        Path | None,
        typer.Option(help="file of the page, instead of one in the store", callback=places.file),
    ] = None,
) -> None:
    """Compares chains by source, those that were taken and those that were bought: lengths, steps, depths, answers, boxes."""
    opened = existing(store, config)
    server.settings(opened.root)
    from tasks.operations.chains import compared

    text, page = compared(opened, names or [], out)
    console.print(plain(text), highlight=False, soft_wrap=True)
    console.print(f"\npage      {page}", highlight=False, soft_wrap=True)
