"""`sif accept`: artifacts of earlier code that stand for the present code."""

from __future__ import annotations

import getpass
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from flows import server
from flows.commands.options import DEMO, ConfigOption, SetOption, StoreOption, load, looking
from flows.commands.tables import Column, JsonOption, Printed
from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store

if TYPE_CHECKING:
    from tasks.runtime.pipeline import Pipeline

COLUMNS = (
    Column("stage", "stage"),
    Column("", "verdict"),
    Column("what was recorded, or why not", "said"),
)


def accept(
    why: Annotated[str, typer.Option(help="the reason, for the record")],
    stage: Annotated[
        str | None, typer.Argument(help="label of the stage, as in `sif plan`", metavar="STAGE")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="every stage of the reproduction, in its order")
    ] = False,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="with --all: of every row of the ablation instead")
    ] = False,
    config: ConfigOption = DEMO,
    set_: SetOption = [],  # noqa: B006
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Records that the latest artifacts stand for the present code and libraries, so that they are not made again.

    An artifact is accepted where only code, libraries or our own data files differ from those it was made with.
    """
    if all_ == (stage is not None):
        raise UserError("accept: name one stage, or give --all")
    if ablation and not all_:
        raise UserError("accept: --ablation goes with --all")
    resolved = load(config, set_, store=store)
    with looking(resolved):  # without a store there is nothing to accept
        _accept(resolved, why, stage, ablation, json_)


def _accept(config: Config, why: str, stage: str | None, ablation: bool, json_: bool) -> None:
    """Accepts one stage, or all of the reproduction or of the ablation's rows, and prints what was done."""
    server.settings(config.store)
    from flows.reproduce import reproduction
    from tasks.operations.accept import accept as accept_one
    from tasks.operations.accept import accept_all

    opened, who = Store.of(config), getpass.getuser()
    if stage is not None:
        said = accept_one(reproduction, config, opened, stage, why, who)
        with Printed(json_, "stages") as printed:
            printed.table("stages", (), [{"stage": stage, "verdict": "accepted", "said": said}])
            printed.say(said)
        return
    pipelines: dict[str, tuple[Pipeline, Config]] = {"": (reproduction, config)}
    if ablation:
        from flows.ablation import made_with, row

        pipelines = {
            f"{name} ": (partial(row, trained=variant.trained), made)
            for name, (variant, made) in made_with(config, config.ablation.variants).items()
        }
    rows = [
        {"stage": f"{name}{outcome.label}", "verdict": outcome.verdict, "said": outcome.said}
        for name, (pipeline, with_) in pipelines.items()
        for outcome in accept_all(pipeline, with_, opened, why, who)
    ]
    counts = Counter(row["verdict"] for row in rows)
    with Printed(json_, "stages") as printed:
        printed.table("stages", COLUMNS, rows)
        printed.say(
            f"{counts['accepted']} accepted, {counts['cached']} in the store already, "
            f"{len(rows) - counts['accepted'] - counts['cached']} to be run"
        )
