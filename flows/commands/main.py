"""The `sif` command. Exit codes: 0 ok, 1 failed, 2 wrong usage or another mistake of the user's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows import server
from flows.commands import annotation, artifacts, models, outcome
from flows.commands.accept import accept
from flows.commands.compare import compare
from flows.commands.doctor import doctor
from flows.commands.join import join
from flows.commands.judges import judge_agreement
from flows.commands.ledger import import_ledger
from flows.commands.options import (
    ConfigOption,
    LimitOption,
    Refresh,
    ReuseRun,
    SetOption,
    StartAt,
    StopAfter,
    console,
    load,
    plain,
)
from flows.commands.plan import plan, planned
from sifthinker import config as configuration
from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from sifthinker.system.disk_errors import explained

# The groups of `sif --help`, in the order of their first commands below.
RUN, DATA, MODELS = "Run the pipeline", "Input data", "Use a model"
STORE, CHECKS = "Look after a store", "Check and measure"

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


def main() -> None:
    """Runs the command. A user's mistake ends it with a message and exit code 2, never with a traceback."""
    try:
        with explained("sif"):
            app()
    except UserError as error:
        Console(stderr=True).print(
            f"[bold red]error:[/] {plain(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(2)


@app.command(rich_help_panel=RUN)
def run(
    config: ConfigOption = "demo",
    set_: SetOption = [],  # noqa: B006 (typer copies it)
    start_at: StartAt = None,
    stop_after: StopAfter = None,
    refresh: Refresh = [],  # noqa: B006
    reuse_run: ReuseRun = None,
    limit: LimitOption = None,
) -> None:
    """Runs the reproduction: the stages whose artifacts are not in the store.

    Exit codes:
    0 all stages are made
    1 failed
    2 failed by something for you to correct, which the message names: usage, configuration, files, a full disk
    """
    resolved = load(config, set_, limit)
    server.settings(resolved.store)
    from tasks.runtime.pipeline import refuse

    # A user's mistake, and what is missing, shows before anything starts.
    refuse(planned(resolved, start_at, stop_after, refresh, reuse_run))
    ui = server.ensure()
    from flows.reproduce import reproduce

    partial = {
        "start_at": start_at,
        "stop_after": stop_after,
        "refresh": refresh,
        "reuse_run": reuse_run,
    }
    state = _ended(lambda: reproduce(config=resolved, **partial, return_state=True))
    run_id = str(state.state_details.flow_run_id)
    ui = f"{ui}/runs/flow-run/{run_id}"
    outcome.show(Store.of(resolved), run_id, console)
    if not state.is_completed():
        console.print(f"[bold red]failed:[/] {plain(state.message or '')}", highlight=False, soft_wrap=True)
        console.print(f"UI: {ui}", soft_wrap=True)
        raise typer.Exit(_failed(state))
    _where(resolved, state.result(), ui)


app.command(rich_help_panel=RUN)(plan)


@app.command(rich_help_panel=DATA)
def scenes(
    rows: Annotated[int, typer.Option(help="questions for training")],
    out: Annotated[Path, typer.Option(help="folder that is made")],
    seed: Annotated[int, typer.Option(help="same seed, same files")] = 0,
    benchmark_rows: Annotated[int, typer.Option(help="questions per benchmark")] = 24,
) -> None:
    """Renders scenes with exact boxes and depth in the formats of VisCoT, TallyQA and the benchmarks."""
    from sifthinker import scenes as domain

    made = domain.write(out, configuration.Scenes(rows=rows, seed=seed, benchmark_rows=benchmark_rows))
    console.print(f"{out}: " + ", ".join(f"{name} {value}" for name, value in made.items()), soft_wrap=True)


@app.command(rich_help_panel=DATA)
def frame(
    file: Annotated[Path, typer.Argument(help="VisCoT conversations .json")],
    sizes: Annotated[Path, typer.Option(help="benchmark_det .jsonl with the images' sizes")],
) -> None:
    """Compares the boxes of a VisCoT file with its own pixel boxes, in the right frame and in that of the release."""
    from sifthinker.data.sources import viscot

    for name, value in viscot.frame_report(file, sizes).items():
        console.print(f"{name}: {value}", highlight=False)


app.command(rich_help_panel=RUN)(annotation.preview)
app.command("annotate", rich_help_panel=RUN)(annotation.command(run))


@app.command(rich_help_panel=MODELS)
def ask(
    image: Annotated[Path, typer.Argument(help="an image file")],
    question: Annotated[str, typer.Argument(help="as a person asks it")],
    out: Annotated[Path, typer.Option(help="folder for the reply and the pictures")],
    model: Annotated[
        str, typer.Option(help="'latest' of the store, an alias, a run, or a folder", metavar="MODEL")
    ] = "latest",
    server_: Annotated[
        str | None,
        typer.Option("--server", help="a server that runs, with /v1, instead of --model", metavar="URL"),
    ] = None,
    config: ConfigOption = "demo",
    set_: SetOption = [],  # noqa: B006
) -> None:
    """Asks a model about one image, shows its chain as it comes, and draws where it looked."""
    resolved = load(config, set_)
    server.settings(resolved.store)
    from tasks.operations.ask import answer

    def say(piece: str) -> None:
        console.print(plain(piece), end="", highlight=False, soft_wrap=True)

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


@app.command(rich_help_panel=RUN)
def nightly(
    config: ConfigOption = "nightly",
    set_: SetOption = [],  # noqa: B006
    model: Annotated[list[str], typer.Option(help="checkpoint to evaluate; may be repeated")] = [],  # noqa: B006
    benchmark: Annotated[list[str], typer.Option(help="only this one; may be repeated")] = [],  # noqa: B006
    fresh: Annotated[bool, typer.Option("--fresh", help="ask every question again")] = False,
    tier: Annotated[
        str | None, typer.Option(help="begin with this tier (quick, nightly, weekly)", metavar="TIER")
    ] = None,
    plan_: Annotated[
        bool, typer.Option("--plan", help="only say which falls the night could find; asks nothing")
    ] = False,
    limit: LimitOption = None,
) -> None:
    """Runs a night: evaluates the checkpoints and compares them with the last good night and the baseline.

    Exit codes:
    0 passed, or skipped because it was too late
    1 regressed: a benchmark fell significantly; or the run failed
    2 wrong usage, or another mistake of yours that the message names
    3 not run: it says nothing about the model
    4 inconclusive: some comparison could not have failed, whatever was answered
    5 warned: a fall that is not significant, or many more unparsable replies
    """
    resolved = load(config, set_, limit)
    server.settings(resolved.store)
    from flows.commands.night_results import show, show_plan
    from flows.nightly import EXIT_CODES, chosen
    from flows.nightly import nightly as night
    from flows.nightly import plan as foretold

    of_night = chosen(resolved, model, benchmark, fresh, tier)  # a wrong tier shows before anything starts
    if plan_:
        show_plan(foretold(of_night), of_night.nightly)
        return
    ui = server.ensure()
    options = {"models": model, "benchmarks": benchmark, "fresh": fresh, "tier": tier}
    state = _ended(lambda: night(resolved, **options, return_state=True))
    console.print(f"{state.name}: {plain(state.message or '')}", highlight=False, soft_wrap=True)
    show(resolved.store / "nights", str(state.state_details.flow_run_id))
    console.print(f"UI        {ui}", highlight=False, soft_wrap=True)
    raise typer.Exit(EXIT_CODES.get(str(state.name), 0 if state.is_completed() else _failed(state)))


@app.command(rich_help_panel=RUN)
def ablation(
    config: ConfigOption = "ablation",
    set_: SetOption = [],  # noqa: B006
    row: Annotated[list[str], typer.Option(help="only this row; may be repeated")] = [],  # noqa: B006
    refresh: Refresh = [],  # noqa: B006
    limit: LimitOption = None,
) -> None:
    """Trains and evaluates the rows of the paper's Table 5; prints the table.

    Exit codes:
    0 all rows are made
    1 a row failed
    2 every row that failed did so by something for you to correct, which the message names
    """
    resolved = load(config, set_, limit)
    server.settings(resolved.store)
    ui = server.ensure()
    from flows.ablation import ablation as table

    state = _ended(lambda: table(resolved, rows=row, refresh=refresh, return_state=True))
    if not state.is_completed():
        console.print(
            f"[bold red]failed:[/] {plain(state.message or '')}\nUI: {ui}", highlight=False, soft_wrap=True
        )
        raise typer.Exit(_failed(state))
    folder = Path(state.result())
    console.print(plain((folder / "table.md").read_text(encoding="utf-8")), highlight=False, soft_wrap=True)
    console.print(f"table     {folder}\nUI        {ui}", highlight=False, soft_wrap=True)


@app.command(rich_help_panel=CHECKS)
def bench(
    out: Annotated[Path, typer.Option(help="JSON that is written")] = Path("bench.json"),
    only: Annotated[str, typer.Option(help="pairs whose name holds this", metavar="TEXT")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="smallest sizes: shows that all runs")] = False,
) -> None:
    """Measures this code against other ways of doing the same, in pairs. Needs a checkout."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "tests" / "benchmarks" / "bench.py").is_file():
        raise UserError(
            f"bench: {checkout} has no tests/benchmarks; run it from a checkout of the repository"
        )
    missing = [name for name in ("shapely", "torch", "transformers") if find_spec(name) is None]
    if missing:
        raise UserError(f"bench: {', '.join(missing)} missing; pip install -e '.[train,bench]'")
    options = ["--out", str(out.resolve()), "--only", only, *(["--quick"] if quick else [])]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench", *options], cwd=checkout, check=False
    )
    raise typer.Exit(min(done.returncode, 2) if done.returncode >= 0 else 1)


for command in (
    artifacts.status,
    artifacts.lineage,
    artifacts.export,
    artifacts.promote,
    accept,
    artifacts.prune,
    import_ledger,
):
    app.command(rich_help_panel=STORE)(command)
app.command(rich_help_panel=CHECKS)(doctor)
app.command(rich_help_panel=CHECKS)(compare)
app.command(rich_help_panel=CHECKS)(judge_agreement)
app.command(rich_help_panel=RUN)(join)
app.command(rich_help_panel=MODELS)(models.serve)
app.command(rich_help_panel=MODELS)(models.depth)


def _ended(flow: Callable[[], Any]) -> Any:
    """The final state of a flow. Where the Prefect server is gone, which then has not heard of it, the command ends here."""
    from tasks.runtime import server_away

    try:
        return flow()
    except Exception as error:  # of Prefect's engine: those of the flow are in its state
        if not server_away.is_away(error):
            raise
        said = plain(server_away.explained(error))
        console.print(f"[bold red]failed:[/] {said}", highlight=False, soft_wrap=True)
        server_away.leave()


def _failed(state: Any) -> int:
    """The exit code for the state of a run that has failed."""
    from tasks.runtime import end_states

    return 2 if end_states.is_mistake(state) else 1


def _where(config: Config, made: dict[str, str], ui: str) -> None:
    """Where the things are that people look for."""
    places = {"data set": ("publish", ""), "model": ("merge-grpo", ""), "report": ("report", "report.html")}
    console.print()
    for name, (label, file) in places.items():
        if label in made:
            console.print(f"{name:9} {config.store / made[label] / file}", highlight=False, soft_wrap=True)
    console.print(f"{'UI':9} {ui}", highlight=False, soft_wrap=True)
