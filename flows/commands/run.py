"""`sif run`, `sif ablation`: the reproduction, and the paper's Table 5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows import server
from flows.commands import ablation_rows, outcome, pages, places, terminal
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
    refusing,
)
from flows.commands.plan import planned
from flows.commands.tables import JsonOption, Printed
from flows.commands.terminal import VerboseOption
from sifthinker.config import Config
from sifthinker.core.errors import UserError
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
        typer.Option(help="name of the run (default: the configuration's name and the changed settings)"),
    ] = None,
    serve: Annotated[
        bool,
        typer.Option("--pages", help="keep a server of the store's pages running (`sif pages`), to link to"),
    ] = False,
    verbose: VerboseOption = False,
    json_: JsonOption = False,
) -> None:
    """Runs the reproduction: the stages whose artifacts are not in the store."""
    resolved = load(config, set_, limit, store)
    if not verbose:
        terminal.quiet()
    with refusing(resolved):
        server.settings(resolved.store)
        from tasks.runtime.planned import refuse

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
    state = ended(lambda: named(**given, return_state=True), verbose, json_)
    _show(state, resolved, ui, json_)


def _show(state: Any, config: Config, ui: str, json_: bool) -> None:
    """Prints what a run made, and where it is.

    Raises:
        Exit: it has failed.
    """
    run_id = str(state.state_details.flow_run_id)
    ui = f"{ui}/runs/flow-run/{run_id}"
    completed = state.is_completed()
    with Printed(json_, "run", "stages", "scores") as printed:
        outcome.show(printed, Store.of(config), run_id)
        places = _places(config, state.result()) if completed else {}
        of = {"id": run_id, "state": state.name, "message": state.message}
        printed.value("run", {**of, "places": places, "ui": ui})
        if not completed:
            printed.say()
            printed.say(f"failed: {state.message or ''}", "bold red")
        printed.say()
        for what, place in {**places, "UI": ui}.items():
            printed.say(f"{what:9} {place}")
        if not completed:
            raise typer.Exit(exit_code(state))


def ablation(
    config: ConfigOption = ABLATION,
    set_: SetOption = [],  # noqa: B006
    store: StoreOption = None,
    row: Annotated[list[str], typer.Option(help="only this row; may be repeated")] = [],  # noqa: B006
    seed: Annotated[
        list[int], typer.Option(help="with this seed alone, whatever a row has; may be repeated")
    ] = [],  # noqa: B006
    refresh: Refresh = [],  # noqa: B006
    limit: LimitOption = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            callback=places.folder,
            help="keep the rows' scores in a small folder, and draw what all kept rows say together",
        ),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="with --keep: make the rows that are not kept yet, so many at a time, each by a command of its own",
        ),
    ] = None,
    verbose: VerboseOption = False,
    json_: JsonOption = False,
) -> None:
    """Trains and evaluates the rows of the paper's Table 5; prints the table."""
    ablation_rows.ends_with_its_starter()
    if at_once and (keep is None or refresh):
        raise UserError(
            "ablation: --at-once makes the rows that are not kept yet: it goes with --keep, not with --refresh"
        )
    resolved = _rows_asked_for(load(config, set_, limit, store), row, seed)
    if not verbose:
        terminal.quiet()
    ui = server.ensure()
    if at_once and keep:
        options = [*_options(config, set_, store, limit), *(["--verbose"] if verbose else [])]
        _side_by_side(at_once, keep, resolved, row, options, json_)
        return
    from flows import form
    from flows.ablation import ablation as table

    given = form.text(resolved), form.settings(set_, limit)
    state = ended(lambda: table(*given, rows=row, refresh=refresh, return_state=True), verbose, json_)
    with Printed(json_, "table") as printed:
        if keep:
            ablation_rows.keep(keep, resolved, row, _options(config, set_, None, None))
            printed.say(f"kept      {keep / 'results.md'}")
        _show_table(printed, state, ui, json_)


def _rows_asked_for(resolved: Config, rows: list[str], seeds: list[int]) -> Config:
    """The configuration with these seeds alone. A row that is not in it is refused here, before anything starts."""
    if seeds:
        from sifthinker.evaluation.ablation import only

        resolved = only(resolved, seeds)
    with refusing(resolved):
        server.settings(resolved.store)
        from flows.ablation import chosen

        chosen(resolved, rows)
    return resolved


def _show_table(printed: Printed, state: Any, ui: str, as_json: bool) -> None:
    """The table of an ablation's run, or why there is none; the command ends with an exit code then."""
    if not state.is_completed():
        shown = Console(stderr=True) if as_json else console
        said = f"[bold red]failed:[/] {plain(state.message or '')}\nUI: {ui}"
        shown.print(said, highlight=False, soft_wrap=True)
        raise typer.Exit(exit_code(state))
    folder = Path(state.result())
    printed.value("table", json.loads((folder / "table.json").read_text(encoding="utf-8")))
    printed.say((folder / "table.md").read_text(encoding="utf-8"))
    printed.say(f"table     {folder}\nUI        {ui}")


def _side_by_side(
    at_once: int, keep: Path, config: Config, rows: list[str], options: list[str], as_json: bool
) -> None:
    """Rows that are not kept yet; ends the command with an exit code where one failed."""
    shown = Console(stderr=True) if as_json else console
    failed = ablation_rows.make(keep, config, rows, options, at_once, shown)
    with Printed(as_json, "kept") as printed:
        printed.value("kept", {"results": str(keep / "results.md"), "failed": failed})
        printed.say(f"kept      {keep / 'results.md'}")
        if failed:
            printed.say(f"failed: {', '.join(failed)}; what each said is above", "bold red")
            raise typer.Exit(2 if set(failed.values()) == {2} else 1)  # as the ablation itself (`exit_code`)


def _options(config: list[str], fields: list[str], store: Path | None, limit: int | None) -> list[str]:
    """The options of a command for one row."""
    options = [word for name in config for word in ("--config", name)]
    options += [word for field in fields for word in ("--set", field)]
    options += [] if store is None else ["--store", str(store)]
    return options + ([] if limit is None else ["--limit", str(limit)])


def _places(config: Config, made: dict[str, str]) -> dict[str, str]:
    """Where the things are that people look for."""
    places = {"data set": ("publish", ""), "model": ("merge-grpo", ""), "report": ("report", "report.html")}
    return {
        name: str(config.store / made[label] / file)
        for name, (label, file) in places.items()
        if label in made
    }
