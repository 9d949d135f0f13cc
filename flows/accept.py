"""`sif accept`: artifacts of earlier code that stand for the present code."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer
from rich.table import Table

from flows import server
from flows.options import ConfigOption, SetOption, console, load, plain
from sifthinker.config import UserError
from sifthinker.store import Store


def accept(
    why: Annotated[str, typer.Option(help="the reason, for the record")],
    stage: Annotated[
        str | None, typer.Argument(help="label of the stage, as in `sif plan`", metavar="STAGE")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="every stage of the reproduction, in its order")
    ] = False,
    config: ConfigOption = "demo",
    set_: SetOption = [],  # noqa: B006
) -> None:
    """Records that latest artifacts stand for the present code and libraries: a refactoring costs no night.

    An artifact is accepted where only code, libraries or our own data files differ from those it was made with.
    """
    if all_ == (stage is not None):
        raise UserError("accept: name one stage, or give --all")
    resolved = load(config, set_)
    server.settings(resolved.store)
    from flows.reproduce import reproduction
    from tasks.accept import accept as accept_one
    from tasks.accept import accept_all

    store, who = Store.of(resolved), getpass.getuser()
    if stage is not None:
        console.print(plain(accept_one(reproduction, resolved, store, stage, why, who)), soft_wrap=True)
        return
    outcomes = accept_all(reproduction, resolved, store, why, who)
    table = Table("stage", "", "what was recorded, or why not", box=None, pad_edge=False)
    for outcome in outcomes:
        table.add_row(outcome.label, outcome.verdict, plain(outcome.said))
    console.print(table)
    counts = {v: sum(outcome.verdict == v for outcome in outcomes) for v in ("accepted", "cached")}
    console.print(
        f"{counts['accepted']} accepted, {counts['cached']} in the store already, "
        f"{len(outcomes) - sum(counts.values())} to be run",
        highlight=False,
    )
