"""`sif init`: writes a configuration to start from, with comments."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from flows.commands import places
from flows.commands.options import console, plain
from sifthinker import config as configuration
from sifthinker.config.choices import suggestion
from sifthinker.core.errors import UserError

FOLDER = Path(__file__).resolve().parents[1] / "starts"
# What `--like` takes, and what it is for. The text is the file of that name in flows/starts.
TO_EDIT = {"cpu": "data/mine.jsonl and data/images"}  # made-up paths of a start
STARTS = {
    "cpu": "pictures and annotations of your own on a CPU, with the miniature and the stand-in",
    "demo": "rendered scenes, as `make demo`",
    "paper": "the paper's run on 8 GPUs",
    "published": "training from a published SIF-50K, without annotation",
}


def init(
    file: Annotated[
        Path,
        typer.Argument(
            help="the file that is written, e.g. mine.yaml; it must not exist", callback=places.file
        ),
    ],
    like: Annotated[
        str,
        typer.Option(
            help="; ".join(f"{name}: {what}" for name, what in STARTS.items()),
            metavar="|".join(STARTS),
            autocompletion=lambda: list(STARTS),
        ),
    ] = "cpu",
) -> None:
    """Writes a commented configuration to start from. It is valid as it is, and never replaces a file."""
    if like not in STARTS:
        close = suggestion(like, STARTS) or "."
        raise UserError(f"--like: there is no {like!r}{close} Known: {', '.join(STARTS)}")
    if file.suffix not in (".yaml", ".yml"):
        raise UserError(f"init: {file}: the name of a configuration ends in .yaml")
    if not str(file).isprintable():  # the file names itself in its comments
        raise UserError(f"init: {str(file)!r}: a name with characters that cannot be printed; give another")
    text = text_of(like, file)
    try:
        with file.open("x", encoding="utf-8") as opened:  # never over a file that is there
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
    except FileExistsError as error:
        raise UserError(
            f"init: {file} exists and is left as it is; give another name, or remove it first"
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"init: {file.parent} is no folder; make it first") from error
    console.print(f"{plain(str(file))}: like {like}: {STARTS[like]}", highlight=False, soft_wrap=True)
    if like in TO_EDIT:
        console.print(f"Put your rows and pictures at {TO_EDIT[like]}, or change these paths in it. Then:")
    for command in ("data", "plan", "run"):
        console.print(
            f"  sif {command} --config {shlex.quote(plain(str(file)))}", highlight=False, soft_wrap=True
        )


def text_of(like: str, file: Path) -> str:
    """The text of a start, for a file of that name."""
    name = re.sub(r"[^\w.-]", "-", file.stem, flags=re.ASCII).strip("-._") or "mine"
    text = (FOLDER / f"{like}.yaml").read_text(encoding="utf-8")
    # YAML takes some names for other values: no, null, 1.5.
    written = name if configuration.parse_value(name, "init") == name else f'"{name}"'
    return text.replace("name: NAME", f"name: {written}").replace("THIS", str(file))
