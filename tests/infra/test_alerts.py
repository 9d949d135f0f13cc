"""A webhook hears once of each run that went wrong, of each that is late, and of recovery: what, where, and a link."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import patch

import httpx
import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.events import Event
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows import nightly, server
from infra import alert_triggers, alerts
from infra.automations import RETIRED
from sifthinker.core.errors import UserError
from sifthinker.upkeep.findings import Finding
from tasks.operations import alert_calls
from tasks.runtime import liveness
from tests.infra.conftest import ROOT, Composed

SECRET = "/services/not-a-real-address"
UI = "https://prefect.example.org"  # as browsers reach it
ORDER = "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING"
FELL = 'vstar <"fell"> from 60.0 to 40.0 & no wonder'
DEPLOYMENTS = yaml.safe_load((ROOT / "infra/prefect.yaml").read_text(encoding="utf-8"))["deployments"]
WHOLE = sorted(d["name"] for d in DEPLOYMENTS if not d["entrypoint"].endswith(":stage"))
ENDS = (
    ("FAILED", "Regressed"),
    ("CRASHED", "Crashed"),
    ("FAILED", "Failed"),
    ("FAILED", "UserError"),
    ("FAILED", "NotRun"),
    ("FAILED", "TimedOut"),
    ("FAILED", "Inconclusive"),
    ("COMPLETED", "Warned"),
    ("COMPLETED", "Skipped"),
)


@dataclass
class Receiver:
    """A webhook, and the bodies that it got."""

    url: str = ""
    status: int = 200  # of its answers
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def take(self, count: int, seconds: float = 120) -> list[dict[str, Any]]:
        """The first so many bodies, which are forgotten here. One too many is among the next, and fails that test or `quiet`."""
        deadline = time.monotonic() + seconds
        while len(self.bodies) < count and time.monotonic() < deadline:
            time.sleep(0.1)
        taken, self.bodies[:] = self.bodies[:count], self.bodies[count:]
        assert len(taken) == count, taken
        return taken

    def quiet(self) -> None:
        """Nothing more is told."""
        time.sleep(4)
        assert not self.bodies

    def about(self, runs: list[str], seconds: float = 120) -> dict[str, dict[str, Any]]:
        """A body about each of these runs, whatever else is told meanwhile (of runs of the tests before)."""
        deadline = time.monotonic() + seconds
        while True:
            told = {json.dumps(body).partition("/runs/flow-run/")[2][:36]: body for body in list(self.bodies)}
            if set(runs) <= set(told):
                self.bodies.clear()
                return {run: told[run] for run in runs}
            assert time.monotonic() < deadline, told
            time.sleep(0.3)


@pytest.fixture(scope="module")
def received() -> Iterator[Receiver]:
    got = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == SECRET and self.headers["Content-Type"] == "application/json"
            got.bodies.append(json.loads(body))
            self.send_response(got.status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    got.url = f"http://127.0.0.1:{server.server_port}{SECRET}"
    yield got
    server.shutdown()


def register(composed: Composed, url: str, shape: str, module: str = "-m infra.automations") -> str:
    """What `make deploy` does, or its last step alone; what it said."""
    done = subprocess.run(
        [sys.executable, *module.split()],
        cwd=ROOT,
        env={**composed.environment, alerts.URL: url, alerts.FORMAT: shape, "PREFECT_UI_URL": UI},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    time.sleep(5)  # the server looks for new automations
    return done.stdout


@pytest.fixture(scope="module")
def deployed(composed: Composed, received: Receiver) -> Iterator[dict[str, str]]:
    """Ids of the deployments by name, after `make deploy` with an address; the server is shared, and forgets the alerts."""
    old = {
        "name": RETIRED[0],
        "enabled": False,  # it would answer every event, its own too
        "trigger": {"type": "event", "posture": "Reactive", "threshold": 1, "within": 0},
        "actions": [{"type": "do-nothing"}],
    }
    with composed.client() as client:
        post(client, "automations/", old)
    said = register(composed, received.url, "json", "infra/deploy.py")
    assert (
        said.count("alerts, as json: ") == len([*alert_triggers.alerts([], [])])
        and "of an earlier version is removed" in said
    )
    assert "answered a test message with 200" in said and received.take(1)[0]["state"] == "Test"
    with composed.client() as client:
        assert RETIRED[0] not in {one["name"] for one in post(client, "automations/filter", {})}
        yield {d["name"]: d["id"] for d in post(client, "deployments/filter", {})}
        try:
            received.quiet()
        finally:
            for automation in post(client, "automations/filter", {}):
                while client.delete(f"automations/{automation['id']}").status_code == 503:
                    time.sleep(1)


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    """The answer; asked again while a busy server says 503, as Prefect's own client does."""
    while (answer := client.post(path, json=body)).status_code == 503:
        time.sleep(1)
    return answer.raise_for_status().json()


def run(client: httpx.Client, deployment: str, *ends: tuple[str, str], message: str = FELL) -> str:
    """A run of a deployment that goes through states; its id."""
    made = post(client, f"deployments/{deployment}/create_flow_run", {"enforce_parameter_schema": False})[
        "id"
    ]
    for kind, name in (("RUNNING", "Running"), *ends):
        state = {"type": kind, "name": name, "message": message}
        post(client, f"flow_runs/{made}/set_state", {"state": state, "force": True})
    return str(made)


def untaken(client: httpx.Client, deployment: str, *tags: str) -> str:
    """A run that no worker takes, and that the server therefore marks as Late; its id."""
    due = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": due}}
    body = {"state": state, "tags": tags, "enforce_parameter_schema": False}
    return str(post(client, f"deployments/{deployment}/create_flow_run", body)["id"])


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_each_deployment_tells_once_of_what_went_wrong_and_of_its_recovery(
    composed: Composed, received: Receiver, deployed: dict[str, str]
) -> None:
    again = register(composed, received.url, "json")
    assert "renewed" in again and "the webhook is the one that was registered" in again
    with composed.client() as client:
        assert SECRET not in client.post("block_documents/filter", json={}).text
        for name in WHOLE:
            run(client, deployed[name], ("COMPLETED", "Completed"))  # nobody is told: nothing was wrong
        wrong = {run(client, deployed[name], ("FAILED", "Failed")): name for name in WHOLE}
        run(client, deployed["gpu-8"], ("CRASHED", "Crashed"))  # a stage: its run tells
        run(client, deployed["nightly"], ("CANCELLED", "Cancelled"))  # somebody did that
        lost = run(
            client,
            deployed["nightly"],
            ("CANCELLED", "Cancelled"),
            message=f"{alert_triggers.PLACE_LOST} - none left",
        )
        wrong[lost] = "nightly"
        told = received.take(len(wrong))
        assert {body["run"]: body["deployment"] for body in told} == wrong
        well = {run(client, deployed[name], ("COMPLETED", "Completed")): name for name in WHOLE}
        recovered = received.take(len(well))
        assert {body["run"]: body["deployment"] for body in recovered} == well
        assert {body["outcome"] for body in recovered} == {"Recovered"}
        run(client, deployed["nightly"], ("COMPLETED", "Completed"))
        received.quiet()


@pytest.mark.e2e
def test_a_night_tells_what_happened_where_and_links_to_its_page(
    composed: Composed, received: Receiver, deployed: dict[str, str]
) -> None:
    with composed.client() as client:
        wrong = {run(client, deployed["nightly"], end): end[1] for end in ENDS}
        told = received.take(len(wrong))
        assert {body["run"]: body["state"] for body in told} == wrong
        for body in told:
            assert body["outcome"] == body["state"] and body["message"] == FELL
            assert (body["deployment"], body["flow"], body["pool"]) == ("nightly", "nightly", "cpu")
            assert body["url"] == f"{UI}/runs/flow-run/{body['run']}" and body["due"] and body["name"]
            assert all(part in body["text"] for part in ("nightly", body["state"], FELL, body["url"]))


@pytest.mark.e2e
def test_a_scheduled_run_that_no_worker_takes_is_told_of_and_one_that_somebody_started_is_not(
    composed: Composed, received: Receiver, deployed: dict[str, str]
) -> None:
    with composed.client() as client:
        by_hand = untaken(client, deployed["prune"])
        scheduled = untaken(client, deployed["prune"], "auto-scheduled")
        [late] = received.take(1)
        assert late["run"] == scheduled and late["state"] == "Late" and "no worker" in late["outcome"]
        assert late["url"] == f"{UI}/runs/flow-run/{scheduled}"
        assert post(client, "flow_runs/filter", {"flow_runs": {"id": {"any_": [by_hand]}}})[0][
            "state_name"
        ] in ("Late", "Scheduled")


@pytest.mark.e2e
def test_a_run_whose_stage_waits_for_a_pool_without_a_worker_is_told_of(
    composed: Composed, received: Receiver, deployed: dict[str, str]
) -> None:
    """The run says so itself (tests/tasks/test_unserved.py: when)."""
    with composed.client() as client:
        night, other = run(client, deployed["nightly"]), run(client, deployed["cpu"])
        for one in (night, other):  # the second is a stage: nobody waits for it in a pool
            found = FlowRun.model_validate(client.get(f"flow_runs/{one}").raise_for_status().json())
            with patch.object(liveness, "emit_event") as sent:
                liveness.emit(liveness.NO_WORKER, found, {"message": "evaluate waits for pool gpu-1"})
            event = Event(**sent.call_args.kwargs).model_dump(mode="json")
            client.post("events", json=[event]).raise_for_status()
    [told] = received.take(1)
    assert told["run"] == night and told["deployment"] == "nightly" and told["flow"] == "nightly"
    assert told["outcome"] == "Waits: no worker takes its stage"
    assert told["message"] == "evaluate waits for pool gpu-1" and told["state"] == "Running"


@pytest.mark.e2e
def test_a_run_that_a_schedule_has_just_made_is_told_of_within_a_minute(
    composed: Composed, received: Receiver, deployed: dict[str, str]
) -> None:
    """Prefect sends no event of the state that a schedule gives a run, and by itself waits for it for 15 minutes."""
    made = {
        "deployments": {"name": {"any_": ["prune"]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    with composed.client() as client:
        deadline = time.monotonic() + 120
        while not (found := [r for r in post(client, "flow_runs/filter", made) if r["auto_scheduled"]]):
            assert time.monotonic() < deadline, "the schedule made no run"
            time.sleep(1)
        scheduled = found[0]
        age = datetime.now(UTC) - datetime.fromisoformat(scheduled["state"]["timestamp"])
        assert age < timedelta(minutes=5), "else its first event names none before it"
        for kind, name in (("PENDING", "Pending"), ("RUNNING", "Running"), ("FAILED", "Failed")):
            state = {"type": kind, "name": name, "message": FELL}
            post(client, f"flow_runs/{scheduled['id']}/set_state", {"state": state, "force": True})
        [told] = received.take(1, 60)
    assert told["run"] == scheduled["id"] and told["outcome"] == "Failed"


def test_every_server_that_we_start_keeps_no_event_back_for_long() -> None:
    module = "tasks.runtime.event_order"
    composed = yaml.safe_load((ROOT / "infra/compose.yaml").read_text(encoding="utf-8"))
    assert composed["services"]["server"]["environment"][ORDER] == module
    assert server._guarded("http://127.0.0.1:4200/api")[ORDER] == module
    kubernetes = (ROOT / "infra/kubernetes/base/server.yaml").read_text(encoding="utf-8")
    assert f"{{name: {ORDER}, value: {module}}}" in kubernetes
    # In a process of its own: the module changes Prefect's.
    line = f"from prefect.server.events.ordering import memory; import {module} as ours; print(memory.PRECEDING_EVENT_LOOKBACK == ours.WAIT)"
    done = subprocess.run([sys.executable, "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.e2e
def test_slack_gets_what_slack_takes(
    composed: Composed, received: Receiver, deployed: dict[str, str]
) -> None:
    """The rules of https://docs.slack.dev/reference/block-kit/blocks: lengths, kinds, and what is markup."""
    assert "alerts, as slack" in register(composed, received.url, "slack")
    assert "blocks" in received.take(1)[0]  # a test message: the format is new
    with composed.client() as client:
        ids = [
            run(client, deployed["nightly"], ("FAILED", "Regressed")),
            run(client, deployed["training"], ("FAILED", "Failed"), message="<&>" * 4000),
        ]
    bodies = received.about(ids)
    for body in bodies.values():
        assert set(body) == {"text", "blocks"} and len(body["text"]) <= 40000
        section, context = body["blocks"]
        assert section["type"] == "section" and 1 <= len(section["text"]["text"]) <= 3000
        assert context["type"] == "context" and len(context["elements"]) <= 10
        for element in (section["text"], *context["elements"]):
            assert element["type"] == "mrkdwn" and element["text"]
    regressed = bodies[ids[0]]
    escaped = FELL.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert regressed["text"] == regressed["blocks"][0]["text"]["text"] == f"nightly: Regressed. {escaped}"
    where, link = (element["text"] for element in regressed["blocks"][1]["elements"])
    assert "pool cpu" in where
    assert link == f"<{UI}/runs/flow-run/{ids[0]}|Open the run>"
    longest = bodies[ids[1]]["text"]
    assert not re.sub("&(amp|lt|gt);", "", longest.partition(". ")[2]).strip("."), "no half of an entity"
    assert len(longest) > 2000


@pytest.mark.e2e
def test_doctor_tells_of_alerts_that_the_webhook_refused(
    composed: Composed, received: Receiver, deployed: dict[str, str]
) -> None:
    """Prefect says of such a call that it was executed."""
    with temporary_settings({PREFECT_API_URL: composed.api, PREFECT_API_AUTH_STRING: composed.credentials}):
        received.status = 404
        with composed.client() as client:
            run(client, deployed["nightly"], ("FAILED", "Failed"))
        received.take(1)
        refused = verdict("error")
        received.status = 200
        with composed.client() as client:
            run(client, deployed["nightly"], ("FAILED", "Failed"))
        received.take(1)
        again = verdict("warning")
    assert refused.found.endswith("the webhook answered 404")
    lost = refused.found.partition(" of ")[0]  # with those of the tests before
    assert again.found.startswith(f"{lost} of ") and again.found.endswith("404"), "it takes them again"


def verdict(wanted: str) -> Finding:
    """What doctor says of the alerts, once it says so: the server writes its events down every few seconds."""
    deadline = time.monotonic() + 60
    while (found := [*alert_calls.alerts()])[0].verdict != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    return found[0]


def test_the_names_are_those_of_the_flows_states() -> None:
    ours = {*nightly.FAILED.values(), nightly.WARNED, nightly.SKIPPED}
    assert ours <= set(alert_triggers.WRONG)
    assert not set(alert_triggers.WELL) & set(alert_triggers.WRONG)


@pytest.mark.parametrize(
    ("url", "wanted", "shape"),
    [
        ("https://hooks.slack.com/services/T/B/x", "", "slack"),
        ("https://hooks.slack.com/services/T/B/x", "json", "json"),
        ("https://example.org/hooks.slack.com", "", "json"),
        ("https://example.org/", "slack", "slack"),
    ],
)
def test_the_address_decides_the_format_unless_it_is_named(url: str, wanted: str, shape: str) -> None:
    assert alerts.form(url, wanted) == shape


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="'teams' is none of json, slack"):
        alerts.form("https://example.org/", "teams")


def test_what_is_no_address_is_refused_and_not_shown() -> None:
    with pytest.raises(UserError, match="SIF_ALERT_URL: it is no address") as refused:
        alerts.form("hooks.slack.com/services/secret", "")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("variables", "link"),
    [
        ({"PREFECT_UI_URL": "https://p.example.org/"}, "https://p.example.org/runs/flow-run/"),
        ({"PREFECT_API_URL": "http://127.0.0.1:4200/api"}, "http://127.0.0.1:4200/runs/flow-run/"),
    ],
)
def test_the_link_is_the_address_for_browsers(
    variables: dict[str, str], link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFECT_UI_URL", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert alerts.base() == link
