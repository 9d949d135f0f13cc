"""`sif data`: what a configuration needs from elsewhere, whether it is here, and fetching it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from flows.commands.options import ConfigOption, SetOption, StoreOption, console, load, plain
from flows.commands.tables import JsonOption, Printed
from sifthinker.core.errors import UserError
from sifthinker.upkeep.inputs import fetching
from sifthinker.upkeep.inputs.wanted import Input, inputs, named, shown

ASKED_ABOVE = 5e9  # bytes that are not fetched without a question
COLOURS = {"there": "green", "missing": "yellow", "broken": "bold red", "not configured": "dim"}
PAPER = ["paper"]  # what the command lists without --config


def data(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="sources, benchmarks, `policy`, `depth`; none: all that is not there"),
    ] = None,
    config: ConfigOption = PAPER,
    set_: SetOption = [],  # noqa: B006 (typer copies it)
    store: StoreOption = None,
    get: Annotated[
        bool,
        typer.Option(
            "--get", help="fetch from the hub what is not there, and say what is left to do by hand"
        ),
    ] = False,
    way: Annotated[
        str, typer.Option(help="where there are several ways, this one, e.g. parquet", metavar="WAY")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="fetch more than 5 GB without a question")] = False,
    json_: JsonOption = False,
) -> None:
    """Lists the data and weights of a configuration: published where, how large, the licence, here or not. `--get` fetches.

    Exit codes: 0 all that is configured is there, 1 something is missing or broken, or steps are left to do by hand, 2 wrong
    usage, or it cannot be fetched.
    """
    resolved = load(config, set_, store=store)
    found = inputs(resolved)
    chosen = named(found, names or [])
    if get:
        left = _get(chosen, way, yes)
        raise typer.Exit(1 if left else 0)
    listed = chosen if names else found
    with Printed(json_, "inputs") as printed:
        printed.value("inputs", [item.as_json() for item in listed])
        if not json_:
            _list(printed, listed, bool(names))
    if any(item.state.verdict in ("missing", "broken") for item in listed):
        raise typer.Exit(1)


def _list(printed: Printed, listed: Sequence[Input], chosen: bool) -> None:
    """Prints a line an input, and where those are published that are not here, or that were asked for by name."""
    rows = []
    for item in listed:
        sizes = " or ".join(dict.fromkeys(shown(way.size) for way in item.ways()))
        state = Text(item.state.verdict, COLOURS[item.state.verdict])
        licence = item.publication.licence if item.publication else ""
        named_ = f"{item.kind} {item.what}".strip()
        rows.append((item.name, named_, state, sizes, licence, item.state.found))
    printed.lines(("name", "", "state", "size", "licence", "found"), rows)
    for item in listed:
        if chosen or item.state.verdict in ("missing", "broken"):
            _places(item)
    configured = [item for item in listed if item.state.verdict != "not configured"]
    wanting = [item for item in configured if item.state.verdict != "there"]
    published = [item for item in wanting if item.publication]
    own = [item.name for item in wanting if not item.publication]
    parts = {
        (part.where, part.files): part.size or 0.0
        for item in published
        if item.publication
        for part in item.publication.default.of(item.split).parts
    }
    size = f"; what is not takes {shown(sum(parts.values()))} where sizes are known, by the ways that --get takes"
    mend = f"Put {', '.join(own)} where the configuration says, or correct the paths in it. " if own else ""
    console.print(
        f"\n{len(configured) - len(wanting)} of {len(configured)} are there{size if published else ''}. {mend}`sif data NAME` says where "
        f"one is published, and `sif data --get NAME` fetches what the hub has. Relative paths start at {Path.cwd()}.",
        highlight=False,
        soft_wrap=True,
    )


def _places(item: Input) -> None:
    """Where it is published and which files go where, a line a part."""
    head = f"\n[bold]{plain(item.name)}[/] ({plain(f'{item.kind} {item.what}'.strip())})"
    note = item.publication.note if item.publication else ""
    console.print(f"{head}{': ' + plain(note) if note else ''}", highlight=False, soft_wrap=True)
    if not item.publication:
        console.print(f"  {plain(item.address)}", highlight=False, soft_wrap=True)
    for way in item.ways():
        several = f"  way {way.name}: " if len(item.ways()) > 1 else "  "
        for part in way.parts:
            place = item.place(part) or "the hub's cache"
            files = f" ({', '.join(part.files)})" if part.files and item.kind != "weights" else ""
            gated = ", gated" if part.gated else ""
            how = "" if part.fetchable else ", by hand"
            line = f"{several}{part.what}, {shown(part.size)}: {part.address}{files} -> {place}{gated}{how}"
            console.print(plain(line), highlight=False, soft_wrap=True)
            for step in item.steps(part):
                console.print(plain(f"      then: {step}"), highlight=False, soft_wrap=True)
        if way.note:
            note = way.note.replace("{images}", str(item.images))
            console.print(plain(f"      note: {note}"), highlight=False, soft_wrap=True)


def _get(chosen: Sequence[Input], way: str, yes: bool) -> list[str]:
    """Fetches, and says what is left to do; those steps.

    Raises:
        UserError: something cannot be fetched, or shall not be.
    """
    plans, left = _planned(chosen, way)
    wanted = [plan for plan in plans if plan.left]
    fetching.check_room(wanted)
    for plan in plans:
        console.print(
            plain(
                f"{plan.item.name}: {plan.part.address} at {plan.commit[:12]}: {len(plan.files)} files, "
                f"{shown(plan.size)}, {shown(plan.left)} to fetch -> {plan.target or 'the cache of the hub'}"
            ),
            highlight=False,
            soft_wrap=True,
        )
    _ask(sum(plan.left for plan in wanted), yes)
    for plan in plans:
        # The hub's client also notes in its cache which commit a revision is, where no file is to be fetched.
        place = _shown_fetch(plan) if plan.left or plan.target is None else plan.target
        console.print(plain(f"{plan.item.name}: there: {place}"), highlight=False, soft_wrap=True)
        note = next((way.note for way in plan.item.ways() if plan.part in way.parts), "")
        if note:
            console.print(plain(f"  note: {note.replace('{images}', str(plan.item.images))}"), soft_wrap=True)
        if steps := plan.item.steps(plan.part, place):
            left += [f"{plan.item.name}: {plan.part.what}", *_indented(steps)]
    if left:
        console.print("\n[bold]Left to do by hand:[/]")
        for line in left:
            console.print(plain(line), highlight=False, soft_wrap=True)
    elif not plans:
        console.print("nothing is missing")
    return left


def _planned(chosen: Sequence[Input], way: str) -> tuple[list[fetching.Fetch], list[str]]:
    """What is to be fetched, and the steps for what nobody can fetch.

    Of data that is there a few rows and pictures were looked at, so that its files are compared with the hub's all the same; its
    archives may be gone since they were unpacked. Named by `way`, everything is fetched.

    Raises:
        UserError: see `_get`.
    """
    plans: list[fetching.Fetch] = []
    left: list[str] = []
    for item in chosen:
        there = item.state.verdict == "there"
        if item.publication is None:
            if not there:
                left.append(f"{item.name}: {item.state.found}: {item.address}")
            continue
        named_ = {one.name: one for one in item.publication.ways}
        taken = named_.get(way) if way else item.publication.default
        if taken is None:
            known = ", ".join(named_)
            raise UserError(f"--way {way}: {item.name} has no such way; known: {known}")
        parts = taken.of(item.split).parts
        if there and not way:
            weights = item.kind == "weights"  # whole where they are there; some are then to be converted
            parts = tuple(part for part in parts if part.fetchable and bool(part.steps) == weights)
            if not parts:
                console.print(
                    plain(f"{item.name}: there: {item.state.found}"), highlight=False, soft_wrap=True
                )
        for part in parts:
            if part.fetchable:
                plans.append(fetching.plan(item, part))
            else:
                left += [
                    f"{item.name}: {part.what}, {shown(part.size)}: {part.address}",
                    *_indented(item.steps(part)),
                ]
    return plans, left


def _shown_fetch(plan: fetching.Fetch) -> Path:
    """Fetches with a bar, or where there is no terminal a line at every tenth."""
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(plan.item.name, total=plan.left)
            return fetching.fetch(plan, lambda size: bar.advance(task, size))
    tenths = Tenths(plan.left, lambda done: console.print(f"{plain(plan.item.name)}: {done}0 %"))
    return fetching.fetch(plan, tenths)


class Tenths:
    """Says when another tenth of so many bytes is done; called from several threads."""

    def __init__(self, total: int, say: Callable[[int], None]) -> None:
        """Nothing is done yet."""
        self._total, self._say = total, say
        self._done = self._said = 0
        self._lock = threading.Lock()

    def __call__(self, size: int) -> None:
        """So many bytes came."""
        with self._lock:
            self._done += size
            if (tenth := 10 * self._done // max(1, self._total)) > self._said:
                self._said = tenth
                self._say(tenth)


def _indented(steps: Sequence[str]) -> list[str]:
    return [f"    {step}" for step in steps]


def _ask(size: int, yes: bool) -> None:
    """Asks before much is fetched.

    Raises:
        UserError: nobody can be asked.
        Exit: the answer was no.
    """
    if size <= ASKED_ABOVE or yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"--get: {shown(size)} are to be fetched, and nobody can be asked; say --yes")
    if not typer.confirm(f"Fetch {shown(size)}?"):
        raise typer.Exit(1)
