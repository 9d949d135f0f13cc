"""Every speed benchmark, as pairs: `python -m tests.benchmarks.bench` from the checkout (`sif bench`, `make bench`).

The two ways of a pair run in processes of their own and are called in turns (ours, other, ours, other, ...), so
that a busy machine slows both alike. The ratio is the median of the turns' ratios, its spread their least and
greatest. Both results are compared before anything is timed; the first calls are not counted. Memory is the peak
beyond what the process held when its input was ready. Nothing here is a test: see test_bench.py.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

from tests.benchmarks import boxes, dataset, depth, evaluation, ingest, replies, rewards
from tests.benchmarks.pair import Pair, peak

PAIRS = [
    *depth.PAIRS, *boxes.PAIRS, *rewards.PAIRS, *ingest.PAIRS, *evaluation.PAIRS, *dataset.PAIRS,
    *replies.PAIRS,
]  # fmt: skip
ANNOTATION_ROWS = 2000
PICTURES = 2000  # of 640x480, for a whole stage; once
RERUNS = 5
GRPO_PAIRS = 60
_PACKAGES = ("numpy", "scipy", "pillow", "pyarrow", "orjson", "aiohttp", "shapely", "torch", "transformers")


class Way:
    """One way of a pair, in a process of its own: called when told to."""

    def __init__(self, number: int, side: str, folder: Path, size: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, there = spawn.Pipe()
        self._process = spawn.Process(target=_work, args=(number, side, folder, size, there))
        self._process.start()
        there.close()

    def call(self) -> tuple[float, Any]:
        """Seconds that one call took, and what it gave."""
        self._pipe.send("call")
        return self._answer()

    def memory(self) -> dict[str, float]:
        """Peak of the process and peak beyond its input, MiB."""
        self._pipe.send("memory")
        return self._answer()

    def _answer(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise RuntimeError("a way failed; its traceback is above") from error

    def __enter__(self) -> Way:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join()


def _work(number: int, side: str, folder: Path, size: int, pipe: Connection) -> None:
    """The process of a `Way`."""
    work = getattr(PAIRS[number], side)(folder, size)
    ready = psutil.Process().memory_info().rss
    while True:
        try:
            asked = pipe.recv()
        except EOFError:  # nothing more is asked
            return
        if asked == "memory":
            highest = peak()
            pipe.send({"peak": highest / 2**20, "work": max(0, highest - ready) / 2**20})
            continue
        start = time.perf_counter()
        result = work()
        pipe.send((time.perf_counter() - start, result))


def measure(pair: Pair, size: int, rounds: int) -> dict[str, Any]:
    """One row of the table; `rounds` 0 compares the results and times nothing.

    Raises:
        AssertionError: the two ways did not compute the same.
    """
    number = PAIRS.index(pair)
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        folder = Path(made)
        _alone(number, folder, size)
        ours, other = (stack.enter_context(Way(number, side, folder, size)) for side in ("ours", "other"))
        pair.same(ours.call()[1], other.call()[1])
        turns = [(ours.call()[0], other.call()[0] * pair.other_part) for _ in range(rounds)]
        memory = ours.memory(), other.memory()
    row = {
        "name": pair.name,
        "against": pair.against,
        "size": size,
        "unit": pair.unit,
        "aim": pair.aim,
        "ours MiB": memory[0],
        "other MiB": memory[1],
    }
    if turns:
        ratios = [theirs / own for own, theirs in turns]
        row |= {
            "rounds": rounds,
            "ours seconds": statistics.median(own for own, _ in turns),
            "other seconds": statistics.median(theirs for _, theirs in turns),
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "greatest": max(ratios),
        }
    return row


def _alone(number: int, folder: Path, size: int) -> None:
    """Prepares in a process that ends, so that what it held is nobody's peak."""
    process = multiprocessing.get_context("spawn").Process(target=_prepare, args=(number, folder, size))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{PAIRS[number].name}: its input could not be made; the traceback is above")


def _prepare(number: int, folder: Path, size: int) -> None:
    PAIRS[number].prepare(folder, size)


def scale(sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Time and memory of the ingest stage and of json.load as the file grows; one counted call each."""
    return [measure(ingest.SCALE, size, rounds=1) for size in sizes]


def grpo_step(pairs: int) -> tuple[dict[str, Any], str]:
    """What our trainer adds to a step of TRL's, in a process that does nothing else; and the same as a text."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        module = ["-m", "tests.benchmarks.grpo_overhead"]
        command = [sys.executable, *module, "--pairs", str(pairs), "--json", str(found)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(found.read_text(encoding="utf-8")), done.stdout.rstrip()


def machine() -> dict[str, Any]:
    """Where the figures are from."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    commit, changes = (
        subprocess.run(["git", *command], capture_output=True, text=True, check=False).stdout.strip()
        for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    )
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": (commit or "unknown") + (" and changes" if changes else ""),
        "processor": models[0].partition(": ")[2] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "load": [round(value, 1) for value in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for people."""
    made = Table(
        *(
            "what",
            "against",
            "size",
            "ours",
            "other",
            "ratio",
            "spread",
            "aim",
            "MiB ours",
            "other",
        ),
        box=box.MARKDOWN,
    )
    for row in rows:
        met = row["ratio"] >= row["aim"]
        made.add_row(
            row["name"],
            row["against"],
            f"{row['size']} {row['unit']}",
            _seconds(row["ours seconds"]),
            _seconds(row["other seconds"]),
            f"[{'green' if met else 'yellow'}]{_times(row['ratio'])}[/]",
            f"{_times(row['least'])} to {_times(row['greatest'])}",
            _times(row["aim"]),
            f"{row['ours MiB']['work']:.0f}",
            f"{row['other MiB']['work']:.0f}",
        )
    return made


def scale_table(rows: list[dict[str, Any]]) -> Table:
    made = Table("rows", "ingest", "us a row", "peak MiB", "json.load", "peak MiB", box=box.MARKDOWN)
    for row in rows:
        made.add_row(
            str(row["size"]),
            _seconds(row["ours seconds"]),
            f"{1e6 * row['ours seconds'] / row['size']:.0f}",
            f"{row['ours MiB']['peak']:.0f}",
            _seconds(row["other seconds"]),
            f"{row['other MiB']['peak']:.0f}",
        )
    return made


def _times(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(value: float) -> str:
    return (
        f"{value:.3g} s"
        if value >= 1
        else f"{1e3 * value:.3g} ms"
        if value >= 1e-3
        else f"{1e6 * value:.3g} us"
    )


def _growth(quick: bool, console: Console) -> dict[str, Any]:
    found = scale((1000, 2000) if quick else ingest.SCALE_SIZES)
    console.print(scale_table(found))
    return {"scale": found}


def _full_size(quick: bool, console: Console) -> dict[str, Any]:
    from tests.benchmarks import full_size  # the processes of the pairs do without

    found = full_size.measure((200, 400) if quick else full_size.SIZES)
    console.print(full_size.table(found), highlight=False)
    return {"full size": found}


def _pictures(quick: bool, console: Console) -> dict[str, Any]:
    found = [measure(pair, 2 if quick else PICTURES, 1) for pair in dataset.PAIRS]
    console.print(table(found))
    return {"pictures": found}


def _annotation(quick: bool, console: Console) -> dict[str, Any]:
    from tests.benchmarks import annotation

    rows = 60 if quick else ANNOTATION_ROWS
    ways = ("authors", "ours") if quick else tuple(annotation.WAYS)
    found = [row for faults in (annotation.FAULTS, {}) for row in annotation.compare(rows, ways, faults)]
    console.print(annotation.markdown(found), highlight=False)
    rate = [annotation.rate(rows)]
    console.print(annotation.markdown(rate), highlight=False)
    return {"annotation": found, "annotation rate": rate}


def _step(quick: bool, console: Console) -> dict[str, Any]:
    found, line = grpo_step(2 if quick else GRPO_PAIRS)
    console.print(line, highlight=False)
    return {"grpo step": found}


def _rerun(quick: bool, console: Console) -> dict[str, Any]:
    if quick:  # it makes a whole reproduction first, and installs other tools
        return {}
    from tests.benchmarks import rerun

    with tempfile.TemporaryDirectory() as folder, rerun.serving(Path(folder)) as environment:
        found = rerun.measure(Path(folder), RERUNS, environment)
        beside = rerun.beside(Path(folder), RERUNS, environment)
    console.print(rerun.table(found), highlight=False)
    console.print(rerun.beside_table(beside), highlight=False)
    return {"rerun": found, "rerun beside": beside}


PARTS: dict[str, Callable[[bool, Console], dict[str, Any]]] = {  # what is measured besides pairs, by name
    "ingest as the file grows": _growth,
    "the data stages at full size": _full_size,
    "the stages with pictures at full size": _pictures,
    "annotation": _annotation,
    "a step of GRPO": _step,
    "rerun": _rerun,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench", description=__doc__)
    parser.add_argument("--only", default="", help="what has this in its name, and nothing else")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="JSON that is written")
    parser.add_argument("--quick", action="store_true", help="smallest sizes, one round: shows that all runs")
    options = parser.parse_args()
    pairs = [pair for pair in PAIRS if options.only in pair.name and not (options.quick and pair.installs)]
    parts = {name: part for name, part in PARTS.items() if options.only in name}
    if not pairs and not parts:
        names = [*(pair.name for pair in PAIRS), *PARTS]
        parser.error(f"--only {options.only}: nothing has this in its name; there are: {'; '.join(names)}")
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come: on shared cores more is slower
    errors, console = Console(stderr=True), Console(width=None if sys.stdout.isatty() else 240)
    result: dict[str, Any] = {"machine": machine(), "pairs": []}
    for pair in pairs:
        errors.print(pair.name)
        size, rounds = (pair.smallest, 1) if options.quick else (pair.size, pair.rounds)
        result["pairs"].append(measure(pair, size, rounds))
    if pairs:
        console.print(table(result["pairs"]))
    for name, part in parts.items():
        errors.print(name)
        result |= part(options.quick, console)
    console.print(json.dumps(result["machine"]), highlight=False, soft_wrap=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
