"""`sif compare`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from flows import server
from flows.commands.options import StoreConfigOption, StoreOption, console, existing, plain


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            help="two or more: evaluated runs (name or id), checkpoints (alias, 'latest', <stage>/<key>), nights (id or date), "
            "or evaluate/<key>; the first is the reference",
            metavar="A B...",
        ),
    ],
    store: StoreOption = None,
    config: StoreConfigOption = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="file of the page, instead of one in the store")] = None,
) -> None:
    """Compares evaluations: scores with intervals, paired tests, what was made otherwise, hours, changed replies."""
    opened = existing(store, config)
    server.settings(opened.root)
    from tasks.operations.compare import compared

    text, page = compared(opened, names, out)
    console.print(plain(text), highlight=False, soft_wrap=True)
    console.print(f"\npage      {page}", highlight=False, soft_wrap=True)
    if server.answers(os.environ["PREFECT_API_URL"]):  # a run of its own shows it in the UI
        from flows.compare import compare as shown

        shown(names, opened.root, return_state=True)
