"""A Prefect server with the deployments, and what a test does with it: as `make deploy`, the UI and a worker would.

The fixtures `prefect` and `worker` (conftest.py) are the server and its worker.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.conftest import ROOT, PrefectServer

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
PROBE = '''
import os, time
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import INPUTS


@task(cache_policy=INPUTS, persist_result=True)
def step(folder: str) -> None:
    with (Path(folder) / "steps").open("a") as made:
        made.write("step\\n")


@flow(name="probe")
def probe(folder: str, until: str = "", needs: str = "") -> None:
    """Ends when a file is there; fails where another is missing."""
    Path(folder).mkdir(exist_ok=True)
    (Path(folder) / "pid").write_text(str(os.getpid()))
    step(folder)
    while until and not (Path(folder) / until).exists():
        time.sleep(0.1)
    if needs and not (Path(folder) / needs).exists():
        raise FileNotFoundError(needs)
'''


def deploy(prefect: PrefectServer, folder: Path = ROOT) -> str:
    """What `make deploy` does, with the code of a folder; what it said."""
    code = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "infra/deploy.py"],
        cwd=folder,
        env={**prefect.environment, "PYTHONPATH": code},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait(look: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """The first true value of `look()`."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.3)
    return found


def named(prefect: PrefectServer, name: str) -> dict[str, Any]:
    """A deployment by its name."""
    found = prefect.ask("deployments/filter", {"deployments": {"name": {"any_": [name]}}})
    assert len(found) == 1, name
    return dict(found[0])


def made(prefect: PrefectServer, deployment: str, *types: str) -> list[dict[str, Any]]:
    """The runs that a deployment's schedule made, the first to start first; of these types of states, if given."""
    filters: dict[str, Any] = {"deployment_id": {"any_": [named(prefect, deployment)["id"]]}}
    if types:
        filters["state"] = {"type": {"any_": list(types)}}
    runs = prefect.ask("flow_runs/filter", {"flow_runs": filters, "sort": "EXPECTED_START_TIME_ASC"})
    return [run for run in runs if run["auto_scheduled"]]


def probe(prefect: PrefectServer, folder: Path, name: str, **fields: Any) -> str:
    """A deployment of the flow above in pool cpu, taken from a folder as the project's are; its id."""
    (folder / "probe.py").write_text(PROBE, encoding="utf-8")
    flow = prefect.ask("flows/", {"name": "probe"})["id"]
    there = [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}]
    results = {"PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(folder / "results")}
    body = {
        "name": name,
        "flow_id": flow,
        "entrypoint": "probe.py:probe",
        "pull_steps": there,
        "work_pool_name": "cpu",
        "job_variables": {"env": results},
        "parameters": {"folder": str(folder / "run")},
        "enforce_parameter_schema": False,
        **fields,
    }
    return str(prefect.ask("deployments/", body)["id"])


def start(prefect: PrefectServer, deployment: str, **parameters: Any) -> str:
    """A run for the worker, as the UI's form or `run_deployment` asks for one; its id."""
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    return str(prefect.ask(f"deployments/{deployment}/create_flow_run", body)["id"])


def state(prefect: PrefectServer, run: str) -> dict[str, Any]:
    return dict(prefect.ask(f"flow_runs/{run}")["state"])


def ended(prefect: PrefectServer, run: str) -> str:
    """The type of the state in which a run ends."""
    return str(wait(lambda: (s := state(prefect, run)) and s["type"] in FINAL and s, "the run ends")["type"])


def change(prefect: PrefectServer, run: str, kind: str, name: str) -> None:
    """What a button of the UI sends."""
    prefect.ask(f"flow_runs/{run}/set_state", {"state": {"type": kind, "name": name}})
