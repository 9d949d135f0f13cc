"""`sif plan`: which stages would run, why, and what they will take."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from flows import server
from flows.commands import reading_files, requests
from flows.commands.options import (
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
    looking,
    plain,
)
from flows.commands.tables import Column, JsonOption, Printed
from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store

if TYPE_CHECKING:  # they import Prefect
    from sifthinker.training.memory import Shape
    from sifthinker.upkeep.forecast import Calibration, Line
    from tasks.runtime.planned import Planned

GB = 1e9
REASONS = 6  # of a stage that people see; a new configuration may differ from the last one in dozens
STAGES = (
    Column("stage", "stage"),
    Column("", "verdict", {"runs": "yellow", "cached": "green", "pinned": "green"}),
    Column("where", "where"),
    Column("why", lambda row: _why(row)),
    Column("rows", lambda row: str(row["rows"] or "")),
    Column("last time", lambda row: "" if row["last_seconds"] is None else f"{row['last_seconds']:.0f} s"),
    Column("expected", "expects"),
)
ASSUMED = (
    "Expected of typical rows: pictures of 500 x 375 pixels, chains of 3.2 steps. Memory is that of the longest sample. "
    "Hours leave out the exchange between ranks"
)


def plan(
    config: ConfigOption = DEMO,
    set_: SetOption = [],  # noqa: B006 (typer copies it)
    store: StoreOption = None,
    start_at: StartAt = None,
    stop_after: StopAfter = None,
    refresh: Refresh = [],  # noqa: B006
    reuse_run: ReuseRun = None,
    limit: LimitOption = None,
    json_: JsonOption = False,
    resolved_: Annotated[
        bool,
        typer.Option(
            "--resolved",
            help="only print what differs from the defaults, after `extends`, --config and --set",
        ),
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="first measure this machine, for the expected hours: a minute, or about three where layers are slow",
        ),
    ] = False,
) -> None:
    """Shows which stages would run, why, and what they will take, without running any."""
    resolved = load(config, set_, limit, store)
    if resolved_:
        typer.echo(_as_yaml(resolved), nl=False)
        return
    with looking(resolved):
        server.settings(resolved.store)
        with reading_files.shown(resolved.store):
            found = planned(resolved, start_at, stop_after, refresh, reuse_run)
        lines, measured = expected(resolved, found, calibrate)
    by_stage = {line.stage: asdict(line) for line in lines}
    with Printed(json_, "stages") as printed:
        rows = [{**p.as_json(), "last_seconds": p.seconds, "forecast": by_stage.get(p.label)} for p in found]
        printed.table("stages", STAGES, rows)
        if lines:
            _show(printed, lines, measured)
        for said in requests.lines(resolved, {p.label for p in found if p.verdict == "runs"}):
            printed.say(said)


def _why(row: Mapping[str, Any]) -> str:
    """The reasons of a stage for people: the first ones, and everything that it lacks."""
    reasons = row["reasons"]
    more = [f"and {len(reasons) - REASONS} more; --json has them"] if len(reasons) > REASONS else []
    return "\n".join([*reasons[:REASONS], *more, *(f"lacks {what}" for what in row["lacks"])])


def _as_yaml(config: Config) -> str:
    """What of a configuration differs from the defaults, as a file that says the same."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def planned(
    config: Config, start_at: str | None, stop_after: str | None, refresh: list[str], reuse_run: str | None
) -> list[Planned]:
    """The plan of a run.

    Raises:
        UserError: it asks for what cannot be.
    """
    from flows.reproduce import reproduction
    from tasks.runtime.pipeline import Partial
    from tasks.runtime.pipeline import plan as planning

    return planning(
        reproduction, config, Partial(start_at, stop_after, tuple(refresh), reuse_run), Store.of(config)
    )


def expected(
    config: Config, plan: Sequence[Planned], calibrate: bool
) -> tuple[list[Line], Calibration | None]:
    """What the stages that run will take, and the measurement that the hours are from.

    Raises:
        UserError: this machine is to be measured, and the training's packages or the model's sizes are not here.
    """
    from sifthinker.upkeep import forecast
    from tasks.operations import known_weights

    store = Store.of(config)
    policy = known_weights.find(store, plan, "policy", config.model.weights)
    shape = known_weights.shape(policy, config.model.weights)
    if calibrate:
        _calibrate(config, shape, known_weights.find(store, plan, "depth", config.depth.weights))
    host, device = socket.gethostname(), forecast.device()
    measured = forecast.latest(shape, config.sft.precision, host, device)
    made = {p.label: p.rows for p in plan if p.rows is not None}
    work = forecast.workload(config, made, shape)
    running = [p.label for p in plan if p.verdict == "runs"]
    return forecast.forecast(running, config, work, shape, measured), measured


def _calibrate(config: Config, shape: Shape | None, depth: Path | None) -> None:
    if find_spec("torch") is None:
        raise UserError("--calibrate: torch is not installed; pip install -e '.[train]' -c constraints.txt")
    if shape is None:
        raise UserError(
            f"--calibrate: the sizes of {config.model.weights} are known when it is here; run `sif run --stop-after "
            "policy-weights` first, or give a folder as model.weights"
        )
    from sifthinker.upkeep import forecast
    from sifthinker.upkeep.forecast import measure

    file = forecast.save(measure.calibrate(config, shape, depth))
    console.print(f"measured: {plain(str(file))}", highlight=False, soft_wrap=True)


def _show(printed: Printed, lines: Sequence[Line], measured: Calibration | None) -> None:
    """The table of what the stages will take."""
    if measured:
        title = f"What it will take; hours by {measured.name}"
    else:
        title = "What it will take; hours: not measured here (`sif plan --calibrate`)"
    if measured and measured.extrapolated:
        title += f"\nNot measured: {measured.extrapolated}"
    rows = [_cells(line) for line in lines]
    known = [line.hours for line in lines if line.hours is not None]
    disk = sum(line.disk_bytes or 0.0 for line in lines)
    calls = sum(line.calls or 0 for line in lines)
    more = "" if len(known) == len(lines) else "what is known of"
    rows.append(("together", _hours(sum(known)) if known else "", "", _size(disk), f"{calls:,}", more))
    printed.lines(("stage", "hours", "memory of a rank", "disk", "API calls", ""), rows, f"\n{title}")
    printed.say(ASSUMED)


def _cells(line: Line) -> tuple[str, ...]:
    return (
        line.stage,
        "" if line.hours is None else _hours(line.hours),
        _size(line.memory_bytes),
        _size(line.disk_bytes),
        "" if line.calls is None else f"{line.calls:,}",
        line.note,
    )


def _hours(hours: float) -> str:
    return f"{hours:.1f}" if hours >= 0.1 else f"{hours:.3f}"


def _size(size: float | None) -> str:
    if size is None:
        return ""
    return f"{size / GB:,.1f} GB" if size >= GB / 10 else f"{size / 1e6:,.0f} MB"
