"""The services of infra/compose.yaml under names, ports and volumes of their own, and what tests ask of them."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.machine import free_port

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "sifthinker-test"
POOLS = ("cpu", "gpu-1", "gpu-8")
GPUS = ("worker-gpu-1", "worker-gpu-8")
IMAGES = ("server", "worker", "train")
SERVED = "http://vllm:8000/v1"  # in the network of the services
TOLD = 180  # seconds in which an alert must come on busy cores; one that is held back takes 15 minutes
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
# A webhook's receiver: keeps the bodies that it is sent, and shows them.
RECEIVER = """
import json, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

got = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        got.append({"at": time.time(), **body})
        self.answer({})

    def do_GET(self):
        self.answer(got)

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


class Reset:
    """Compose's `!reset`: leaves out what the file before says."""


class Override(list[str]):
    """Compose's `!override`: takes the place of what the file before says."""


class Tags(yaml.SafeDumper):
    """Writes both."""


Tags.add_representer(Reset, lambda dumper, _: dumper.represent_scalar("!reset", "null"))
Tags.add_representer(Override, lambda dumper, data: dumper.represent_sequence("!override", data))


def docker(*arguments: str, check: bool = True, environment: Mapping[str, str] | None = None) -> str:
    """What `docker ARGUMENTS` says."""
    done = subprocess.run(
        ["docker", *arguments],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    said = done.stdout + done.stderr
    assert not check or done.returncode == 0, f"docker {shlex.join(arguments)}\n{said[-4000:]}"
    return said


def without_docker() -> str:
    """Why these tests cannot run here; "" where they can."""
    try:
        docker("version")
        docker("compose", "version")
    except FileNotFoundError:
        return "there is no docker"
    except AssertionError as error:
        return " ".join(str(error).split())[-160:]
    return ""


def until(true: Callable[[], Any], what: str, seconds: float) -> Any:
    """The first true value."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(1)
    return found


@contextmanager
def step(name: str) -> Iterator[Callable[[str], None]]:
    """Prints what is done, with what it found and its seconds."""
    began, found = time.monotonic(), list[str]()
    yield found.append
    print(f"\n{name} ({time.monotonic() - began:.0f} s): {'; '.join(found) or 'done'}", flush=True)


def inside(stack: Stack, name: str) -> list[str]:
    """Looks at an image: its user, commit and size, which are printed. The torch distributions that it has."""
    [one] = json.loads(docker("image", "inspect", stack.image(name)))
    assert one["Config"]["User"] == "10001:10001"
    commit = one["Config"]["Labels"]["org.opencontainers.image.revision"]
    assert commit != "unknown"
    look = "import glob; print(*(f for at in ('/usr/local', '/opt/*') for f in glob.glob(at + '/lib/*/*/torch-*.dist-info')))"
    found = docker("run", "--rm", "--entrypoint", "python", stack.image(name), "-c", look).split()
    print(f"{name}: {one['Size'] / 1e9:.2f} GB, torch {found}, commit {commit[:12]}")
    return found


@dataclass
class Stack:
    """The composed services."""

    folder: Path
    ui: int = field(default_factory=free_port)
    pages: int = field(default_factory=free_port)
    metrics: int = field(default_factory=free_port)
    hook: int = field(default_factory=free_port)
    serve: int = field(default_factory=free_port)
    credentials: str = field(default_factory=lambda: f"tester:{secrets.token_urlsafe(12)}+/=@:%")

    @classmethod
    def at_folder(cls, folder: Path) -> Stack:
        """The stack that an earlier try left running, by the ports and credentials that it wrote; else a new one."""
        file = folder / "stack.json"
        if file.is_file():
            return cls(folder, **json.loads(file.read_text(encoding="utf-8")))
        made = cls(folder)
        kept = {name: value for name, value in vars(made).items() if name != "folder"}
        file.write_text(json.dumps(kept), encoding="utf-8")
        return made

    def __post_init__(self) -> None:
        """Writes what differs from infra/compose.yaml: names, ports, workers of GPU pools without GPUs, a receiver."""
        build = {"network": "host"}  # of an index of packages on this machine
        cpu = {name: self.arguments("train")[name] for name in ("TORCH_INDEX_URL", "VLLM")}
        without_gpu = {"deploy": Reset(), "ulimits": Reset(), "shm_size": "1g", "image": self.image("train")}
        services: dict[str, dict[str, Any]] = {
            "server": {"ports": self.at(self.ui, 4200), "build": build, "image": self.image("server")},
            "deploy": {"image": self.image("server")},
            "worker-cpu": {"build": build, "image": self.image("worker")},
            "pages": {"ports": self.at(self.pages, 4201), "image": self.image("worker")},
            "metrics": {"ports": self.at(self.metrics, 9464), "image": self.image("worker")},
            **{name: {**without_gpu, "build": {**build, "args": cpu}} for name in GPUS},
            "vllm": {
                "deploy": Reset(),
                "shm_size": "1g",
                "image": self.image("serve"),
                "ports": self.at(self.serve, 8000),
                "build": {**build, "target": "cpu", "args": self.arguments("serve")},
            },
            "alerts": {
                "image": self.image("server"),
                "command": ["python", "-c", RECEIVER],
                "networks": ["pipeline"],
                "ports": [f"127.0.0.1:{self.hook}:8080"],
                "healthcheck": {"disable": True},
            },
        }
        text = yaml.dump({"services": services}, Dumper=Tags)
        (self.folder / "override.yaml").write_text(text, encoding="utf-8")
        (self.folder / "data").mkdir(exist_ok=True)

    @staticmethod
    def at(here: int, there: int) -> Override:
        """A port on this machine's loopback."""
        return Override([f"127.0.0.1:{here}:{there}"])

    @staticmethod
    def image(name: str) -> str:
        """Of these tests: what operators have built keeps its name."""
        return f"sifthinker-{name}:test"

    @staticmethod
    def arguments(name: str) -> dict[str, str]:
        """The build arguments of an image, but for the commit."""
        given = {variable: os.environ.get(variable, "") for variable in ("PYTHON_IMAGE", "TORCH_INDEX_URL")}
        return given | ({"VLLM": "no"} if name == "train" else {})

    def compose(self, *arguments: str, check: bool = True, model: str = "") -> str:
        """What `docker compose ARGUMENTS` says; with a model, a folder of the store, also to the service that serves it."""
        files = ["-f", str(ROOT / "infra/compose.yaml"), "-f", str(self.folder / "override.yaml")]
        names = ("gpu-1", "gpu-8", "metrics", *(("serve",) if model else ()))
        profiles = [word for name in names for word in ("--profile", name)]
        commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
        environment = {
            "PREFECT_SERVER_API_AUTH_STRING": self.credentials,
            "POSTGRES_PASSWORD": "a-password/with+signs=@",
            "SIF_UI_ORIGIN": self.origin,
            "SIF_PAGES_URL": f"http://127.0.0.1:{self.pages}",
            "SIF_ALERT_URL": "http://alerts:8080/",
            "SIF_DATA": str(self.folder / "data"),
            "SIF_COMMIT": commit.stdout.strip() or "unknown",
            "SIF_MODEL": model,
        }
        command = ("compose", "--project-name", PROJECT, *files, *profiles, *arguments)
        return docker(*command, check=check, environment=environment)

    @property
    def origin(self) -> str:
        """The address of the UI."""
        return f"http://127.0.0.1:{self.ui}"

    def inside(self, service: str, *command: str, check: bool = True) -> str:
        """What a command says in the container of a service."""
        return docker("exec", f"{PROJECT}-{service}-1", *command, check=check)

    def ask(self, path: str, body: Any = None, method: str = "") -> Any:
        """The server's answer; asked again while it is busy, and where nothing is changed after an error of its own, too."""
        busy = (
            (503,) if body is not None or method else (500, 503)
        )  # 500: its database did not answer in time
        name, _, password = self.credentials.partition(":")
        with httpx.Client(base_url=f"{self.origin}/api/", auth=(name, password), timeout=60) as client:
            me = secrets.token_hex(8)  # a token is one client's, and a second one takes its place
            while (token := client.get("csrf-token", params={"client": me})).status_code in (500, 503):
                time.sleep(1)
            given = token.raise_for_status().json()["token"]
            client.headers.update({"Prefect-Csrf-Token": given, "Prefect-Csrf-Client": me})
            while True:
                answer = client.request(method or ("GET" if body is None else "POST"), path, json=body)
                if answer.status_code not in busy:
                    return answer.raise_for_status().json() if answer.content else None
                time.sleep(1)

    def online(self, pool: str) -> list[str]:
        """The live workers of a pool."""
        found = self.ask(f"work_pools/{pool}/workers/filter", {})
        return [one["name"] for one in found if one["status"] == "ONLINE"]

    def deployment(self, name: str) -> dict[str, Any]:
        """A deployment, by its name alone."""
        [found] = self.ask("deployments/filter", {"deployments": {"name": {"any_": [name]}}})
        return dict(found)

    def start(self, deployment: str, **parameters: Any) -> str:
        """Starts a run, as the form does; its id."""
        made = self.deployment(deployment)
        body = {"state": {"type": "SCHEDULED"}, "parameters": {**made["parameters"], **parameters}}
        return str(self.ask(f"deployments/{made['id']}/create_flow_run", body)["id"])

    def run(self, identifier: str) -> dict[str, Any]:
        """A run as the server knows it."""
        return dict(self.ask(f"flow_runs/{identifier}"))

    def ended(self, identifier: str, seconds: float) -> dict[str, Any]:
        """A run, once it has ended."""
        return dict(
            until(
                lambda: found if (found := self.run(identifier))["state_type"] in FINAL else None,
                f"run {identifier} has ended",
                seconds,
            )
        )

    def runs(self, flow: str, **of: Any) -> list[dict[str, Any]]:
        """Of a flow, the latest first."""
        wanted = {"flows": {"name": {"any_": [flow]}}, "flow_runs": of, "sort": "EXPECTED_START_TIME_DESC"}
        return list(self.ask("flow_runs/filter", wanted))

    def stages(self, parent: str, pools: Sequence[str] = POOLS) -> list[dict[str, Any]]:
        """The runs of stages in pools that a run has started, the latest first."""
        found = self.runs("stage", parent_flow_run_id={"any_": [parent]})
        return [one for one in found if one["work_pool_name"] in pools]

    def alerts(self, run: str) -> list[dict[str, Any]]:
        """What the receiver was told of a run; all of it for ""."""
        got = httpx.get(f"http://127.0.0.1:{self.hook}/", timeout=30).raise_for_status().json()
        return [alert for alert in got if run in ("", alert["run"])]

    def told(self, run: str, outcome: str) -> dict[str, Any]:
        """The one alert of an outcome of a run; it must come within seconds, and lead to the run's page."""
        got = until(
            lambda: [alert for alert in self.alerts(run) if alert["outcome"].partition(":")[0] == outcome],
            f"the alert {outcome} of {run}; there are {self.alerts('')}",
            TOLD,
        )
        assert len(got) == 1 and got[0]["url"] == f"{self.origin}/runs/flow-run/{run}", got
        return dict(got[0])

    def read(self, file: str) -> Any:
        """A JSON file of the store; None while it is not there."""
        said = self.inside("worker-cpu", "sh", "-c", f"cat artifacts/{file} 2>/dev/null", check=False)
        try:
            return json.loads(said)
        except ValueError:
            return None
