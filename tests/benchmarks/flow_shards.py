"""The real flow's data stages in 50 to 500 shards, with Prefect's server and the ledger on PostgreSQL: what a shard costs.

    python -m tests.benchmarks.flow_shards --shards 1 50 100 200 500 [--rows 2000] [--json FILE]

Every number of shards is given the same rendered scenes, of small pictures. `sif run --stop-after` is called stage by stage, as
a process of its own, with one store: the processor time of a call is that of its stage, and what a call costs that makes
nothing. The stand-in's answers are paid once, by the first number of shards: the others find them in the ledger. Of the
stages' own times, the server has the record; the processor's time counts on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from sifthinker.system.processes import end
from tests import postgres
from tests.machine import free_port

ROOT = Path(__file__).resolve().parents[2]
SIF = str(Path(sys.executable).with_name("sif"))
BEFORE = "scenes"  # is made first, and with it the weights; no shard depends on it
STAGES = ("ingest", "expand", "depth", "annotate", "publish")
SMALL = ("scenes.width=64", "scenes.height=64", "scenes.benchmark_rows=2", "depth.size=56")


@dataclass
class Services:
    """PostgreSQL and the Prefect server on it, and the environment of commands that use them."""

    database: psutil.Process
    environment: dict[str, str]

    def spent(self) -> tuple[float, float]:
        """Seconds of processor: of Prefect's server, and of PostgreSQL."""
        home = Path(self.environment["PREFECT_HOME"])
        return _family(psutil.Process(int((home / "server.pid").read_text()))), _family(self.database)


@dataclass
class Row:
    """A stage in so many shards."""

    stage: str
    shards: int
    filled: int  # shards that have rows
    seconds: float
    processor: float  # of the command
    server: float  # of Prefect's server meanwhile
    database: float


@contextmanager
def serving(folder: Path) -> Iterator[Services]:
    """An empty server of PostgreSQL with a database for Prefect and one for the ledger; ends what a run has started."""
    import psycopg

    with postgres.serving() as server:
        assert server.process
        with psycopg.connect(server.url, autocommit=True) as db:
            db.execute("CREATE DATABASE ledger")
        port = free_port()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment = {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": server.url.replace(
                "postgresql:", "postgresql+asyncpg:"
            ),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "SIF_CACHE": str(folder / "cache"),
            "SIF_LEDGER": server.url.rpartition("/")[0] + "/ledger",
            "OMP_NUM_THREADS": "1",
        }
        try:
            yield Services(psutil.Process(server.process.pid), environment)
        finally:
            end(int((folder / "prefect" / "server.pid").read_text()))


def run(services: Services, folder: Path, rows: int, shards: int, stop_after: str) -> Row:
    """One call of `sif run`.

    Raises:
        RuntimeError: it failed.
    """
    fields = (f"store={folder / 'store'}", f"scenes.rows={rows}", f"ingest.shards={shards}", *SMALL)
    options = [text for field in fields for text in ("--set", field)]
    command = [SIF, "run", "--config", "smoke", *options, "--stop-after", stop_after]
    pid = Path(services.environment["PREFECT_HOME"]) / "server.pid"
    before = services.spent() if pid.exists() else (0.0, 0.0)
    children, began = _children(), time.perf_counter()
    done = subprocess.run(command, env=services.environment, capture_output=True, text=True)
    seconds, processor = time.perf_counter() - began, _children() - children
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-5000:]}{done.stderr[-5000:]}")
    server, database = (now - then for now, then in zip(services.spent(), before, strict=True))
    return Row(stop_after, shards, 0, seconds, processor, server, database)


def measure(folder: Path, rows: int, shards: Sequence[int]) -> Iterator[Row]:
    """A row a number of shards and stage, and one before them for a call that makes nothing."""
    with serving(folder) as services:
        run(services, folder, rows, shards[0], BEFORE)
        yield run(services, folder, rows, shards[0], BEFORE)
        for count in shards:
            for stage in STAGES:
                row = run(services, folder, rows, count, stage)
                row.filled = _filled(folder / "store", count)
                yield row


def line(row: Row, nothing: Row) -> str:
    """A line of the table; `nothing` is a call that made nothing."""
    each = max(row.filled, 1)
    processor = row.processor - nothing.processor
    return (
        f"| {row.stage} | {row.shards} | {row.filled} | {row.seconds:.1f} | {row.processor:.1f} | {1000 * processor / each:.0f} "
        f"| {1000 * row.server / each:.0f} | {1000 * row.database / each:.0f} |"
    )


HEAD = "\n".join(
    (
        "| stage | shards | with rows | s | s of processor | ms a shard beyond a call that makes nothing | ms of Prefect's server "
        "| ms of PostgreSQL |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    )
)


def _filled(store: Path, count: int) -> int:
    """Of the artifact of `ingest` in so many shards: those that have rows."""
    for folder in (store / "ingest").iterdir():
        files = list(folder.glob("samples-*.parquet"))
        if len(files) == count:
            return sum(pq.read_metadata(file).num_rows > 0 for file in files)
    raise RuntimeError(f"no artifact of ingest in {count} shards in {store}")


def _family(process: psutil.Process) -> float:
    """Seconds of processor of a process and of its children, those that have ended included."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            used = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system + used.children_user + used.children_system
    return total


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Prints a line a stage as soon as it is measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 50, 100, 200, 500])
    parser.add_argument("--rows", type=int, default=2000, help="questions; about four share a picture")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    print(HEAD)
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(Path(folder), options.rows, options.shards):
            found.append(row)
            print(line(row, found[0]), flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
