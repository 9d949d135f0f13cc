"""`sif run`, `sif ablation`: the reproduction, and the paper's Table 5."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows import server
from flows.commands import outcome, pages
from flows.commands.ending import ended, exit_code
from flows.commands.options import (
    ABLATION,
    DEMO,
    ConfigOption,
    LimitOption,
    Refresh,
    ReuseRun,
    SetOption,
    StartAt,
    StopAfter,
    StoreOption,
    console,
    load,
    plain,
)
from flows.commands.plan import planned
from sifthinker.config import Config
from sifthinker.store.artifacts import Store


def run(
    config: ConfigOption = DEMO,
    set_: SetOption = [],  # noqa: B006 (typer copies it)
    store: StoreOption = None,
    start_at: StartAt = None,
    stop_after: StopAfter = None,
    refresh: Refresh = [],  # noqa: B006
    reuse_run: ReuseRun = None,
    limit: LimitOption = None,
    name: Annotated[
        str | None,
        typer.Option(help="of the run; otherwise its configuration and what differs from it"),
    ] = None,
    serve: Annotated[
        bool,
        typer.Option("--pages", help="keep a server of the store's pages running (`sif pages`), to link to"),
    ] = False,
) -> None:
    """Runs the reproduction: the stages whose artifacts are not in the store."""
    resolved = load(config, set_, limit, store)
    server.settings(resolved.store)
    from tasks.runtime.pipeline import refuse

    # A user's mistake, and what is missing, shows before anything starts.
    refuse(planned(resolved, start_at, stop_after, refresh, reuse_run))
    ui = server.ensure()
    if serve:
        pages.ensure(resolved.store)
    from flows import form
    from flows.reproduce import reproduce

    named = reproduce.with_options(flow_run_name=name) if name else reproduce
    given: dict[str, Any] = {
        "config": form.text(resolved),
        "set": form.settings(set_, limit),
        "start_at": start_at or form.BEGINNING,
        "stop_after": stop_after or form.END,
        "refresh": refresh,
        "reuse_run": reuse_run or "",
    }
    state = ended(lambda: named(**given, return_state=True))
    run_id = str(state.state_details.flow_run_id)
    ui = f"{ui}/runs/flow-run/{run_id}"
    outcome.show(Store.of(resolved), run_id, console)
    if not state.is_completed():
        console.print(f"[bold red]failed:[/] {plain(state.message or '')}", highlight=False, soft_wrap=True)
        console.print(f"UI: {ui}", soft_wrap=True)
        raise typer.Exit(exit_code(state))
    _where(resolved, state.result(), ui)


def ablation(
    config: ConfigOption = ABLATION,
    set_: SetOption = [],  # noqa: B006
    store: StoreOption = None,
    row: Annotated[list[str], typer.Option(help="only this row; may be repeated")] = [],  # noqa: B006
    refresh: Refresh = [],  # noqa: B006
    limit: LimitOption = None,
) -> None:
    """Trains and evaluates the rows of the paper's Table 5; prints the table."""
    resolved = load(config, set_, limit, store)
    server.settings(resolved.store)
    ui = server.ensure()
    from flows import form
    from flows.ablation import ablation as table

    given = form.text(resolved), form.settings(set_, limit)
    state = ended(lambda: table(*given, rows=row, refresh=refresh, return_state=True))
    if not state.is_completed():
        console.print(
            f"[bold red]failed:[/] {plain(state.message or '')}\nUI: {ui}", highlight=False, soft_wrap=True
        )
        raise typer.Exit(exit_code(state))
    folder = Path(state.result())
    console.print(plain((folder / "table.md").read_text(encoding="utf-8")), highlight=False, soft_wrap=True)
    console.print(f"table     {folder}\nUI        {ui}", highlight=False, soft_wrap=True)


def _where(config: Config, made: dict[str, str], ui: str) -> None:
    """Where the things are that people look for."""
    places = {"data set": ("publish", ""), "model": ("merge-grpo", ""), "report": ("report", "report.html")}
    console.print()
    for name, (label, file) in places.items():
        if label in made:
            console.print(f"{name:9} {config.store / made[label] / file}", highlight=False, soft_wrap=True)
    console.print(f"{'UI':9} {ui}", highlight=False, soft_wrap=True)
