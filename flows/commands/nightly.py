"""`sif nightly`."""

from __future__ import annotations

from typing import Annotated

import typer

from flows import server
from flows.commands import terminal
from flows.commands.ending import ended, exit_code
from flows.commands.options import (
    NIGHTLY,
    ConfigOption,
    LimitOption,
    SetOption,
    StoreOption,
    load,
    looking,
    refusing,
)
from flows.commands.tables import JsonOption, Printed
from flows.commands.terminal import VerboseOption
from sifthinker.config import Config


def nightly(
    config: ConfigOption = NIGHTLY,
    set_: SetOption = [],  # noqa: B006
    store: StoreOption = None,
    model: Annotated[list[str], typer.Option(help="checkpoint to evaluate; may be repeated")] = [],  # noqa: B006
    benchmark: Annotated[list[str], typer.Option(help="only this one; may be repeated")] = [],  # noqa: B006
    fresh: Annotated[bool, typer.Option("--fresh", help="ask every question again")] = False,
    tier: Annotated[
        str | None, typer.Option(help="begin with this tier (quick, nightly, weekly)", metavar="TIER")
    ] = None,
    plan_: Annotated[
        bool, typer.Option("--plan", help="only say which falls the night could find; asks nothing")
    ] = False,
    limit: LimitOption = None,
    verbose: VerboseOption = False,
    json_: JsonOption = False,
) -> None:
    """Runs a night: evaluates the checkpoints and compares them with the last good night and the baseline.

    Exit codes:
    0 passed, or skipped because it was too late
    1 regressed: a benchmark fell significantly; or the run failed
    2 wrong usage, or another error that you have to correct and that the message names
    3 not run: it says nothing about the model
    4 inconclusive: at least one comparison had too few questions to detect any fall
    5 warned: a fall that is not significant, or many more replies than before that are unparsable, refused, cut off or have no box
    """
    resolved = load(config, set_, limit, store)
    if not verbose:
        terminal.quiet()
    if plan_:
        with looking(resolved), Printed(json_, "expected") as printed:
            _foretell(printed, resolved, model, benchmark, fresh, tier)
        return
    with refusing(resolved):
        server.settings(resolved.store)
        from flows import form
        from flows.commands.night_results import show
        from flows.nightly import EXIT_CODES, chosen
        from flows.nightly import nightly as night

        chosen(resolved, model, benchmark, fresh, tier)  # a wrong tier shows before anything starts
    ui = server.ensure()
    options = {"models": model, "benchmarks": benchmark, "fresh": fresh, "tier": tier or ""}
    given = form.text(resolved), form.settings(set_, limit)
    state = ended(lambda: night(*given, **options, return_state=True), verbose, json_)
    with Printed(json_, "outcome", "comparisons", "reports") as printed:
        printed.value("outcome", {"state": state.name, "message": state.message})
        printed.say(f"{state.name}: {state.message or ''}")
        show(printed, resolved.store / "nights", str(state.state_details.flow_run_id))
        printed.say(f"UI        {ui}")
    raise typer.Exit(EXIT_CODES.get(str(state.name), 0 if state.is_completed() else exit_code(state)))


def _foretell(
    printed: Printed, config: Config, model: list[str], benchmark: list[str], fresh: bool, tier: str | None
) -> None:
    """Prints what a night could find."""
    server.settings(config.store)
    from flows.commands.night_results import show_plan
    from flows.nightly import chosen, plan

    of_night = chosen(config, model, benchmark, fresh, tier)
    show_plan(printed, plan(of_night), of_night.nightly)
