"""What the commands of `sif` share: their options, the configuration that these name, and the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sifthinker import config as configuration
from sifthinker.config import Config
from sifthinker.core.errors import UserError

console = Console(width=None if sys.stdout.isatty() else 200)  # a pipe is not 80 columns wide
CONFIGS = Path(__file__).parents[1] / "configs"

ConfigOption = Annotated[
    str, typer.Option("--config", "-c", help="demo, paper, or the path of a YAML file", metavar="NAME|FILE")
]
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


def load(name: str, overrides: list[str], limit: int | None = None) -> Config:
    """The configuration of `--config`, with the fields of `--set` and then `--limit` on top.

    Raises:
        UserError: there is none of that name, or a field is unknown or has a wrong value.
    """
    path = CONFIGS / f"{name}.yaml"
    fields: dict[str, Any] = {}
    for text in overrides:
        field, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text}: write FIELD=VALUE, e.g. grpo.learning_rate=2e-5")
        fields[field] = configuration.parse_value(value, f"--set {field}")
    if limit is not None:
        fields["evaluate.limit"] = limit
    return configuration.load(path if path.exists() else Path(name), fields)


def plain(text: str) -> str:
    """Text in which rich finds no markup."""
    return text.replace("[", r"\[")
