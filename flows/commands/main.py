"""The `sif` command: its commands in groups, `--version`, and the exit codes of errors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.commands import annotation, artifacts, dataset, developers, models, run
from flows.commands.accept import accept
from flows.commands.chains import chains
from flows.commands.compare import compare
from flows.commands.data import data
from flows.commands.doctor import doctor
from flows.commands.init import init
from flows.commands.join import join
from flows.commands.judges import judge_agreement
from flows.commands.ledger import import_ledger
from flows.commands.logs import logs
from flows.commands.metrics import metrics
from flows.commands.nightly import nightly
from flows.commands.options import STAGES, plain
from flows.commands.pages import pages
from flows.commands.plan import plan
from flows.commands.status import status
from flows.commands.view import view
from sifthinker.core.errors import UserError
from sifthinker.system import machine
from sifthinker.system.disk_errors import explained

Command = Callable[..., None]

# The groups of `sif --help` with their commands. A new command is a function with a docstring, which is its help.
GROUPS: dict[str, tuple[Command, ...]] = {
    "Run": (run.run, plan, annotation.preview, annotation.annotate, run.ablation, join),
    "Look": (status, logs, compare, chains, artifacts.lineage, pages, view),
    "Nights": (nightly, artifacts.promote),
    "Data": (init, data, dataset.export, dataset.push),
    "Models": (models.ask, models.serve, models.depth, judge_agreement),
    "Upkeep": (doctor, accept, artifacts.prune, import_ledger, metrics),
    "For developers": (developers.scenes, developers.frame, developers.bench),
}
EXIT_CODES = (
    "Exit codes: 0 for success, 1 for a failure, 2 for wrong usage or another error that you have to correct."
)
# Of commands whose codes say more.
SPECIAL_CODES: dict[Command, str] = {
    data: "The exit codes stand above.",
    logs: "The exit codes stand above.",
    doctor: "Exit codes: 0 nothing is an error, 1 something is, 2 wrong usage.",
    models.depth: "Exit codes: 0 for success, 1 if a picture was rejected, 2 for wrong usage or another mistake of the user's.",
    nightly: "The exit codes stand above.",
}

# Commands that take the name of a stage.
WITH_STAGES = (run.run, plan, doctor, accept, run.ablation)

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def main() -> None:
    """Runs the command. A user's mistake ends it with a message and exit code 2, never with a traceback."""
    try:
        with explained("sif"):
            app(prog_name="sif")
    except UserError as error:
        Console(stderr=True).print(
            f"[bold red]error:[/] {plain(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        commit = machine.commit(Path(__file__).resolve().parents[2])
        typer.echo(f"sif {version('sifthinker-repro')}" + (f", commit {commit}" if commit else ""))
        raise typer.Exit


@app.callback(epilog=EXIT_CODES)
def sif(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="show the version and the commit"),
    ] = False,
) -> None:
    """Reproduces SIFThinker: data set, training, evaluation, and nights that watch over the model."""


for group, commands in GROUPS.items():
    for command in commands:
        epilog = SPECIAL_CODES.get(command, EXIT_CODES)
        if command in WITH_STAGES:
            epilog = f"{STAGES}\n\n{epilog}"
        app.command(rich_help_panel=group, epilog=epilog)(command)
