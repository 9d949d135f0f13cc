"""Brings up infra/compose.yaml with Docker, and shows that it works: `make test-containers`.

    python tests/containers.py [--folder FOLDER] [--keep]

Builds the images, starts the server on PostgreSQL and the workers, runs the smoke configuration with its GPU stages in
pools, lets a schedule start a night, stops and kills the worker of a training, and receives the alerts. The GPU pools have
workers of the CPU image. Needs Docker with Compose 2.24 or newer, about 6 GB of disk, and the base images that the
Dockerfiles name. Everything is removed at the end, except with --keep. A line says what was done, and how long it took.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = "sifthinker-test"
GPUS = ("worker-gpu-1", "worker-gpu-8")
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
# The smoke configuration, with an SFT that takes long enough to be stopped in.
LONG = (
    "sft.max_steps=60",
    "sft.save_steps=5",
    "grpo.max_steps=2",
    "scenes.rows=24",
    "scenes.benchmark_rows=8",
)


def port() -> int:
    """A free one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Stack:
    """The composed services, under names and ports of their own."""

    folder: Path
    ui: int = field(default_factory=port)
    hook: int = field(default_factory=port)
    credentials: str = field(default_factory=lambda: f"tester:{secrets.token_urlsafe(16)}")
    alerts: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Writes what differs from infra/compose.yaml: ports, and GPU workers without GPUs."""
        service = {
            "image": "sifthinker-worker:0.1.0",
            "profiles": Reset(),
            "build": Reset(),
            "deploy": Reset(),
            "ulimits": Reset(),
        }
        build = {"network": "host"}  # of the base images' own index
        services = {
            "server": {
                "ports": Override([f"127.0.0.1:{self.ui}:4200"]),
                "extra_hosts": ["alerts.example:host-gateway"],
                "build": build,
            },
            "worker-cpu": {"build": build},
            **{name: {**service, "shm_size": "1g"} for name in GPUS},
        }
        text = yaml.dump({"services": services}, Dumper=Tags)
        (self.folder / "override.yaml").write_text(text, encoding="utf-8")
        (self.folder / "data").mkdir(exist_ok=True)

    def compose(self, *arguments: str, check: bool = True) -> str:
        """What `docker compose ARGUMENTS` says."""
        files = ["-f", str(ROOT / "infra/compose.yaml"), "-f", str(self.folder / "override.yaml")]
        environment = {
            **os.environ,
            "PREFECT_SERVER_API_AUTH_STRING": self.credentials,
            "POSTGRES_PASSWORD": "a-password/with+signs=@",
            "SIF_UI_ORIGIN": f"http://127.0.0.1:{self.ui}",
            "SIF_ALERT_URL": f"http://alerts.example:{self.hook}/alerts",
            "SIF_DATA": str(self.folder / "data"),
            "SIF_COMMIT": said("git", "-C", str(ROOT), "rev-parse", "HEAD").strip() or "unknown",
        }
        command = ["docker", "compose", "--project-name", PROJECT, *files, *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if check and done.returncode:
            raise SystemExit(f"{shlex.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done.stdout + done.stderr

    def ask(self, path: str, body: Any = None, method: str = "") -> Any:
        """The server's answer; asked again while it starts or is busy."""
        basic = base64.b64encode(self.credentials.encode()).decode()
        with httpx.Client(
            base_url=f"http://127.0.0.1:{self.ui}/api/",
            headers={"Authorization": f"Basic {basic}"},
            timeout=60,
        ) as client:
            token = (
                client.get("csrf-token", params={"client": "containers"}).raise_for_status().json()["token"]
            )
            client.headers.update({"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "containers"})
            while True:
                answer = client.request(method or ("GET" if body is None else "POST"), path, json=body)
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    return answer.raise_for_status().json() if answer.content else None
                time.sleep(1)

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Of a flow, the latest first."""
        return list(
            self.ask(
                "flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_DESC"}
            )
        )

    def sif(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts `sif run` with the smoke configuration in the CPU worker's container."""
        options = [part for setting in (*LONG, "placement=pools") for part in ("--set", setting)]
        command = [
            "docker",
            "exec",
            f"{PROJECT}-worker-cpu-1",
            "sif",
            "run",
            "--config",
            "smoke",
            *options,
            *arguments,
        ]
        log = (self.folder / "sif.log").open("a", encoding="utf-8")
        return subprocess.Popen(command, stdout=log, stderr=log, text=True, stdin=subprocess.DEVNULL)


class Reset:
    """Compose's `!reset`: leaves out what the file before says."""


class Override(list[str]):
    """Compose's `!override`: takes the place of what the file before says."""


class Tags(yaml.SafeDumper):
    """Writes both."""


Tags.add_representer(Reset, lambda dumper, _: dumper.represent_scalar("!reset", "null"))
Tags.add_representer(Override, lambda dumper, data: dumper.represent_sequence("!override", data))


def said(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    ).stdout


def until(true: Callable[[], Any], what: str, seconds: float) -> Any:
    """The first true value.

    Raises:
        SystemExit: there is none in time.
    """
    deadline = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:.0f} s: {what}")
        time.sleep(1)
    return found


@contextmanager
def step(name: str) -> Iterator[Callable[[str], None]]:
    """Says what is done, with what it found and its seconds."""
    began = time.monotonic()
    found: list[str] = []
    yield found.append
    print(f"{name}: {'; '.join(found) or 'done'} ({time.monotonic() - began:.0f} s)", flush=True)


def receiver(stack: Stack) -> ThreadingHTTPServer:
    """The webhook, on all addresses of this machine: containers reach it by the gateway."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            stack.alerts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("0.0.0.0", stack.hook), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def build(stack: Stack) -> None:
    """Images, their sizes and labels; nothing is built again for a comment."""
    with step("images are built") as found:
        stack.compose("build", "server", "worker-cpu")
        for image in ("sifthinker-server:0.1.0", "sifthinker-worker:0.1.0"):
            [one] = json.loads(said("docker", "image", "inspect", image))
            commit = one["Config"]["Labels"]["org.opencontainers.image.revision"]
            found(f"{image} {one['Size'] / 1e9:.2f} GB, commit {commit[:12]}")


def up(stack: Stack) -> None:
    """Server, database, deployments, workers."""
    with step("the stack is up") as found:
        stack.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", "900", "server")
        refused = httpx.post(f"http://127.0.0.1:{stack.ui}/api/flows/filter", json={}, timeout=60)
        assert refused.status_code in (401, 403), refused.status_code
        stack.compose("up", "--detach", "--no-build")
        limits = {pool["name"]: pool["concurrency_limit"] for pool in stack.ask("work_pools/filter", {})}
        assert limits == {"cpu": None, "gpu-1": 1, "gpu-8": 1}, limits
        for pool in limits:
            until(lambda pool=pool: online(stack, pool), f"a worker of {pool} is online", 600)
        found(f"limits {limits}; {len(stack.ask('deployments/filter', {}))} deployments")
        found(f"{len(stack.ask('automations/filter', {}))} automations")


def online(stack: Stack, pool: str) -> list[str]:
    """The live workers of a pool."""
    return [
        one["name"] for one in stack.ask(f"work_pools/{pool}/workers/filter", {}) if one["status"] == "ONLINE"
    ]


def reproduce(stack: Stack) -> None:
    """A whole reproduction, its GPU stages in the containers of their pools."""
    with step("a reproduction in pools") as found:
        ended = stack.sif().wait()
        if ended:
            raise SystemExit((stack.folder / "sif.log").read_text(encoding="utf-8")[-4000:])
        [run] = stack.runs("reproduce")
        stages = stack.runs("stage")
        assert run["state_type"] == "COMPLETED" and {s["state_type"] for s in stages} == {"COMPLETED"}
        where = sorted(
            {(s["work_pool_name"], (s["infrastructure_pid"] or "?").split(":")[0]) for s in stages}
        )
        logs = stack.ask(
            "logs/filter", {"logs": {"flow_run_id": {"any_": [s["id"] for s in stages]}}, "limit": 200}
        )
        assert logs, "a stage's log reaches the server"
        found(f"{len(stages)} stages in {where}; {len(logs)} lines of log")


def night(stack: Stack) -> None:
    """A night that the schedule starts, and its alert."""
    with step("a scheduled night") as found:
        [deployment] = stack.ask("deployments/filter", {"deployments": {"name": {"any_": ["nightly"]}}})
        schedule = deployment["schedules"][0]["id"]
        soon = {"schedule": {"interval": 60}, "active": True}
        stack.ask(f"deployments/{deployment['id']}/schedules/{schedule}", soon, "PATCH")

        def ended() -> list[dict[str, Any]]:
            runs = [run for run in stack.runs("nightly") if run["auto_scheduled"]]
            return [run for run in runs if run["state_type"] in FINAL]

        [run, *_] = until(ended, "a scheduled night has ended", 600)
        stack.ask(f"deployments/{deployment['id']}/pause_deployment", {})
        found(f"{run['state_name']} by {run['created_by']['type']}, queue {run['work_queue_name']}")
        if run["state_name"] != "Completed":
            until(lambda: told(stack, run["id"]), "its alert", 60)
            found(f"alert: {told(stack, run['id'])[0]['text'][:120]}")


def told(stack: Stack, run: str) -> list[dict[str, Any]]:
    """The alerts of a run."""
    return [alert for alert in stack.alerts if alert["run"] == run]


def training(stack: Stack) -> str:
    """The id of the stage's run that trains, once it has made some steps."""

    def steps() -> str:
        [newest, *_] = stack.runs("stage")
        if newest["state_type"] != "RUNNING" or newest["work_pool_name"] != "gpu-8":
            return ""
        find = "cat artifacts/sft/*.work/status.json"
        status = said("docker", "exec", f"{PROJECT}-worker-cpu-1", "sh", "-c", find)
        return str(newest["id"]) if '"step": ' in status and '"step": 0' not in status else ""

    return str(until(steps, "the training makes steps", 900))


def checkpoints(stack: Stack) -> list[str]:
    """Of the training that is under way."""
    find = "ls -d artifacts/sft/*.work/checkpoint-* artifacts/sft/*.work/*/checkpoint-* 2>/dev/null"
    return said("docker", "exec", f"{PROJECT}-worker-cpu-1", "sh", "-c", find).split()


def interrupted(stack: Stack, how: str) -> None:
    """The worker of a training is stopped or killed in the middle of it, and started again; the run goes on to its end."""
    with step(f"the training's worker is {how} and started again") as found:
        flow = stack.sif("--refresh", "sft", "--stop-after", "sft")
        run = training(stack)
        began = time.monotonic()
        if how == "stopped":
            stack.compose("stop", "worker-gpu-8")
            found(f"stopped in {time.monotonic() - began:.0f} s")
        else:
            said("docker", "kill", "--signal", "KILL", f"{PROJECT}-worker-gpu-8-1")
        until(lambda: stack.ask(f"flow_runs/{run}")["state_type"] in FINAL, "its run is closed", 120)
        state = stack.ask(f"flow_runs/{run}")["state"]
        found(f"run {state['name']} after {time.monotonic() - began:.0f} s: {state['message']}")
        found(f"{len(checkpoints(stack))} checkpoints")
        stack.compose("start", "worker-gpu-8")
        ended = flow.wait()
        [parent, *_] = stack.runs("reproduce")
        found(f"the flow went on: {parent['state_name']}, exit {ended}")
        if ended:
            raise SystemExit((stack.folder / "sif.log").read_text(encoding="utf-8")[-4000:])


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, help="for the override file, logs and data; default: a temporary one"
    )
    parser.add_argument("--keep", action="store_true", help="leave the stack and its volumes")
    options = parser.parse_args()
    if not said("docker", "compose", "version"):
        sys.exit("docker compose is not here: install Docker with Compose 2.24 or newer")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="sif-containers-"))
    folder.mkdir(parents=True, exist_ok=True)
    stack = Stack(folder.resolve())
    hook = receiver(stack)
    try:
        build(stack)
        up(stack)
        reproduce(stack)
        night(stack)
        interrupted(stack, "stopped")
        interrupted(stack, "killed")
        print(f"alerts: {[(alert['deployment'], alert['outcome']) for alert in stack.alerts]}")
        print(f"all passed; UI: http://127.0.0.1:{stack.ui}, logs: {folder}")
    finally:
        (folder / "compose.log").write_text(
            stack.compose("logs", "--no-color", check=False), encoding="utf-8"
        )
        hook.shutdown()
        if not options.keep:
            stack.compose("down", "--volumes", "--timeout", "20", check=False)


if __name__ == "__main__":
    main()
