"""`sif status`: the runs of a store, and what one of them made, took and changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from flows.commands import outcome
from flows.commands.options import StoreConfigOption, StoreOption, existing
from flows.commands.tables import Column, JsonOption, Printed
from sifthinker.core.errors import UserError
from sifthinker.store import runs
from sifthinker.store.artifacts import Store

LATEST = 10  # runs that are listed for people
REASONS = 2  # differences of a stage that are shown to people
COLOURS = {
    "finished": "green",
    "failed": "red",
    runs.RUNNING: "yellow",
    runs.KILLED: "red",
    runs.CRASHED: "red",
}

RUNS = (
    Column("run", "name"),
    Column("started", lambda row: _when(row["started"])),
    Column("state", "state", COLOURS),
    Column("stages", "stages"),
    Column("id", "id"),
)
STAGES = (
    Column("stage", "stage"),
    Column("rows in", "rows_in"),
    Column("kept", "kept"),
    Column("rejected", "rejected_most"),
    Column("made", lambda row: "gone" if row["made"] is None else _when(row["made"]), spare=2),
    Column(
        "time", lambda row: "" if row["seconds"] is None else outcome.duration(row["seconds"], row["tries"])
    ),
    Column("cost", "cost"),
    Column("", lambda row: "cached" if row["cached"] else ""),
    Column("artifact", "artifact", spare=1),
    Column("changed since the run before", lambda row: _changed(row["changed"])),
)


def status(
    run: Annotated[
        str | None, typer.Argument(help="name or id of the run that is shown; the latest", metavar="RUN")
    ] = None,
    store: StoreOption = None,
    config: StoreConfigOption = [],  # noqa: B006 (typer copies it)
    json_: JsonOption = False,
) -> None:
    """Lists the runs of a store, and what the latest one (or RUN) made: rows, time, cost, and what differs from the run before."""
    opened = existing(store, config)
    found = runs.runs(opened)
    with Printed(json_, "runs", "run", "stages") as printed:
        chosen = asked(opened, run, "status") if run else next(iter(found), None)
        printed.table("runs", RUNS, [_run(opened, record) for record in found[:LATEST]], "no runs yet")
        printed.value("runs", [_run(opened, record) for record in found])
        if chosen is None:
            return
        earlier = outcome.before(found, chosen)
        printed.value("run", {**_run(opened, chosen), "before": earlier["id"] if earlier else None})
        against = f"; compared with {_name(earlier)}" if earlier else ""
        rows = outcome.rows(opened, chosen["id"])
        title = f"\n{_name(chosen)}: {runs.state(opened, chosen)}{against}"
        printed.table("stages", STAGES, map(outcome.as_row, rows), f"{title}; it has made nothing", title)
        if rows:
            printed.say(f"{'took':9} {outcome.took(rows)}")
        if process := runs.gone(opened, chosen):
            printed.say(killed(chosen, process), "red")


def asked(store: Store, name: str, who: str) -> dict[str, Any]:
    """The record of the one run that a name or an id means.

    Raises:
        UserError: there is none, or there are several; `who` begins the message.
    """
    found = runs.only(store, name, lambda run: run["id"], who)
    if found is None:
        raise UserError(f"{who}: there is no run {name} in {store.root}; `sif status` lists the runs")
    return found


def killed(record: Mapping[str, Any], process: Mapping[str, Any]) -> str:
    """That the process of a run is gone, and what to do."""
    return (
        f"run {record.get('name', '')} ({record['id']}): its process {process['pid']} on {process['host']} is gone: it was "
        "killed (out of memory?), or the machine restarted. The same `sif run` resumes it"
    )


def _run(store: Store, record: Mapping[str, Any]) -> dict[str, Any]:
    names = ("id", "name", "started")
    said = {name: record.get(name) for name in names}
    return {**said, "state": runs.state(store, record), "stages": len(record["stages"])}


def _name(record: Mapping[str, Any]) -> str:
    return f"{record.get('name', record['id'])} of {_when(record['started'])}"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _changed(reasons: Sequence[str]) -> str:
    more = f", and {len(reasons) - REASONS} more" if len(reasons) > REASONS else ""
    return "; ".join(reasons[:REASONS]) + more
