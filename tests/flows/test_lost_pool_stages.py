"""A run that waits for a stage in another pool, whose process is killed or whose server goes away: a real server, a real worker.

The stage stands still at the lock of its artifact, which the test holds, so that nothing depends on how fast it works.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from flows.reproduce import reproduction
from sifthinker.config import load
from sifthinker.store.artifacts import Lock, Store
from sifthinker.system.processes import end
from tasks.runtime.liveness import SILENT
from tasks.runtime.pipeline import Partial, plan
from tests.faults.conftest import ROOT, PrefectServer, started, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="host names need root here"),
]
MARK = "SIF_LOST_POOL_STAGES"  # in the environment of a worker and of all that it starts
POOL = "gpu-1"


@dataclass
class Host:
    """A server, a worker in one pool under another host name, and a store."""

    prefect: PrefectServer
    folder: Path
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        code = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        return {**self.prefect.environment, "PYTHONPATH": code}

    @property
    def file(self) -> Path:
        return self.folder / "placed.yaml"

    def worker(self) -> str:
        """Starts a worker, and returns its mark."""
        mark = f"host-{len(self.workers)}"
        host = ["unshare", "--uts", "sh", "-c", f'hostname {mark} && exec "$@"', "sh"]
        command = [sys.executable, "-m", "infra.worker", "--pool", POOL, "--type", "process"]
        with (self.folder / f"{mark}.log").open("ab") as log:
            started = subprocess.Popen(
                [*host, *command],
                cwd=self.folder,
                env={**self.environment, MARK: mark},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.workers.append(started)
        return mark

    def run(self, log: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "flows", "run", "--verbose", "--config", str(self.file)]
        with (self.folder / log).open("wb") as out:
            return subprocess.Popen(
                [*command, *arguments],
                cwd=ROOT,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self, log: str) -> str:
        """A log, without the line breaks of a narrow console."""
        return " ".join((self.folder / log).read_text(encoding="utf-8").split())

    def made_up_to(self, *stages: str) -> None:
        for stage in stages:
            made = self.run(f"{stage}.log", "--stop-after", stage, "--set", "placement=process")
            assert made.wait(900) == 0, self.said(f"{stage}.log")

    def held(self, label: str) -> Lock:
        """The lock of the artifact that a stage would make now."""
        config = load(self.file)
        store = Store.of(config)
        [key] = [p.key for p in plan(reproduction, config, Partial(), store) if p.label == label]
        assert key
        lock = store.lock(label, key)
        lock.acquire()
        return lock

    def at_work(self, label: str) -> str:
        """Waits until a run of a stage has sent a heartbeat that the server has heard; its id."""

        def found() -> list[str]:
            runs = self.prefect.ask("flow_runs/filter", {"flows": {"name": {"any_": ["stage"]}}})
            return [
                run["id"]
                for run in runs
                if run["parameters"]["label"] == label
                and run["state"]["type"] == "RUNNING"
                and self.beats(run["id"])
            ]

        until(found, f"{label} is at work", 600)
        return found()[0]

    def beats(self, run: str) -> bool:
        heard = {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run}"]},
        }
        return bool(self.prefect.ask("events/filter", {"filter": heard})["events"])

    def lose(self, mark: str) -> float:
        """As a container is killed for memory, or with its machine: nobody reports another's death. When it was."""
        family = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == mark:
                    family.append(process)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        return time.monotonic()

    def state(self, run: str) -> dict[str, Any]:
        return dict(self.prefect.ask(f"flow_runs/{run}")["state"])


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("lost-pool-stages")
    config = yaml.safe_load((ROOT / "flows/configs/smoke.yaml").read_text(encoding="utf-8"))
    places = dict.fromkeys(("depth", "sft", "merge", "grpo", "evaluate"), POOL)
    config |= {"store": str(folder / "store"), "placement": "pools", "ingest": {"shards": 1}}
    config |= {"pools": {**places, "server_away": 0.2}}
    config["scenes"] |= {"rows": 6, "benchmark_rows": 2}
    config["publish"] = {"rl_samples": 2}
    config["sft"] |= {"max_steps": 1, "batch": 1, "accumulation": 1}
    with started(folder / "prefect") as prefect:
        found = Host(prefect, folder)
        found.file.write_text(yaml.safe_dump(config), encoding="utf-8")
        command = [sys.executable, "infra/deploy.py"]
        subprocess.run(command, cwd=ROOT, env=found.environment, check=True, timeout=840)
        yield found
        for worker in found.workers:
            end(worker.pid)


def test_a_server_that_goes_away_meanwhile_is_told_of_at_once_and_ends_the_run_after_the_configured_time(
    host: Host,
) -> None:
    """12 seconds here (`pools.server_away`). The stage goes on, and the next run takes over what it has made."""
    host.made_up_to("depth-weights", "expand")
    host.worker()
    lock = host.held("depth")
    run = host.run("away.log", "--stop-after", "depth")
    host.at_work("depth")
    host.prefect.kill()
    began = time.monotonic()
    try:
        until(lambda: "does not answer" in host.said("away.log"), "it says so", 60)
        told = time.monotonic() - began
        assert run.wait(120) == 1, host.said("away.log")
        took = time.monotonic() - began
    finally:
        host.prefect.start()
        lock.release()
    print(f"seconds after the kill: said {told:.0f}, run ended {took:.0f}")
    said = host.said("away.log")
    assert f"depth: the Prefect server at {host.prefect.api} does not answer: ConnectError" in said
    assert f"the stage goes on in pool {POOL}" in said and "(pools.server_away), then it fails" in said
    assert f"Its run in pool {POOL} may still be at work, and the next run waits for it" in said
    again = host.run("away-again.log", "--stop-after", "depth")
    assert again.wait(1200) == 0, host.said("away-again.log")
    assert len(list((host.folder / "store" / "depth").glob("*/manifest.json"))) == 1


def test_a_stage_that_is_lost_with_its_machine_is_tried_again_by_the_same_run(host: Host) -> None:
    """By the next worker of the pool."""
    config = yaml.safe_load(host.file.read_text(encoding="utf-8"))
    config["depth"]["size"] = 154  # of another artifact than the test before
    host.file.write_text(yaml.safe_dump(config), encoding="utf-8")
    host.made_up_to("depth-weights", "expand")
    lock = host.held("depth")
    mark = f"host-{len(host.workers) - 1}" if host.workers else host.worker()
    run = host.run("lost.log", "--stop-after", "depth")
    child = host.at_work("depth")
    lost = host.lose(mark)
    until(lambda: host.state(child)["type"] == "CRASHED", "the server closes the lost run", 120)
    closed = time.monotonic() - lost
    until(lambda: "PoolCrashed" in host.said("lost.log"), "the waiting run has noticed", 120)
    print(f"seconds after the kill: the lost run closed {closed:.0f}, noticed {time.monotonic() - lost:.0f}")
    host.worker()
    lock.release()
    assert run.wait(1200) == 0, host.said("lost.log")
    said = host.said("lost.log")
    assert f"its run in pool {POOL} crashed: {SILENT.rstrip('.')}. See http" in said and child in said
    assert "Start the worker again where it is gone" in said
    assert host.state(child)["type"] == "CRASHED"
