"""Commands about a store: its runs, the chain behind an artifact, aliases, pruning."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import server
from flows.commands import places
from flows.commands.options import StoreConfigOption, StoreOption, console, existing
from flows.commands.tables import Column, JsonOption, Printed
from sifthinker.core.errors import UserError
from sifthinker.reporting import lineage_picture
from sifthinker.store.lineage import Node
from sifthinker.upkeep.prune import size

DOOMED = (
    Column("", "kind"),
    Column("what", "path"),
    Column("size", lambda row: size(row["bytes"])),
    Column("why", "why"),
)


def lineage(
    artifact: Annotated[
        str,
        typer.Argument(
            help="'latest' (model), an alias, a run, or <stage>/<key>, whose key may be cut short"
        ),
    ] = "latest",
    store: StoreOption = None,
    config: StoreConfigOption = [],  # noqa: B006
    json_: JsonOption = False,
    out: Annotated[
        Path | None,
        typer.Option(help="also draws it, as a PNG", metavar="FILE", callback=places.file),
    ] = None,
) -> None:
    """Shows what an artifact was made from, back to the users' files and the pre-trained weights."""
    opened = existing(store, config)
    from sifthinker.store import lineage as domain
    from sifthinker.store.checkpoints import find

    ref = domain.named(opened, artifact) or find(opened, artifact)
    if isinstance(ref, Path):
        raise UserError(f"lineage: {artifact} is a folder outside the store: nothing is known of its making")
    nodes = domain.trace(opened.manifest, ref)
    with Printed(json_, "artifacts") as printed:
        printed.value("artifacts", [_node(node) for node in nodes.values()])
        none = ("", "", "", "")
        lines = [
            (line, *((node.made, node.rows, _with(node), node.digest[: domain.SHORT]) if node else none))
            for line, node in domain.tree(nodes)
        ]
        printed.lines(("artifact", "made", "rows", "with", "digest"), lines)
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_bytes(lineage_picture.picture(nodes))
            printed.say(f"picture   {out}")


def _with(node: Node) -> str:
    return "; ".join(filter(None, (node.code, node.doubts)))


def _node(node: Node) -> dict[str, Any]:
    """An artifact of a lineage for programs; `inputs` are the artifacts that it was made from, by their part."""
    manifest = node.manifest
    return {
        "artifact": node.name,
        "stage": node.label,
        "made": manifest["made"] if manifest else None,
        "rows": manifest["rows"] if manifest else None,
        "with": _with(node),
        "digest": node.digest,
        "inputs": [{"as": role, "artifact": name} for role, name in node.inputs],
        "files": manifest["identity"].get("files", {}) if manifest else {},
        "gone": manifest is None,
    }


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
    from sifthinker.store.checkpoints import certain

    ref = certain(opened, model)
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
    json_: JsonOption = False,
) -> None:
    """Shows the artifacts that no pinned and no recent run needs, and removes them if told to."""
    from sifthinker.upkeep import prune as domain
    from tasks.runtime.stage_results import RESULTS

    if json_ and apply and not yes:
        raise UserError("prune --json: nobody can answer the question of --apply; give --yes to remove")
    opened = existing(store, config)
    server.settings(opened.root)
    ended: set[str] = set()
    if (under_way := domain.running(opened)) and server.admits(os.environ["PREFECT_API_URL"]):
        from tasks.operations.prune import over

        ended = over(under_way)
    rules = domain.Rules(days, runs, ended, RESULTS.keys())
    found = domain.survey(opened, rules)
    with Printed(json_, "found", "removed") as printed:
        rows = [{**thing._asdict(), "path": str(thing.path)} for thing in found.doomed]
        printed.table("found", DOOMED, rows)
        printed.say(domain.summary(found, removed=False))
        if found.doomed and (yes or (apply and typer.confirm("remove?"))):
            removed = domain.remove(opened, rules, found)
            printed.value("removed", [str(thing.path) for thing in removed.doomed])
            printed.say(domain.summary(removed, removed=True))
            domain.check(removed)
