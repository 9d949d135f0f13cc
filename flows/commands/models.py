"""Commands that use a model outside a run: `sif ask`, `sif serve`, `sif depth`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from flows import server
from flows.commands import places
from flows.commands.options import (
    DEMO,
    ConfigOption,
    SetOption,
    StoreOption,
    console,
    load,
    plain,
    refusing,
)
from sifthinker.store.artifacts import Store

if TYPE_CHECKING:  # imports torch
    from sifthinker.data.depth_folder import Counts

_EVERY = 5.0  # seconds between two lines, where there is no terminal for a bar


def ask(
    image: Annotated[Path, typer.Argument(help="an image file")],
    question: Annotated[str, typer.Argument(help="as a person asks it")],
    out: Annotated[
        Path,
        typer.Option(
            help="folder for the reply and the pictures; those of the question before are replaced",
            callback=places.folder,
        ),
    ] = Path("asked"),
    model: Annotated[
        str, typer.Option(help="'latest' of the store, an alias, a run, or a folder", metavar="MODEL")
    ] = "latest",
    server_: Annotated[
        str | None,
        typer.Option("--server", help="a server that runs, with /v1, instead of --model", metavar="URL"),
    ] = None,
    config: ConfigOption = DEMO,
    set_: SetOption = [],  # noqa: B006
    store: StoreOption = None,
) -> None:
    """Asks a model about one image, shows its chain as it comes, and draws where it looked."""
    resolved = load(config, set_, store=store)

    def say(piece: str) -> None:
        console.print(plain(piece), end="", highlight=False, soft_wrap=True)

    with refusing(resolved):
        server.settings(resolved.store)
        from tasks.operations.ask import answer

        answered = answer(resolved, image, question, model, server_, out, say)
    console.print("\n")
    if answered.problem:
        console.print(f"[yellow]no chain in the trained form:[/] {plain(answered.problem)}", soft_wrap=True)
    for name, value in {
        "answer": answered.answer or "none",
        "looks": len(answered.areas),
        "files": out,
    }.items():
        console.print(f"{name:9} {plain(str(value))}", highlight=False, soft_wrap=True)


def serve(
    model: Annotated[str, typer.Argument(help="a folder, 'latest' of the store, an alias, or a run")],
    port: Annotated[int, typer.Option(help="on loopback; 0 takes a free one", min=0, max=65535)] = 8000,
    model_name: Annotated[str, typer.Option(help="of the model in requests")] = "policy",
    chain: Annotated[
        bool,
        typer.Option(
            "--chain",
            help="put a question with one picture as in training: add the depth picture and the prompt",
        ),
    ] = False,
    reply: Annotated[
        Literal["whole", "answer", "boxes"],
        typer.Option(
            help="what is sent of a reply, for scorers that misread chains: all of it, the answer block, or the boxes "
            "of the last area"
        ),
    ] = "whole",
    config: ConfigOption = DEMO,
    set_: SetOption = [],  # noqa: B006
    store: StoreOption = None,
) -> None:
    """Serves a model in the OpenAI protocol, as evaluation does, until it is interrupted."""
    resolved = load(config, set_, store=store)

    def ready(url: str) -> None:
        console.print(f"{'URL':9} {url}", highlight=False, soft_wrap=True)
        console.print(f"{'model':9} {plain(model_name)}", highlight=False, soft_wrap=True)
        console.print("Ctrl+C ends it.", highlight=False)

    with refusing(resolved):
        server.settings(resolved.store)
        from tasks.operations.serve import serve as serving

        serving(resolved, model, port, model_name, chain, reply, ready)


def depth(
    folder: Annotated[Path, typer.Argument(help="of pictures, with the folders below it")],
    out: Annotated[Path, typer.Option(help="folder for the depth pictures", callback=places.folder)],
    config: ConfigOption = DEMO,
    set_: SetOption = [],  # noqa: B006
    store: StoreOption = None,
) -> None:
    """Makes the depth picture of every picture in a folder. Run again, it makes what is missing."""
    resolved = load(config, set_, store=store)
    with refusing(resolved), tempfile.TemporaryDirectory() as work, _Shown() as shown:
        server.settings(resolved.store)
        from sifthinker.data import depth_folder
        from tasks.operations.depth_weights import weights

        found = weights(Store.of(resolved), resolved, Path(work))
        counts, lost = depth_folder.write(
            folder, out, found, resolved.depth, resolved.ingest.max_pixels, shown
        )
    console.print(f"{out}: {_line(counts)}", highlight=False, soft_wrap=True)
    if lost:
        first = plain(f"{lost[0].reason}: {lost[0].detail}")
        console.print(f"rejected: {first}; all of them: {out / 'rejects.parquet'}", soft_wrap=True)
        raise typer.Exit(1)


def _line(counts: Counts) -> str:
    return (
        f"{counts.total:,} pictures: {counts.made:,} depth pictures made, {counts.there:,} were there, "
        f"{counts.rejected:,} rejected"
    )


class _Shown:
    """How far it is: a bar in a terminal, else a line now and then."""

    def __init__(self) -> None:
        figures = (
            TextColumn("depth"),
            BarColumn(20),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*figures, console=console, disable=not sys.stdout.isatty())
        self._task = self._bar.add_task("", total=None)
        self._said = self._began = time.monotonic()

    def __enter__(self) -> _Shown:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, counts: Counts) -> None:
        now = time.monotonic()
        rate = counts.made / max(now - self._began, 1e-9)
        text = f"{counts.done:,} of {counts.total:,}, {rate:.1f}/s, {counts.rejected:,} rejected"
        self._bar.update(self._task, description=text, completed=counts.done, total=counts.total)
        if self._bar.disable and now - self._said >= _EVERY:
            self._said = now
            left = (counts.total - counts.done) / rate if rate else 0
            console.print(f"depth: {text}, {left:.0f} s left", highlight=False, soft_wrap=True)
