"""Every fault in every kind of stage: what happens, what is left, and that starting again ends as if nothing had been.

    python -m pytest -m slow tests/faults          # the whole table, about half an hour; SIF_FAULTS_TABLE=FILE keeps it
    python -m pytest -m e2e tests/faults           # the few that `make test` has

A row breaks one stage of a store in which everything else is made: the stage's artifacts are removed, the run is
started, hit at a moment when the stage is at work, and looked at. Then the same command is given again.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Sif, Started, until

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
    "evaluation": Kind("evaluate", ("evaluate",), lambda sif, run: sif.reserved(), "sifthinker.serve"),
}
TABLE: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Keeps the measured table."""
    yield
    if file := os.environ.get("SIF_FAULTS_TABLE"):
        head = [
            "| fault | stage | run becomes | nothing left after | starting again |",
            "|---|---|---|---|---|",
        ]
        Path(file).write_text("\n".join([*head, *TABLE]) + "\n", encoding="utf-8")


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
    TABLE.append(f"| {fault} | {kind.stage} | {', '.join(found)} | {left:.1f} s | {again:.0f} s |")


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
