"""Commands about a store: its runs, the chain behind an artifact, aliases, pruning."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flows import server
from flows.commands.options import StoreConfigOption, StoreOption, console, existing, plain
from sifthinker.core.errors import UserError
from sifthinker.reporting import lineage_picture
from sifthinker.store import runs


def status(
    store: StoreOption = None,
    config: StoreConfigOption = [],  # noqa: B006 (typer copies it)
) -> None:
    """Lists the runs of a store, and what the latest one made."""
    opened = existing(store, config)
    found = runs.runs(opened)
    if not found:
        console.print("no runs yet")
        return
    table = Table("run", "state", "stages", "id", box=None, pad_edge=False)
    for record in found[:10]:
        table.add_row(record["name"], record["state"], str(len(record["stages"])), record["id"])
    console.print(table)
    rows = Table("stage", "rows in", "kept", "rejected", "seconds", "artifact", box=None, pad_edge=False)
    for label, ref in found[0]["stages"].items():
        m = opened.manifest(ref["stage"], ref["key"])
        if m is None:
            rows.add_row(label, "", "", "", "", "[red]gone[/]")
            continue
        rejected = ", ".join(f"{reason} {count}" for reason, count in m["rows"]["rejected"].items())
        rows.add_row(
            label,
            str(m["rows"]["in"]),
            str(m["rows"]["kept"]),
            rejected,
            f"{m['seconds']:.1f}",
            f"{ref['stage']}/{ref['key']}",
        )
    console.print(rows)


def lineage(
    artifact: Annotated[
        str,
        typer.Argument(
            help="'latest' (model), an alias, a run, or <stage>/<key>, whose key may be cut short"
        ),
    ] = "latest",
    store: StoreOption = None,
    config: StoreConfigOption = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="also draws it, as a PNG", metavar="FILE")] = None,
) -> None:
    """Shows what an artifact was made from, back to the users' files and the pre-trained weights."""
    opened = existing(store, config)
    from sifthinker.store import lineage as domain
    from sifthinker.store.checkpoints import find

    ref = domain.named(opened, artifact) or find(opened, artifact)
    if isinstance(ref, Path):
        raise UserError(f"lineage: {artifact} is a folder outside the store: nothing is known of its making")
    nodes = domain.trace(opened.manifest, ref)
    table = Table("artifact", "made", "rows", "with", "digest", box=None, pad_edge=False)
    for line, node in domain.tree(nodes):
        table.add_row(
            plain(line),
            *(
                (
                    node.made,
                    node.rows,
                    "; ".join(filter(None, (node.code, node.doubts))),
                    node.digest[: domain.SHORT],
                )
                if node
                else ()
            ),
        )
    console.print(table)
    if out:
        out.write_bytes(lineage_picture.picture(nodes))
        console.print(f"picture   {out}", highlight=False, soft_wrap=True)


def promote(
    model: Annotated[str, typer.Argument(help="a run's name or id, 'latest', or <stage>/<key> of the store")],
    why: Annotated[str, typer.Option(help="the reason, for the record")],
    as_: Annotated[
        str, typer.Option("--as", help="the alias: 'promoted' is evaluated, 'baseline' is compared with")
    ] = "baseline",
    store: StoreOption = None,
    config: StoreConfigOption = [],  # noqa: B006
) -> None:
    """Gives a checkpoint a name that nights use, and records who did so, when and why."""
    opened = existing(store, config)
    from sifthinker.store import aliases
    from sifthinker.store.checkpoints import find

    ref = find(opened, model)
    if isinstance(ref, Path):
        raise UserError(f"promote: {model} is a folder outside the store, whose files may change; name a run")
    record = aliases.pin(opened, as_, ref, getpass.getuser(), why)
    before = f", before it {record['earlier'][0]['ref']['key']}" if record["earlier"] else ""
    console.print(f"{as_}: {ref.stage}/{ref.key}{before}", highlight=False, soft_wrap=True)


def prune(
    store: StoreOption = None,
    config: StoreConfigOption = [],  # noqa: B006
    days: Annotated[float, typer.Option(min=0, help="what was made or used within so many days stays")] = 14,
    runs: Annotated[int, typer.Option(min=0, help="what the latest so many runs reach stays")] = 5,
    apply: Annotated[
        bool, typer.Option("--apply", help="remove, after a question; otherwise only look")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="remove without a question")] = False,
) -> None:
    """Shows the artifacts that no pinned and no recent run needs, and removes them if told to."""
    from sifthinker.upkeep import prune as domain

    opened = existing(store, config)
    server.settings(opened.root)
    ended: set[str] = set()
    if (under_way := domain.running(opened)) and server.answers(os.environ["PREFECT_API_URL"]):
        from tasks.operations.prune import over

        ended = over(under_way)
    rules = domain.Rules(days, runs, ended)
    found = domain.survey(opened, rules)
    table = Table("", "what", "size", "why", box=None, pad_edge=False)
    for thing in found.doomed:
        table.add_row(thing.kind, str(thing.path), domain.size(thing.bytes), thing.why)
    if found.doomed:
        console.print(table)
    console.print(domain.summary(found, removed=False), soft_wrap=True)
    if found.doomed and (yes or (apply and typer.confirm("remove?"))):
        console.print(domain.summary(domain.remove(opened, rules, found), removed=True), soft_wrap=True)
