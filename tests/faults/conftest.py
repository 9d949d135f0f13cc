"""A host as operators have it: a Prefect server, a worker, `sif run`; and what is left on it after a fault."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from flows import server
from sifthinker import config
from sifthinker.llm import standin
from sifthinker.store.artifacts import Store
from sifthinker.store.runs import runs
from sifthinker.system.processes import end
from tests.machine import carries, free_port

ROOT = Path(__file__).resolve().parents[2]
MARK = "SIF_FAULTS"  # in the environment of a run and, inherited, of all that it starts
# Data stages in two shards; training in two ranks under torchrun, so that there are grandchildren.
FIELDS = {
    "scenes.rows": 24,
    "scenes.benchmark_rows": 8,
    "sft.max_steps": 4,
    "sft.save_steps": 1,
    "sft.ranks": 2,
    "grpo.max_steps": 1,
    "annotate.api.concurrency": 4,
    "evaluate.max_tokens": 64,
    "evaluate.concurrency": 1,
}
# As `flows.server`, compose.yaml and Kubernetes start theirs.
OURS = {
    "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "tasks.runtime.event_order",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "tasks.runtime.kept_leases",
}


@dataclass
class PrefectServer:
    """A server that can be stopped and started again on the same port and database."""

    home: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    settings: dict[str, str] = field(default_factory=dict)  # of the server alone, by their variables

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def environment(self) -> dict[str, str]:
        """Of whoever uses this server."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return {
            **inherited,
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "SIF_HOME": str(ROOT),
        }

    def start(self) -> None:
        command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                env={**self.environment, **OURS, **self.settings},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(lambda: server.answers(self.api), "the server answers", server.START)

    def kill(self) -> None:
        """kill -9."""
        assert self.process
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ask(self, path: str, body: Any = None) -> Any:
        """The answer; asked again while a busy server says 503, as Prefect's own client does."""
        deadline = time.monotonic() + 60
        with httpx.Client(base_url=f"{self.api}/", timeout=120) as client:
            while True:
                answer = client.get(path) if body is None else client.post(path, json=body)
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                    return answer.raise_for_status().json() if answer.content else None
                time.sleep(0.5)

    def going(self) -> list[dict[str, Any]]:
        """Flow and task runs that the server believes to be under way."""
        types = {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}
        flows = self.ask("flow_runs/filter", {"flow_runs": {"state": types}})
        return [*flows, *self.ask("task_runs/filter", {"task_runs": {"state": types}})]


@dataclass
class Sif:
    """The runs of one store on one server."""

    prefect: PrefectServer
    store: Path
    fields: dict[str, Any]
    started: list[Started] = field(default_factory=list)

    def command(self, *arguments: str) -> list[str]:
        fields = {**self.fields, "store": self.store}
        options = [x for name, value in fields.items() for x in ("--set", f"{name}={value}")]
        sif = str(Path(sys.executable).with_name("sif"))
        return [sif, "run", "--verbose", "--config", "smoke", *options, *arguments]

    def start(self, *arguments: str) -> Started:
        return self._start(self.command(*arguments))

    def worker(self) -> Started:
        command = ["-m", "prefect", "worker", "start", "--pool", "cpu", "--type", "process"]
        return self._start([sys.executable, *command])

    def _start(self, command: list[str]) -> Started:
        mark = uuid.uuid4().hex
        log = self.store.parent / f"{mark}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**self.prefect.environment, MARK: mark},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Tests in the background of a shell ignore SIGINT, and what they start would inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        self.started.append(Started(process, mark, log))
        return self.started[-1]

    def finish(self, *arguments: str) -> float:
        """Runs to the end; the seconds that it took."""
        began = time.monotonic()
        run = self.start(*arguments)
        assert run.process.wait(900) == 0, run.log.read_text()
        return time.monotonic() - began

    def parameters(self) -> dict[str, Any]:
        """The same run, as a deployment's parameters."""
        smoke = ROOT / "flows" / "configs" / "smoke.yaml"
        loaded = config.load(smoke, {**self.fields, "store": str(self.store)})
        return {"config": config.as_yaml(loaded)}

    def digests(self) -> dict[str, str]:
        """Of what the latest run made or took, by label."""
        return {label: ref["digest"] for label, ref in runs(Store(self.store))[0]["stages"].items()}

    def reserved(self) -> int:
        """Paid calls that somebody has reserved."""
        if not (self.store / "calls.sqlite").exists():
            return 0
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(self.store / "calls.sqlite", timeout=60)) as db,
        ):  # no such table: it is being made
            return int(db.execute("SELECT count(*) FROM calls WHERE state = 'reserved'").fetchone()[0])
        return 0

    def halves(self) -> list[Path]:
        """Half-written things."""
        return [path for pattern in ("*/*.tmp-*", "*/*.discarded-*") for path in self.store.glob(pattern)]


@dataclass(frozen=True)
class Started:
    process: subprocess.Popen[bytes]
    mark: str
    log: Path

    def family(self) -> list[psutil.Process]:
        """All processes of the run, wherever they have gone in the tree of processes."""
        return [process for process in psutil.process_iter() if carries(process, MARK, self.mark)]

    def programs(self, module: str) -> list[psutil.Process]:
        """Those of them that run a module."""
        found = []
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                if module in process.cmdline():
                    found.append(process)
        return found


def until(true: Callable[[], Any], what: str, seconds: float = 180) -> float:
    """Waits; the seconds that it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


@contextmanager
def started(home: Path, settings: dict[str, str] | None = None) -> Iterator[PrefectServer]:
    home.mkdir(parents=True, exist_ok=True)
    prefect = PrefectServer(home, settings=settings or {})
    prefect.start()
    try:
        yield prefect
    finally:
        if prefect.process:
            end(prefect.process.pid)


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[PrefectServer]:
    home = tmp_path_factory.mktemp("prefect")
    shutil.copy(prefect_database, home)
    with started(home) as running:
        yield running


@pytest.fixture(scope="module")
def annotator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A stand-in that takes its time, so that calls are in flight when a fault comes."""
    with standin.running(tmp_path_factory.mktemp("standin") / "log", latency=1.0) as url:
        yield url


@pytest.fixture(scope="module")
def undisturbed(
    prefect: PrefectServer,
    annotator: str,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Sif:
    """A store in which everything was made without a fault; up to the data set, where no training is to be broken."""
    fields = {**FIELDS, "annotate.api.base_url": annotator}
    sif = Sif(prefect, tmp_path_factory.mktemp("undisturbed") / "store", fields)
    whole = any(item.get_closest_marker("slow") for item in request.session.items)
    sif.finish("--stop-after", "evaluate" if whole else "annotate")
    return sif


@pytest.fixture
def sif(undisturbed: Sif, tmp_path: Path) -> Iterator[Sif]:
    """A copy of that store; a failed check leaves no run behind."""
    shutil.copytree(undisturbed.store, tmp_path / "store")
    made = Sif(undisturbed.prefect, tmp_path / "store", undisturbed.fields)
    yield made
    for run in made.started:
        for process in run.family():
            with suppress(psutil.NoSuchProcess):
                process.kill()
