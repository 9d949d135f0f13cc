"""`sif compare`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from flows import server
from flows.commands import places, terminal
from flows.commands.options import StoreConfigOption, StoreOption, existing
from flows.commands.tables import JsonOption, Printed


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
    json_: JsonOption = False,
    out: Annotated[
        Path | None,
        typer.Option(help="file of the page, instead of one in the store", callback=places.file),
    ] = None,
) -> None:
    """Compares evaluations: scores with intervals, paired tests, what was made otherwise, hours, changed replies."""
    opened = existing(store, config)
    server.settings(opened.root)
    from tasks.operations.compare import compared

    made = compared(opened, names, out)
    with Printed(json_, *made.rows, "page") as printed:
        for name, rows in {**made.rows, "page": str(made.page)}.items():
            printed.value(name, rows)
        printed.say(made.text)
        printed.say(f"\npage      {made.page}")
    if server.answers(os.environ["PREFECT_API_URL"]):  # a run of its own shows it in the UI
        from flows.compare import compare as shown

        with terminal.shown(verbose=False, as_json=json_):
            shown(names, opened.root, return_state=True)
