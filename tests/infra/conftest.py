"""A Prefect server with the settings of the composed one, and a plain one with a worker."""

import base64
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from flows import server
from sifthinker.system.processes import end
from tests.faults.conftest import PrefectServer, started
from tests.infra import image
from tests.infra.deployed import deploy
from tests.machine import free_port

ROOT = Path(__file__).resolve().parents[2]
COMPOSED = (
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_SERVER_CSRF_PROTECTION_ENABLED",
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS",
    "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE",
)


class Patient(httpx.HTTPTransport):
    """Asks again while a busy server says 503, as Prefect's own client does."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        for _ in range(60):
            answer = super().handle_request(request)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            answer.close()
            time.sleep(1)
        return answer


@dataclass(frozen=True)
class Composed:
    """A running server: its API, its credentials, and an environment for programs that use it."""

    api: str
    credentials: str
    environment: dict[str, str]

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """Sends the credentials and a CSRF token, as the UI does; a client of its own, whose token no other renews."""
        name = uuid.uuid4().hex
        basic = base64.b64encode(self.credentials.encode()).decode()
        headers = {"Authorization": f"Basic {basic}"}
        with httpx.Client(
            base_url=f"{self.api}/", headers=headers, timeout=240, transport=Patient()
        ) as client:
            token = client.get("csrf-token", params={"client": name}).raise_for_status().json()["token"]
            client.headers.update({"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": name})
            yield client


@pytest.fixture(scope="session")
def composed(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[Composed]:
    """Started with what compose.yaml says of authentication, CSRF, origins and the order of events; SQLite instead of PostgreSQL."""
    port = free_port()
    home = tmp_path_factory.mktemp("composed")
    shutil.copy(prefect_database, home)
    settings = yaml.safe_load((ROOT / "infra/compose.yaml").read_text())["services"]["server"]["environment"]
    credentials = "tester:not-a-real-password"
    filled = {name: settings[name] for name in COMPOSED} | {"PREFECT_SERVER_API_AUTH_STRING": credentials}
    api = f"http://127.0.0.1:{port}/api"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {
        **inherited,
        "PREFECT_API_URL": api,
        "PREFECT_API_AUTH_STRING": credentials,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env={**environment, **filled},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + server.START
        while not server.answers(api):
            assert process.poll() is None and time.monotonic() < deadline, (home / "server.log").read_text()
            time.sleep(0.2)
        yield Composed(api, credentials, environment)
    finally:
        end(process.pid)


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A fresh server on which a container `deploy` registered the deployments; waits that are for people are short."""
    short = {
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "10",
    }
    container = image.build("worker.Dockerfile", tmp_path_factory.mktemp("image"))
    with started(tmp_path_factory.mktemp("prefect-relied-on"), short) as running:
        assert "alerts:" in deploy(running, container)
        yield running


@pytest.fixture(scope="module")
def worker(prefect: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A worker of pool cpu as compose.yaml starts it; the port of its health page."""
    folder, port = tmp_path_factory.mktemp("worker"), free_port()
    environment = {
        **prefect.environment,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
        "PREFECT_WORKER_WEBSERVER_PORT": str(port),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    }
    command = ["-m", "prefect", "worker", "start", "--pool", "cpu", "--type", "process", "--with-healthcheck"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    yield port
    end(process.pid)
