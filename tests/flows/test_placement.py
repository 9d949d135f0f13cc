"""Stages in work pools of their own: real pools, real workers, a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from sifthinker.store.artifacts import Store
from sifthinker.store.runs import runs
from sifthinker.system.processes import end
from tests.machine import is_running

# An idle machine takes a tenth of these times. A loaded one starts each of the dozen processes of a test in a minute.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROOT = Path(__file__).resolve().parents[2]
POOLS = ("cpu", "gpu-1", "gpu-8")
WHERE = {"depth": "gpu-1", "sft": "gpu-8", "merge": "gpu-8", "grpo": "gpu-8", "evaluate": "gpu-1"}


@pytest.fixture(scope="module")
def workers(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The deployments, and a worker in each pool; gives the workers' logs."""
    environment = {
        **os.environ,
        "SIF_HOME": str(ROOT),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.getenv("PYTHONPATH")))),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    }
    subprocess.run([sys.executable, "infra/deploy.py"], cwd=ROOT, env=environment, check=True, timeout=840)
    folder = tmp_path_factory.mktemp("workers")
    logs, started = {}, []
    for pool in POOLS:
        logs[pool] = folder / f"{pool}.log"
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
        with logs[pool].open("ab") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        started.append(process)
    yield logs
    for process in started:
        end(process.pid)


def tiny(store: Path, **more: Any) -> dict[str, Any]:
    """The demo's configuration, as small as it runs, placed in pools."""
    config = yaml.safe_load((ROOT / "flows/configs/smoke.yaml").read_text(encoding="utf-8"))
    config |= {"store": str(store), "placement": "pools", "pools": WHERE}
    config["scenes"] |= {"rows": 6, "benchmark_rows": 2}
    config["ingest"] = {"shards": 1}
    config["publish"] = {"rl_samples": 2}
    config["sft"] |= {"max_steps": 1, "batch": 1, "accumulation": 1}
    config["grpo"] |= {"max_steps": 1, "batch": 2, "generations": 2, "max_completion": 16}
    config["evaluate"] |= {"max_tokens": 16}
    return {name: {**config.get(name, {}), **value} for name, value in more.items()} | {
        name: value for name, value in config.items() if name not in more
    }


def start(config: dict[str, Any], **partial: str) -> FlowRun:
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("reproduce/reproduce")
        parameters = {"config": yaml.safe_dump(config), **partial}
        return client.create_flow_run_from_deployment(deployment.id, parameters=parameters)


def read(run: FlowRun) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run.id)


def children(run: FlowRun) -> dict[str, FlowRun]:
    """The runs that a run started in pools, by the label of their stage."""
    of_run = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
    with get_client(sync_client=True) as client:
        return {found.parameters["label"]: found for found in client.read_flow_runs(flow_run_filter=of_run)}


def states(run: FlowRun) -> dict[str, str]:
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    with get_client(sync_client=True) as client:
        return {task.name: str(task.state_name) for task in client.read_task_runs(flow_run_filter=of_run)}


def wait(what: Callable[[], Any], seconds: float, why: Callable[[], str]) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, why()
        time.sleep(0.5)
    return found


def finished(run: FlowRun, logs: dict[str, Path], seconds: float = 1500) -> FlowRun:
    def said() -> str:
        return f"{read(run).state}\n" + "\n".join(path.read_text()[-3000:] for path in logs.values())

    def ended() -> FlowRun | None:
        found = read(run)
        return found if found.state and found.state.is_final() else None

    found: FlowRun = wait(ended, seconds, said)
    assert found.state and found.state.is_completed(), said()
    return found


def test_two_runs_at_once_make_each_artifact_once_and_each_stage_in_its_pool(
    workers: dict[str, Path], tmp_path: Path
) -> None:
    config = tiny(tmp_path)
    both = [finished(run, workers) for run in [start(config, stop_after="depth") for _ in range(2)]]
    assert {run.work_pool_name for run in both} == {"cpu"}
    for run in both:
        assert {label: child.work_pool_name for label, child in children(run).items()} in (
            {"depth": "gpu-1"},
            {},
        )
    outcomes = [states(run) for run in both]
    made = {label: [outcome.get(label) for outcome in outcomes].count("Completed") for label in outcomes[0]}
    stages = [name for name in made if not name.startswith("stage/")]
    assert {"scenes", "ingest", "expand", "depth"} <= set(stages)
    assert all(made[name] == 1 for name in stages if not name.startswith("expand part")), outcomes
    assert len({json.dumps(record["stages"], sort_keys=True) for record in runs(Store(tmp_path))}) == 1


@pytest.mark.parametrize(
    "how", ["api", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sigterm", "sigint"))]
)
def test_ending_the_run_ends_its_training_in_the_other_pool(
    workers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, how: str
) -> None:
    store = tmp_path_factory.getbasetemp() / "cancelled"  # one for all: the data is made once
    config = tiny(store, sft={"max_steps": 100_000, "save_steps": 100_000, "epochs": 100_000})
    command = [sys.executable, "-c", "from flows.commands.main import main; main()", "run", "--config"]
    file = store.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    process = None
    if how == "api":
        run = start(config)
    else:
        process = subprocess.Popen([*command, str(file)], cwd=ROOT, start_new_session=True)

        def recorded() -> FlowRun | None:
            found = [record for record in runs(Store(store)) if record["state"] == "running"]
            return FlowRun.model_construct(id=found[0]["id"]) if found else None

        run = wait(recorded, 600, lambda: "the run does not start")
    try:
        child = wait(lambda: children(run).get("sft"), 900, lambda: f"{read(run).state}")
        [pid_file] = wait(
            lambda: list(store.glob("sft/*.work/pid.json")), 600, lambda: workers["gpu-8"].read_text()
        )
        training = int(json.loads(pid_file.read_text())["pid"])
        assert is_running(training) and child.work_pool_name == "gpu-8"
        if process is None:
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(run.id, Cancelling())
        else:
            process.send_signal(getattr(signal, how.upper()))
            process.wait(60)
        wait(lambda: not is_running(training), 60, lambda: f"{read(child).state}: its training runs on")
        assert wait(
            lambda: (s := read(child).state) and s.is_final() and s, 60, lambda: "not final"
        ).is_cancelled()
        assert not list(store.glob("sft/*/manifest.json"))
        if process is None:
            assert wait(lambda: (s := read(run).state) and s.is_final() and s, 60, lambda: "").is_cancelled()
    finally:
        if process is not None and process.poll() is None:  # a failed check must not leave the pool taken
            process.kill()
            process.wait()


def test_a_training_on_two_nodes_has_a_run_of_its_pool_for_each(
    workers: dict[str, Path], tmp_path: Path
) -> None:
    """One worker takes both here; each run is a process of its own, as on two machines."""
    config = tiny(tmp_path, sft={"max_steps": 1, "batch": 1, "accumulation": 1, "ranks": 2, "nodes": 2})
    refused = start(config, stop_after="sft")
    wait(lambda: (s := read(refused).state) and s.is_final(), 1500, lambda: f"{read(refused).state}")
    assert read(refused).state.name == "UserError", "not tried again"
    assert "takes 1 runs at once and the training has 2 nodes" in str(read(refused).state.message)
    with get_client(sync_client=True) as client:
        client.update_work_pool("gpu-8", WorkPoolUpdate(concurrency_limit=2))
    try:
        run = finished(start(config, stop_after="sft"), workers)
    finally:
        with get_client(sync_client=True) as client:
            client.update_work_pool("gpu-8", WorkPoolUpdate(concurrency_limit=1))
    of_run = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=of_run)
    nodes = {r.parameters["node"]: r for r in found if r.parameters["label"] == "sft"}
    assert {node: str(r.state_name) for node, r in nodes.items()} == {0: "Completed", 1: "Completed"}
    [manifest] = [json.loads(file.read_text()) for file in tmp_path.glob("sft/*/manifest.json")]
    assert manifest["notes"]["world"] == 2


@pytest.mark.slow
def test_the_whole_reproduction_runs_in_three_pools(workers: dict[str, Path], tmp_path: Path) -> None:
    run = finished(start(tiny(tmp_path)), workers)
    assert run.work_pool_name == "cpu"
    placed = {label: child.work_pool_name for label, child in children(run).items()}
    assert placed == {
        "depth": "gpu-1",
        **dict.fromkeys(("sft", "merge-sft", "grpo", "merge-grpo"), "gpu-8"),
        "evaluate": "gpu-1",
    }
    again = finished(start(tiny(tmp_path)), workers)
    assert set(states(again).values()) == {"Cached"} and not children(again)
