"""Commands for those who work on the project: `sif scenes`, `sif frame`, `sif bench`."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from flows.commands import places
from flows.commands.options import console
from sifthinker import config as configuration
from sifthinker.core.errors import UserError


def scenes(
    rows: Annotated[int, typer.Option(min=1, help="questions for training")],
    out: Annotated[Path, typer.Option(help="folder that is made", callback=places.folder)],
    seed: Annotated[int, typer.Option(help="same seed, same files")] = 0,
    benchmark_rows: Annotated[int, typer.Option(min=2, help="questions per benchmark")] = 24,
) -> None:
    """Renders scenes with exact boxes and depth in the formats of VisCoT, TallyQA and the benchmarks."""
    from sifthinker import scenes as domain

    made = domain.write(out, configuration.Scenes(rows=rows, seed=seed, benchmark_rows=benchmark_rows))
    console.print(f"{out}: " + ", ".join(f"{name} {value}" for name, value in made.items()), soft_wrap=True)


def frame(
    file: Annotated[Path, typer.Argument(help="VisCoT conversations .json")],
    sizes: Annotated[Path, typer.Option(help="benchmark_det .jsonl with the images' sizes")],
) -> None:
    """Compares the boxes of a VisCoT file with its own pixel boxes, in the right frame and in that of the release."""
    from sifthinker.data.sources import viscot

    for name, value in viscot.frame_report(file, sizes).items():
        console.print(f"{name}: {value}", highlight=False)


def bench(
    out: Annotated[Path, typer.Option(help="JSON that is written", callback=places.file)] = Path(
        "bench.json"
    ),
    only: Annotated[
        str,
        typer.Option(help="what has this in its name: a pair, or a part such as annotation", metavar="TEXT"),
    ] = "",
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
    out.resolve().parent.mkdir(parents=True, exist_ok=True)
    options = ["--out", str(out.resolve()), "--only", only, *(["--quick"] if quick else [])]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench", *options], cwd=checkout, check=False
    )
    raise typer.Exit(min(done.returncode, 2) if done.returncode >= 0 else 1)
