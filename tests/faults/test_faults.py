"""Every fault in every kind of stage: what happens, what is left, and that starting again ends as if nothing had been.

    python -m pytest -m slow tests/faults          # the whole table, an hour and a half; SIF_FAULTS_TABLE=FILE keeps it
    python -m pytest -m e2e tests/faults           # the few that `make test` has

A row breaks one stage of a store in which everything else is made: the stage's artifacts are removed, the run is
started, hit at a moment when the stage is at work, and looked at. Then the same command is given again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import ROOT, PrefectServer, Sif, Started, until

pytestmark = pytest.mark.timeout(1200)


@dataclass(frozen=True)
class Kind:
    """A kind of stage, by the stage that is hit."""

    stage: str
    gone: tuple[str, ...]  # folders of the store that are removed first
    at_work: Callable[[Sif, Started], Any]  # true while it works
    child: str = ""  # the module of its process, where it has one


def _lines(sif: Sif, pattern: str) -> int:
    return sum(len(file.read_text().splitlines()) for file in sif.store.glob(pattern))


KINDS = {
    "data": Kind(
        "expand", ("expand", "expand.parts"), lambda sif, _: [*sif.store.glob("expand.parts/*.lock")]
    ),
    "annotation": Kind("annotate", ("annotate", "annotate.parts"), lambda sif, run: sif.reserved()),
    "depth": Kind("depth", ("depth", "depth.parts"), lambda sif, _: [*sif.store.glob("depth.parts/*.lock")]),
    "training": Kind(
        "sft", ("sft",), lambda sif, _: _lines(sif, "sft/*.work/progress.jsonl"), "sifthinker.training.sft"
    ),
    "evaluation": Kind(
        "evaluate", ("evaluate",), lambda sif, run: sif.reserved(), "sifthinker.models.serving"
    ),
}


def row(*cells: str) -> None:
    """Keeps a measured row at once: the whole table takes an hour."""
    if file := os.environ.get("SIF_FAULTS_TABLE"):
        path = Path(file)
        if not path.exists():
            head = "| fault | stage | run becomes | nothing left after | starting again |\n|---|---|---|---|---|\n"
            path.write_text(head, encoding="utf-8")
        with path.open("a", encoding="utf-8") as table:
            table.write(f"| {' | '.join(cells)} |\n")


def broken(sif: Sif, kind: Kind) -> None:
    """Removes the artifacts of a stage, and what answered its questions."""
    for folder in kind.gone:
        shutil.rmtree(sif.store / folder)
    for ledger in sif.store.glob("calls.sqlite*"):
        ledger.unlink()


def ended(sif: Sif, run: Started, fault: str, kind: Kind, since: float, state: str | None = None) -> None:
    """Nothing of the run is left but perhaps the server's belief in it; again, it ends as if undisturbed."""
    until(lambda: not run.family(), f"no process of the run is left: {run.family()}", 60)
    left = time.monotonic() - since
    found = {
        r["state"]["name"]
        for r in sif.prefect.ask("flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})
    }
    if state:
        assert found == {state}, run.log.read_text()
    again = sif.finish("--stop-after", kind.stage)
    assert not sif.prefect.going()
    assert not sif.reserved()
    assert not sif.halves()
    assert not [*(sif.store / "alive").iterdir()]
    assert sif.digests() == {label: digest for label, digest in EXPECTED.items() if label in sif.digests()}
    row(fault, kind.stage, ", ".join(found), f"{left:.1f} s", f"{again:.0f} s")


EXPECTED: dict[str, str] = {}


@pytest.fixture(autouse=True)
def expected(undisturbed: Sif) -> None:
    EXPECTED.update(undisturbed.digests())


def at_work(sif: Sif, kind: Kind) -> Started:
    """A run whose stage is at work."""
    broken(sif, kind)
    run = sif.start("--stop-after", kind.stage)
    until(lambda: kind.at_work(sif, run) or run.process.poll() is not None, f"{kind.stage} is at work", 300)
    assert run.process.poll() is None, run.log.read_text()
    return run


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("number", "state"),
    [(signal.SIGTERM, "Crashed"), (signal.SIGINT, "Crashed"), (signal.SIGKILL, "Running")],
)
def test_a_signal_to_the_run(sif: Sif, kind: str, number: signal.Signals, state: str) -> None:
    run = at_work(sif, KINDS[kind])
    since = time.monotonic()
    run.process.send_signal(number)
    run.process.wait(60)
    ended(sif, run, f"{number.name} to `sif run`", KINDS[kind], since, state)


def cancel(prefect: PrefectServer, run: str) -> None:
    """What the UI's button sends."""
    prefect.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})


def latest(prefect: PrefectServer) -> dict[str, Any]:
    body = {"sort": "EXPECTED_START_TIME_DESC", "limit": 1}
    found: list[dict[str, Any]] = prefect.ask("flow_runs/filter", body)
    return found[0]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.e2e if kind == "annotation" else pytest.mark.slow)
        for kind in KINDS
    ],
)
def test_a_run_is_cancelled_on_the_server(sif: Sif, kind: str) -> None:
    run = at_work(sif, KINDS[kind])
    since = time.monotonic()
    cancel(sif.prefect, latest(sif.prefect)["id"])
    until(lambda: run.process.poll() is not None, "the run ends", 60)
    if kind in ("data", "depth") and run.process.returncode == 0:
        pytest.skip("the stage was over before the run saw that it is cancelled")
    ended(sif, run, "Cancel", KINDS[kind], since, "Cancelled")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_a_killed_child_fails_or_resumes_and_leaves_no_rank(sif: Sif, kind: str) -> None:
    """torchrun and a retry for training: the run goes on by itself. A served model: the run fails or asks a new one."""
    run = at_work(sif, KINDS[kind])
    since = time.monotonic()
    run.programs(KINDS[kind].child)[-1].kill()
    run.process.wait(600)
    ended(sif, run, f"kill -9 of a child (exit {run.process.returncode})", KINDS[kind], since)


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_rank(sif: Sif) -> None:
    run = at_work(sif, KINDS["training"])
    [launcher] = run.programs("torch.distributed.run")
    ranks = [p for p in run.programs("sifthinker.training.sft") if p.pid != launcher.pid]
    assert len(ranks) == 2
    since = time.monotonic()
    launcher.kill()
    until(
        lambda: not any(rank.is_running() and rank.status() != "zombie" for rank in ranks),
        "no rank is left",
        20,
    )
    run.process.wait(600)
    ended(sif, run, f"kill -9 of torchrun (exit {run.process.returncode})", KINDS["training"], since)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_server_that_comes_back_after_a_minute(sif: Sif, kind: str) -> None:
    run = at_work(sif, KINDS[kind])
    since = time.monotonic()
    sif.prefect.kill()
    time.sleep(60)
    sif.prefect.start()
    run.process.wait(900)
    assert run.process.returncode == 0, run.log.read_text()
    assert latest(sif.prefect)["state"]["name"] == "Completed"
    ended(sif, run, "kill -9 of the Prefect server, back after 60 s", KINDS[kind], since, "Completed")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.e2e if kind == "data" else pytest.mark.slow) for kind in KINDS],
)
def test_a_killed_server_that_stays_away_ends_the_run_and_the_store_keeps_what_was_made(
    sif: Sif, kind: str
) -> None:
    stage = KINDS[kind].stage
    run = at_work(sif, KINDS[kind])
    sif.prefect.kill()
    try:
        until(lambda: [*sif.store.glob(f"{stage}/*/manifest.json")], f"{stage} is made without a server", 600)
        since = time.monotonic()
        until(lambda: run.process.poll() is not None, "the run ends in about two minutes", 180)
        took = time.monotonic() - since
    finally:
        sif.prefect.start()
    said = run.log.read_text()
    assert run.process.returncode == 1, said
    assert f"failed: the Prefect server at {sif.prefect.api} does not answer" in said
    assert "What the run has made is in the store. Start the server, and run again" in said
    row(f"kill -9 of the Prefect server, which stays away (ends {took:.0f} s later)", stage, "", "", "")
    ended(sif, run, "the same, afterwards", KINDS[kind], time.monotonic(), "Running")


@pytest.fixture(scope="module")
def pool(prefect: PrefectServer) -> str:
    """The deployment `reproduce` in its pool; its id."""
    made = subprocess.run(
        [sys.executable, "infra/deploy.py"], cwd=ROOT, env=prefect.environment, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return str(prefect.ask("deployments/name/reproduce/reproduce")["id"])


def by_worker(sif: Sif, kind: Kind, deployment: str) -> tuple[Started, str]:
    """A worker whose run's stage is at work; and the run."""
    broken(sif, kind)
    body = {
        "parameters": {**sif.parameters(), "stop_after": kind.stage},
        "state": {"type": "SCHEDULED"},
        "job_variables": {},
    }
    run = str(sif.prefect.ask(f"deployments/{deployment}/create_flow_run", body)["id"])
    worker = sif.worker()
    until(lambda: kind.at_work(sif, worker), f"{kind.stage} is at work", 300)
    return worker, run


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["Cancel", "SIGTERM", "SIGINT", "SIGKILL", "SIGKILL to its flow"])
def test_a_worker(sif: Sif, pool: str, kind: str, fault: str) -> None:
    worker, run = by_worker(sif, KINDS[kind], pool)
    state: dict[str, Any] = {}
    try:
        since = time.monotonic()
        if fault == "Cancel":
            cancel(sif.prefect, run)
        elif fault == "SIGKILL to its flow":
            [said] = (sif.store / "alive").glob("*.json")
            os.kill(json.loads(said.read_text())["process"]["pid"], signal.SIGKILL)
        else:
            worker.process.send_signal(signal.Signals[fault])
            worker.process.wait(90)
        if fault in ("Cancel", "SIGKILL to its flow"):
            until(
                lambda: sif.prefect.ask(f"flow_runs/{run}")["state"]["type"] in ("CANCELLED", "CRASHED"),
                "the worker closes its run",
                120,
            )
            until(
                lambda: all(p.pid == worker.process.pid for p in worker.family()),
                "nothing but the worker is left",
                60,
            )
        else:  # a killed worker's run goes on by itself
            until(lambda: not worker.family(), "nothing of the worker is left", 300)
        took = time.monotonic() - since
        state = sif.prefect.ask(f"flow_runs/{run}")["state"]
    finally:
        worker.process.kill()
        worker.process.wait()
        for process in worker.family():
            process.kill()
    ended(sif, worker, f"{fault}: worker ({state['name']} after {took:.1f} s)", KINDS[kind], since)


@pytest.mark.e2e
def test_two_runs_at_once_make_a_stage_once_and_a_killed_one_is_taken_over(sif: Sif) -> None:
    kind = KINDS["annotation"]
    broken(sif, kind)
    runs = [sif.start("--stop-after", kind.stage) for _ in range(2)]

    def waiting() -> list[Started]:
        return [run for run in runs if "another run is making annotate" in run.log.read_text()]

    until(waiting, "one run waits", 120)
    (second,) = waiting()
    (first,) = [run for run in runs if run is not second]
    until(lambda: kind.at_work(sif, first), "the other is at work", 60)
    since = time.monotonic()
    first.process.kill()
    first.process.wait()
    assert second.process.wait(300) == 0, second.log.read_text()
    ended(sif, first, "SIGKILL to the one of two runs that works", kind, since)
