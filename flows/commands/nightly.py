"""`sif nightly`."""

from __future__ import annotations

from contextlib import nullcontext
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
    2 wrong usage, or another mistake of yours that the message names
    3 not run: it says nothing about the model
    4 inconclusive: some comparison could not have failed, whatever was answered
    5 warned: a fall that is not significant, or many more unparsable replies
    """
    resolved = load(config, set_, limit, store)
    if not verbose:
        terminal.quiet()
    with looking(resolved) if plan_ else nullcontext():
        _nightly(resolved, model, benchmark, fresh, tier, plan_, verbose, json_)


def _nightly(
    resolved: Config,
    model: list[str],
    benchmark: list[str],
    fresh: bool,
    tier: str | None,
    plan_: bool,
    verbose: bool,
    json_: bool,
) -> None:
    server.settings(resolved.store)
    from flows.commands.night_results import show, show_plan
    from flows.nightly import EXIT_CODES, chosen
    from flows.nightly import nightly as night
    from flows.nightly import plan as foretold

    of_night = chosen(resolved, model, benchmark, fresh, tier)  # a wrong tier shows before anything starts
    if plan_:
        with Printed(json_, "expected") as printed:
            show_plan(printed, foretold(of_night), of_night.nightly)
        return
    ui = server.ensure()
    options = {"models": model, "benchmarks": benchmark, "fresh": fresh, "tier": tier}
    state = ended(lambda: night(resolved, **options, return_state=True), verbose, json_)
    with Printed(json_, "outcome", "comparisons", "reports") as printed:
        printed.value("outcome", {"state": state.name, "message": state.message})
        printed.say(f"{state.name}: {state.message or ''}")
        show(printed, resolved.store / "nights", str(state.state_details.flow_run_id))
        printed.say(f"UI        {ui}")
    raise typer.Exit(EXIT_CODES.get(str(state.name), 0 if state.is_completed() else exit_code(state)))
