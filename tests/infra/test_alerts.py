"""A night that went wrong calls a webhook, once, with what a person needs to know; other runs call nobody."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from infra import alerts
from tests.infra.conftest import ROOT, Composed

pytestmark = pytest.mark.e2e
SECRET = "/services/not-a-real-address"


@pytest.fixture(scope="module")
def received() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a receiver, and the bodies that it got."""
    bodies: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == SECRET and self.headers["Content-Type"] == "application/json"
            bodies.append(json.loads(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{SECRET}", bodies
    server.shutdown()


def register(composed: Composed, url: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "infra.alerts"],
        cwd=ROOT,
        env={**composed.environment, alerts.URL: url},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    return done.stdout


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    """The answer; asked again while a busy server says 503, as Prefect's own client does."""
    while (answer := client.post(path, json=body)).status_code == 503:
        time.sleep(1)
    return answer.raise_for_status().json()


def run(client: httpx.Client, deployment: str, state: dict[str, str]) -> str:
    """A run of a deployment that ends in a state; its id."""
    made = post(client, f"deployments/{deployment}/create_flow_run", {})["id"]
    for step in ({"type": "RUNNING"}, state):
        post(client, f"flow_runs/{made}/set_state", {"state": step, "force": True})
    return str(made)


def untaken(client: httpx.Client, deployment: str) -> str:
    """A run that no worker takes, and that the server therefore marks as Late; its id."""
    due = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": due}}
    return str(post(client, f"deployments/{deployment}/create_flow_run", {"state": state})["id"])


@pytest.fixture
def deployments(composed: Composed) -> Iterator[tuple[str, str]]:
    """Ids of the night's deployment and of another; removed again, and alerts too: the server is shared."""
    with composed.client() as client:
        flow = post(client, "flows/", {"name": "alerts-test"})["id"]
        body = {"flow_id": flow, "enforce_parameter_schema": False}
        night, other = (
            str(post(client, "deployments/", {"name": name, **body})["id"])
            for name in (alerts.DEPLOYMENT, "another")
        )
        yield night, other
        made = [f"deployments/{night}", f"deployments/{other}"]
        for path in [*made, *(f"automations/{a['id']}" for a in post(client, "automations/filter", {}))]:
            while client.delete(path).status_code == 503:
                time.sleep(1)


def test_a_night_that_went_wrong_is_told_once(
    composed: Composed, received: tuple[str, list[dict[str, Any]]], deployments: tuple[str, str]
) -> None:
    (url, bodies), (night, other) = received, deployments
    assert "registered" in register(composed, url)
    assert "renewed" in register(composed, url)
    with composed.client() as client:
        assert SECRET not in client.post("block_documents/filter", json={}).text
        assert len(client.post("automations/filter", json={}).json()) == 1
        time.sleep(5)  # the server looks for new automations
        run(client, night, {"type": "COMPLETED"})
        run(client, other, {"type": "FAILED"})
        told = {
            run(
                client, night, {"type": kind, "name": name, "message": 'vstar "fell" from 60.0 to 40.0'}
            ): name
            for kind, name in (
                ("FAILED", "Regressed"),
                ("CRASHED", "Crashed"),
                ("FAILED", "Failed"),
                ("FAILED", "NotRun"),
                ("FAILED", "TimedOut"),
                ("FAILED", "UserError"),
                ("FAILED", "Inconclusive"),
                ("COMPLETED", "Warned"),
            )
        }
        told[untaken(client, night)] = "Late"
        deadline = time.monotonic() + 120
        while len(bodies) < len(told) and time.monotonic() < deadline:
            time.sleep(0.5)
        time.sleep(5)  # for one too many
    assert {body["run"]: body["state"] for body in bodies} == told
    assert len(bodies) == len(told)
    for body in bodies:
        assert body["deployment"] == alerts.DEPLOYMENT
        assert body["message"] == ("" if body["state"] == "Late" else 'vstar "fell" from 60.0 to 40.0')
        assert body["state"] in body["text"] and body["message"] in body["text"]
        assert body["run"] in body["url"]
