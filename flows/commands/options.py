"""What the commands of `sif` share: their options, the configuration that these name, and the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sifthinker import config as configuration
from sifthinker.config import Config, layers
from sifthinker.core.errors import UserError

console = Console(width=None if sys.stdout.isatty() else 200)  # a pipe is not 80 columns wide

ConfigOption = Annotated[
    list[str],
    typer.Option(
        "--config",
        "-c",
        help=f"{', '.join(layers.names())}, or the path of a YAML file; may be repeated, and the later wins",
        metavar="NAME|FILE",
    ),
]
DEMO, NIGHTLY, ABLATION = ["demo"], ["nightly"], ["ablation"]  # what commands take without --config
SetOption = Annotated[
    list[str],
    typer.Option("--set", "-s", help="one field, e.g. grpo.learning_rate=2e-5", metavar="FIELD=VALUE"),
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=1,
        help="a quick look: at most so many questions of each benchmark, a seeded sample; short for evaluate.limit",
        metavar="N",
    ),
]
StartAt = Annotated[str | None, typer.Option(help="take all earlier stages from the store", metavar="STAGE")]
StopAfter = Annotated[str | None, typer.Option(help="last stage that runs", metavar="STAGE")]
Refresh = Annotated[list[str], typer.Option(help="make this stage again; may be repeated", metavar="STAGE")]
ReuseRun = Annotated[
    str | None, typer.Option(help="take the stages before --start-at from this earlier run", metavar="RUN")
]
StoreOption = Annotated[Path, typer.Option("--store", help="folder of the artifacts")]


def load(names: Sequence[str], overrides: list[str], limit: int | None = None) -> Config:
    """The configuration of one or more `--config`, with the fields of `--set` and then `--limit` on top.

    Raises:
        UserError: there is none of that name, or a field is unknown or has a wrong value.
    """
    fields: dict[str, Any] = {}
    for text in overrides:
        field, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text}: write FIELD=VALUE, e.g. grpo.learning_rate=2e-5")
        fields[field] = configuration.parse_value(value, f"--set {field}")
    if limit is not None:
        fields["evaluate.limit"] = limit
    given = [names] if isinstance(names, str) else names
    return configuration.load([layers.named(name) for name in given], fields)


def plain(text: str) -> str:
    """Text in which rich finds no markup."""
    return text.replace("[", r"\[")
