"""What the artifacts of a training say when it is over: completed, failed, stopped, or gone with its process. A real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.states import Cancelling

from sifthinker.store.artifacts import Store
from tasks.runtime import liveness
from tests.machine import until

pytestmark = pytest.mark.usefixtures("prefect_server")
# A flow of one task, which follows a program as a training is followed; `how` says when the program ends.
FLOW = """
import logging, sys
from pathlib import Path
from types import SimpleNamespace
from prefect import flow, task
from prefect.states import Cancelled
from sifthinker.store.artifacts import Store
from tasks.runtime import following, programs
from tasks.runtime.liveness import RunCancelled, alive
from tasks.runtime.progress import Progress, how as ended

programs.MINUTE = 0.5  # the page is renewed at each step

PROGRAM = '''
import json, pathlib, sys, time
work, how = pathlib.Path(sys.argv[1]), sys.argv[2]
for step in (1, 2, 3):
    with (work / "progress.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "total": 9, "loss": 1 / step}) + chr(10))
    time.sleep(1.5)
if how == "fails":
    raise SystemExit(3)
if how == "goes on":
    time.sleep(600)
'''

@task
def train(work, how):
    log = logging.getLogger("train")
    progress = Progress("sft", 9, log, every=0)
    order = SimpleNamespace(label="sft", key="0123456789", config=SimpleNamespace(name="test"))
    job = SimpleNamespace(work=work, log=log, order=order, progress=progress)
    state = "completed"
    try:
        with programs.Page(job, [], steps=1) as page:
            command = [sys.executable, "-c", PROGRAM, str(work), how]
            following.follow(job, command, work / "progress.jsonl", None, following.Watch(page.at, stopping=page.stopping))
    except BaseException as error:
        state = ended(error)
        raise
    finally:
        progress.end(state)

@flow
def training(store: Path, how: str):
    try:
        with alive(Store(store)):
            train(store / "work", how)
    except RunCancelled as error:
        return Cancelled(message=str(error))

training(Path(sys.argv[1]), sys.argv[2], return_state=True)
"""


def shown(run: UUID) -> dict[str, str]:
    """Descriptions of a run's artifacts, by their types."""
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    with get_client(sync_client=True) as client:
        return {str(a.type): str(a.description) for a in client.read_artifacts(artifact_filter=of_run)}


def begun(folder: Path, how: str) -> tuple[subprocess.Popen[bytes], UUID]:
    (folder / "work").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", FLOW, str(folder), how],
        start_new_session=True,
        # Jobs in the background of a script ignore SIGINT, and so do the programs that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until(lambda: any((folder / "alive").glob("*.json")) or process.poll() is not None, 200)
    [file] = (folder / "alive").glob("*.json")
    return process, UUID(file.stem)


@pytest.mark.parametrize(
    ("how", "said"), [("ends", "completed after 3 steps and"), ("fails", "failed after 3 steps and")]
)
def test_a_training_that_ends_by_itself_says_how(tmp_path: Path, how: str, said: str) -> None:
    process, run = begun(tmp_path, how)
    assert process.wait(200) == 0
    found = shown(run)
    assert found["markdown"].startswith(f"sft: {said}")
    word = said.split()[0]
    assert found["progress"].startswith(f"Progress of sft: {word} after ")
    assert found["progress"].endswith("3 of 9")


@pytest.mark.parametrize("how", ["cancel", "sigterm", "sigint"])
def test_a_training_that_is_cancelled_says_so(tmp_path: Path, how: str) -> None:
    process, run = begun(tmp_path, "goes on")
    try:
        until(
            lambda: shown(run).keys() >= {"markdown", "progress"} and "under way" in shown(run)["markdown"],
            200,
        )
        if how == "cancel":
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(run, Cancelling())
        else:
            os.kill(process.pid, {"sigterm": 15, "sigint": 2}[how])
        process.wait(120)
        found = shown(run)
        why = "its run was cancelled or told to end"
        assert found["markdown"].startswith("sft: stopped after ") and found["markdown"].endswith(why)
        assert found["progress"].startswith("Progress of sft: stopped after ")
        assert found["progress"].endswith(why)
    finally:
        process.kill()
        process.wait()


def test_a_training_whose_process_was_killed_is_said_to_be_gone_by_who_closes_its_run(tmp_path: Path) -> None:
    process, run = begun(tmp_path, "goes on")
    until(lambda: shown(run).keys() >= {"markdown", "progress"}, 200)
    process.kill()
    process.wait()
    assert "under way" in shown(run)["markdown"]
    left = json.loads((tmp_path / "work" / "pid.json").read_text())
    liveness.sweep(Store(tmp_path))
    os.killpg(left["pid"], 9)  # of a stage that has no folder in the store here
    found = shown(run)
    gone = f"ended with its run: its process {process.pid} on "
    assert found["markdown"].startswith(f"sft: {gone}")
    assert found["markdown"].endswith("It said before: under way")
    assert found["progress"].startswith(f"Progress of sft: {gone}")
