"""The commands around the paid annotation: a preview, the stage itself, and its rejected rows asked again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from flows import server
from flows.commands import outcome, terminal
from flows.commands.ending import ended, exit_code
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
from flows.commands.plan import planned
from flows.commands.run import run
from flows.commands.tables import Column, Printed
from flows.commands.terminal import VerboseOption
from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.core.tables import read
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Artifact
from sifthinker.system.files import read_text

REJECTED = (
    Column("reason", "reason"),
    Column("rows", "rows"),
    Column("the first one, and why", lambda row: f"{row['ids'][0]}: {row['example']}"),
)


def preview(
    config: ConfigOption = DEMO,
    set_: SetOption = [],  # noqa: B006 (typer copies it)
    store: StoreOption = None,
    rows: Annotated[int, typer.Option(min=1, max=200, help="number of samples, from the first")] = 10,
    verbose: VerboseOption = False,
) -> None:
    """Annotates the first rows, draws their chains, and says what all rows would cost. Later runs do not pay again."""
    resolved = load(config, set_, store=store)
    if not verbose:
        terminal.quiet()
    server.settings(resolved.store)
    ui = server.ensure()
    from flows.preview import preview as flow

    state = ended(lambda: flow(config=resolved, rows=rows, return_state=True), verbose)
    if not state.is_completed():
        console.print(
            f"[bold red]failed:[/] {plain(state.message or '')}\nUI: {ui}", highlight=False, soft_wrap=True
        )
        raise typer.Exit(exit_code(state))
    *lines, page = state.result()
    for line in (*lines, f"page      {page}", f"UI        {ui}"):
        console.print(plain(line), highlight=False, soft_wrap=True)


def annotate(
    config: ConfigOption = DEMO,
    set_: SetOption = [],  # noqa: B006
    store: StoreOption = None,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="list what the latest run rejected, by reason")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="with --rejected: as JSON, for programs")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="ask again for what was rejected, and for nothing else")
    ] = False,
    again: Annotated[
        bool,
        typer.Option("--again", help="ask again, unchanged, what the endpoint refused: its cause is mended"),
    ] = False,
    reason: Annotated[list[str], typer.Option(help="only these; may be repeated")] = [],  # noqa: B006
    model: Annotated[str | None, typer.Option(help="retry: another model of the endpoint")] = None,
    prompt: Annotated[
        Path | None, typer.Option(help="retry: another system text, from a file", metavar="FILE")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="retry: another temperature")] = None,
    seed: Annotated[int | None, typer.Option(help="retry: another seed")] = None,
    verbose: VerboseOption = False,
) -> None:
    """Runs the reproduction up to the chains. Lists or retries the samples whose chains were rejected."""
    options = {"model": model, "prompt": prompt, "temperature": temperature, "seed": seed}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if again and given:
        raise UserError(
            f"annotate --again: asks what was asked; {', '.join(given)}: belongs to --retry alone"
        )
    if reason and not again:
        given["reasons"] = list(reason)
    if json_ and not rejected:
        raise UserError("annotate --json: belongs to --rejected")
    if given and not retry:
        raise UserError(f"annotate: {', '.join(given)}: belongs to --retry")
    if rejected:
        _dead_letters(load(config, set_, store=store), json_)
    elif again:
        _again(config, set_, store, reason, verbose)
    elif retry:
        _retry(config, set_, store, given, verbose)
    else:
        run(config, set_, store, stop_after="annotate", verbose=verbose)


def _dead_letters(config: Config, json_: bool = False) -> None:
    """Lists the rows of the latest run that have no chain, by reason."""
    from sifthinker.annotation.dead_letters import dead_letters

    with refusing(config):
        found = dead_letters(outcome.annotators_rejects(Store.of(config)))
    with Printed(json_, "rejected") as printed:
        printed.table("rejected", REJECTED, map(asdict, found), "every sample has its chain")


def _again(
    names: list[str], overrides: list[str], store: Path | None, reasons: list[str], verbose: bool
) -> None:
    """Makes annotate again: what is answered comes from the ledger, and what was refused or never answered is asked."""
    from tasks.operations.revive import revive

    config = load(names, overrides, store=store)
    with refusing(config):
        revived = revive(Store.of(config), reasons)
    console.print(
        f"{revived} refused requests are asked again; those that were answered are not", soft_wrap=True
    )
    run(names, overrides, store, stop_after="annotate", refresh=["annotate"], verbose=verbose)


def _check_reasons(names: list[str], overrides: list[str], store: Path | None, given: dict[str, Any]) -> None:
    """Refuses a pass over rows that there are not, before anything is asked. It makes what the pass goes over first.

    Raises:
        UserError: no row was rejected for one of its reasons.
    """
    if not given.get("reasons"):
        return
    config = load(names, overrides, store=store)
    label = "retry" if config.retry.passes else "annotate"
    if (made := _made(config, label)) is None:
        # With a pass, annotate may reject more than `max_rejected`.
        more = [] if config.retry.passes else [_pass_option([given])]
        run(names, [*overrides, *more], store, stop_after=label)
        made = _made(config, label)
    assert made is not None, "a run that failed has ended the command"
    from sifthinker.annotation.retry import not_found

    letters = (Reject(**row) for row in read(made.rejects()))
    if said := not_found(given["reasons"], letters):
        raise UserError(f"annotate --reason: {said}")


def _made(config: Config, label: str) -> Artifact | None:
    """The artifact of a stage that a run would take."""
    found = next((line.made for line in planned(config, None, label, [], None) if line.label == label), None)
    return Store.of(config).open(found) if found else None


def _pass_option(passes: list[dict[str, Any]]) -> str:
    return f"retry.passes={json.dumps(passes)}"


def _retry(
    names: list[str], overrides: list[str], store: Path | None, given: dict[str, Any], verbose: bool
) -> None:
    """Runs up to the stage retry, with one more pass; says how the pass becomes part of the configuration."""
    passes = [
        again.model_dump(exclude_unset=True) for again in load(names, overrides, store=store).retry.passes
    ]
    if given:
        if file := given.get("prompt"):
            if not file.is_file():
                raise UserError(f"annotate --prompt {file}: no such file")
            if not (text := read_text(file).strip()):
                raise UserError(f"annotate --prompt {file}: it is empty; write the system text into it")
            given["prompt"] = text
        _check_reasons(names, overrides, store, given)
        passes.append(given)
    if not passes:
        raise UserError(
            "annotate --retry: say what shall be different (--model, --prompt, --temperature, --seed), or list "
            "passes under `retry` in the configuration; --again asks what was refused as it was"
        )
    lines = yaml.safe_dump({"retry": {"passes": passes}}, sort_keys=False, allow_unicode=True)
    run(names, [*overrides, _pass_option(passes)], store, stop_after="retry", verbose=verbose)
    _dead_letters(load(names, overrides, store=store))
    console.print(
        "\nThe accepted chains are an artifact of the stage retry. Runs take it, and publish what it holds, with "
        "these lines in the configuration:\n",
        soft_wrap=True,
    )
    console.print(plain(lines), highlight=False, soft_wrap=True)
