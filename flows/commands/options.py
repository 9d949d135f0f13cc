"""What the commands of `sif` share: their options, the configuration that these name, and the terminal."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from flows.labels import LABELS
from sifthinker import config as configuration
from sifthinker.config import Config, layers
from sifthinker.config.choices import suggestion
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store

logger = logging.getLogger(__name__)
Pull = Literal["must", "may", "no"]
console = Console(width=None if sys.stdout.isatty() else 200)  # a pipe is not 80 columns wide

ConfigOption = Annotated[
    list[str],
    typer.Option(
        "--config",
        "-c",
        help=f"one of {', '.join(layers.names())}, or the path of a YAML file; may be repeated, and the later wins",
        metavar="NAME|FILE",
        autocompletion=layers.names,
    ),
]
# Of commands that only need a store.
StoreConfigOption = Annotated[
    list[str],
    typer.Option(
        "--config",
        "-c",
        help="configuration whose store is meant",
        metavar="NAME|FILE",
        autocompletion=layers.names,
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


def _known(parameter: typer.CallbackParam, label: str) -> str:
    if label not in LABELS:
        raise UserError(
            f"{parameter.opts[0]}: there is no stage {label}{suggestion(label, LABELS)}; stages: {', '.join(LABELS)}"
        )
    return label


def _stage(parameter: typer.CallbackParam, given: str | None) -> str | None:
    return None if given is None else _known(parameter, given)


def _stages(parameter: typer.CallbackParam, given: list[str] | None) -> list[str]:
    return [_known(parameter, label) for label in given or ()]


STAGES = "Stages: " + ", ".join(LABELS) + "."  # for the help of commands that take the name of one
StartAt = Annotated[
    str | None,
    typer.Option(
        help="take all earlier stages from the store",
        metavar="STAGE",
        callback=_stage,
        autocompletion=lambda: LABELS,
    ),
]
StopAfter = Annotated[
    str | None,
    typer.Option(
        help="last stage that runs",
        metavar="STAGE",
        callback=_stage,
        autocompletion=lambda: LABELS,
    ),
]
Refresh = Annotated[
    list[str],
    typer.Option(
        help="make this stage again; may be repeated",
        metavar="STAGE",
        callback=_stages,
        autocompletion=lambda: LABELS,
    ),
]
ReuseRun = Annotated[
    str | None, typer.Option(help="take the stages before --start-at from this earlier run", metavar="RUN")
]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help="folder of the artifacts; otherwise the configuration's `store`, which is ./artifacts by default",
        metavar="FOLDER",
    ),
]


def load(
    names: Sequence[str], overrides: list[str], limit: int | None = None, store: Path | None = None
) -> Config:
    """The configuration of one or more `--config`, with the fields of `--set`, then `--limit` and `--store` on top.

    Raises:
        UserError: there is none of that name, or a field is unknown or has a wrong value.
    """
    fields = configuration.assignments(overrides, "--set")
    if limit is not None:
        fields["evaluate.limit"] = limit
    if store is not None:
        fields["store"] = str(store)
    given = [names] if isinstance(names, str) else names
    return configuration.load([layers.named(name) for name in given], fields)


def existing(store: Path | None, config: Sequence[str], pull: Pull = "must") -> Store:
    """The store of earlier runs: that of `--store`, else of `--config`, else ./artifacts.

    Args:
        store: of `--store`.
        config: of `--config`.
        pull: whether the records and pages of other machines are fetched. What cannot be fetched is an error ("must") or a
            warning ("may").

    Raises:
        UserError: there is no such folder or configuration, or its remote cannot be read and must be.
    """
    resolved = load(config, [], store=store) if config else None
    if resolved and resolved.remote:
        with refusing(resolved):
            return _pulled(Store(resolved.store, resolved.remote), pull)
    root = resolved.store if resolved else store or Config.model_fields["store"].default
    return _pulled(Store.existing(root, pull=False), pull)


def _pulled(opened: Store, pull: Pull) -> Store:
    """The store, with the records and pages of other machines; see `existing`."""
    if pull == "no":
        return opened
    try:
        opened.pull(pages=True)
    except UserError as error:
        if pull == "must":
            raise
        logger.warning("what other machines have written cannot be fetched now: %s", error)
    return opened


@contextmanager
def looking(config: Config) -> Iterator[None]:
    """For a command that only looks: it leaves no store, and no home of Prefect, where there was none.

    Only what looking makes is removed. What a run that began meanwhile has written stays.
    """
    absent = _absent(config)
    with tempfile.TemporaryDirectory(prefix="sif-looking-") as home:
        if absent and not os.environ.get("PREFECT_HOME"):
            os.environ["PREFECT_HOME"] = home
        try:
            yield
        finally:
            _unmake(config.store, absent)
            if os.environ.get("PREFECT_HOME") == home:
                del os.environ["PREFECT_HOME"]


@contextmanager
def refusing(config: Config) -> Iterator[None]:
    """For what a command checks before it begins: if it is refused, it leaves no store where there was none."""
    absent = _absent(config)
    try:
        yield
    except UserError:
        _unmake(config.store, absent)
        raise


def _absent(config: Config) -> list[Path]:
    """The folder of the store and those above it that are not there."""
    return [path for path in (config.store, *config.store.parents) if not path.exists()]


def _unmake(store: Path, absent: Sequence[Path]) -> None:
    """Removes folders that were absent, if the store has nothing but what opening it makes.

    The note of the remote is among that: a mistyped address would be remembered, and the corrected one refused.
    """
    if not absent:
        return
    with suppress(OSError):  # a run has begun, or nothing was made
        made = list(store.iterdir())
        files = [path for path in made if path.match("digests.sqlite*") or path.name == "remote.json"]
        folders = [path for path in made if path.is_dir() and not any(path.iterdir())]
        if len(files) + len(folders) < len(made):
            return
        for path in files:
            path.unlink()
        for path in (*folders, *absent):
            path.rmdir()


def plain(text: str) -> str:
    """Text in which rich finds no markup."""
    return text.replace("[", r"\[")
