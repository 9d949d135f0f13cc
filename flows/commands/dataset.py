"""Commands about a run's data set: export, push."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands import places
from flows.commands.options import StoreConfigOption, StoreOption, console, existing, plain
from sifthinker.core.errors import UserError
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref

RunOption = Annotated[
    str | None, typer.Option(help="name or id; the latest that published a data set", metavar="RUN")
]


def published(store: Store, run: str | None) -> tuple[dict[str, Any], dict[str, Ref]]:
    """The record of a run that published a data set, and its artifacts by label.

    Raises:
        UserError: there is none, or the name fits several runs whose data sets differ.
    """

    def made(record: dict[str, Any]) -> list[Any] | None:
        refs = [record["stages"].get(label) for label in ("publish", "subset")]
        return refs if refs[0] else None

    if run is None:
        found = next((record for record in runs.runs(store) if made(record)), None)
    else:
        found = runs.only(store, run, made, "--run")
    if found:
        return found, {label: Ref(**ref) for label, ref in found["stages"].items()}
    which = "run" if run is None else f"run {run}"
    raise UserError(f"{store.root} has no {which} with a published data set; `sif status` lists the runs")


def _rl(store: Store, refs: dict[str, Ref]) -> Path | None:
    return store.open(refs["subset"]).path / "rl.parquet" if "subset" in refs else None


def export(
    out: Annotated[Path, typer.Argument(help="folder that is made", callback=places.folder)],
    store: StoreOption = None,
    config: StoreConfigOption = [],  # noqa: B006 (typer copies it)
    run: RunOption = None,
    absolute: Annotated[
        bool, typer.Option("--absolute", help="whole paths of the pictures; the folder cannot move then")
    ] = False,
) -> None:
    """Writes the data set in the release's format (SIF-50K.json, pictures, LLaMA-Factory entry)."""
    from sifthinker.data import export as domain

    opened = existing(store, config)
    record, refs = published(opened, run)
    rl = _rl(opened, refs)
    written = domain.export(opened.open(refs["publish"]).parts("sif"), rl, out, absolute)
    console.print(f"{out}: data set of run {record['name']} ({record['id']})", soft_wrap=True)
    for name, rows in written.items():
        console.print(f"{name}: {rows:,} rows", highlight=False, soft_wrap=True)
    if rl is None:
        console.print(
            f"{domain.RL_FILE}: left out, the run has no stage `subset`; `sif run --stop-after subset` draws it",
            highlight=False,
            soft_wrap=True,
        )


def push(
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="owner/name on the hub; or a folder: a path that begins with / or .",
            metavar="REPO|FOLDER",
        ),
    ],
    store: StoreOption = None,
    config: StoreConfigOption = [],  # noqa: B006 (typer copies it)
    run: RunOption = None,
    licence: Annotated[
        str | None,
        typer.Option(
            help="of the whole, as the hub names it (cc-by-4.0); the sources' if none is given", metavar="ID"
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="everybody may see it; private otherwise")] = False,
) -> None:
    """Gives the data set away with its card: to a repository of the Hugging Face hub, or into a plain folder.

    The hub's token is read from the environment variable HF_TOKEN. The same command resumes an upload that was cut short.
    """
    from sifthinker.data import card, publish, release

    is_folder = to.startswith(("/", ".", "~"))
    if not is_folder and not re.fullmatch(r"[\w.-]+/[\w.-]+", to):
        raise UserError(
            f"push: --to {to} is neither owner/name of the hub nor a folder that begins with / or ."
        )
    if is_folder:
        places.check("push --to", Path(to).expanduser(), folder=True)
    opened = existing(store, config)
    record, refs = published(opened, run)
    artifact = opened.open(refs["publish"])
    counted = artifact.folder / "statistics.json"
    facts = card.Facts(
        record["config"],
        json.loads(counted.read_text(encoding="utf-8"))
        if counted.exists()
        else publish.statistics(artifact.parts("sif")),
        card.behind(opened.manifest, [refs["publish"]]),
        licence=licence or "",
    )
    with tempfile.TemporaryDirectory(dir=opened.root, prefix="push.tmp-") as temporary:
        out = Path(to).expanduser() if is_folder else Path(temporary) / "folder"
        rows = release.write_folder(artifact.parts("sif"), _rl(opened, refs), facts, out)
        say = lambda text: console.print(plain(text), highlight=False, soft_wrap=True)  # noqa: E731
        where = str(out) if is_folder else release.push(out, to, public, say)
    console.print(f"{plain(where)}: {rows:,} rows of run {record['name']}", highlight=False, soft_wrap=True)
