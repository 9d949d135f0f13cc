"""A night that went wrong calls a webhook, once, with what a person needs to know; other runs call nobody."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
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


def run(client: httpx.Client, deployment: str, state: dict[str, str]) -> str:
    """A run of a deployment that ends in a state; its id."""
    made = client.post(f"deployments/{deployment}/create_flow_run", json={}).raise_for_status().json()["id"]
    for step in ({"type": "RUNNING"}, state):
        client.post(f"flow_runs/{made}/set_state", json={"state": step, "force": True}).raise_for_status()
    return str(made)


def test_a_night_that_went_wrong_is_told_once(
    composed: Composed, received: tuple[str, list[dict[str, Any]]]
) -> None:
    url, bodies = received
    assert "registered" in register(composed, url)
    assert "renewed" in register(composed, url)
    with composed.client() as client:
        flow = client.post("flows/", json={"name": "alerts-test"}).json()["id"]
        night, other = (
            client.post(
                "deployments/", json={"name": name, "flow_id": flow, "enforce_parameter_schema": False}
            )
            .raise_for_status()
            .json()["id"]
            for name in (alerts.DEPLOYMENT, "another")
        )
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
            )
        }
        deadline = time.monotonic() + 120
        while len(bodies) < len(told) and time.monotonic() < deadline:
            time.sleep(0.5)
        time.sleep(5)  # for one too many
        for made in (night, other):
            client.delete(f"deployments/{made}").raise_for_status()
    assert {body["run"]: body["state"] for body in bodies} == told
    assert len(bodies) == len(told)
    for body in bodies:
        assert body["deployment"] == alerts.DEPLOYMENT
        assert body["message"] == 'vstar "fell" from 60.0 to 40.0'
        assert body["state"] in body["text"] and body["message"] in body["text"]
        assert body["run"] in body["url"]
