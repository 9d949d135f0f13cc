"""`sif doctor`: is everything here that a run needs, and what is to be done where it is not?"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from flows import server
from flows.commands.options import DEMO, ConfigOption, SetOption, StopAfter, StoreOption, load, looking
from flows.commands.plan import planned as planned_stages
from flows.commands.tables import Column, JsonOption, Printed
from sifthinker.config import Config
from sifthinker.upkeep.findings import examine

COLOURS = {"ok": "green", "warning": "yellow", "error": "bold red"}
COLUMNS = (
    Column("check", "check"),
    Column("", "verdict", COLOURS),
    Column("found", "found"),
    Column("what to do", "todo"),
)
DEPLOYMENTS = Path(__file__).resolve().parents[2] / "infra" / "prefect.yaml"


def doctor(
    config: ConfigOption = DEMO,
    set_: SetOption = [],  # noqa: B006
    store: StoreOption = None,
    stop_after: StopAfter = None,
    no_calls: Annotated[
        bool,
        typer.Option(
            "--no-calls", help="leave out the one short call to each endpoint, which may cost money"
        ),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Checks all that a run needs, and says what to do where something is wrong. It then exits with status 1."""
    from sifthinker.upkeep import doctor as domain

    resolved = load(config, set_, store=store)
    with looking(resolved):
        checks = domain.machine(resolved, not no_calls, _stages(resolved, stop_after))
        findings = examine(
            {**checks, "Dask": lambda: _cluster(resolved), "server": lambda: _server(resolved)}
        )
    with Printed(json_, "findings") as printed:
        printed.table("findings", COLUMNS, map(asdict, findings))
    if any(finding.verdict == "error" for finding in findings):
        raise typer.Exit(1)


def _stages(config: Config, stop_after: str | None) -> set[str] | None:
    """The stages that a run up to `stop_after` has; None: all."""
    if stop_after is None:
        return None
    server.settings_of_a_look(config.store)
    return {planned.label for planned in planned_stages(config, None, stop_after, [], None)}


def _cluster(config: Config) -> list[Any]:
    if config.dask is None:
        return []
    server.settings_of_a_look(config.store)
    from tasks.operations import cluster_check

    return list(cluster_check.workers(config))


def _server(config: Config) -> list[Any]:
    server.settings_of_a_look(config.store)
    from tasks.operations import doctor as tasks

    return examine(tasks.server(config, os.environ["PREFECT_API_URL"], server.answers, _expected()))


def _expected() -> dict[str, str]:
    """The pools of the project's deployments, by the deployments' names; none outside a checkout."""
    if not DEPLOYMENTS.is_file():
        return {}
    described = yaml.safe_load(DEPLOYMENTS.read_text(encoding="utf-8"))["deployments"]
    return {deployment["name"]: deployment["work_pool"]["name"] for deployment in described}
