"""infra/prefect.yaml: what it says, and what a server makes of it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
import yaml
from prefect.server.schemas.schedules import CronSchedule

from flows.form import BEGINNING, END
from flows.labels import LABELS
from infra import interrupted
from sifthinker.config import load_text
from tests.infra.conftest import ROOT, Composed

FILE = yaml.safe_load((ROOT / "infra/prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS = {deployment["name"]: deployment for deployment in FILE["deployments"]}


@pytest.mark.e2e
def test_the_composed_server_refuses_who_has_no_credentials(composed: Composed) -> None:
    with composed.client() as client:
        token = {name: value for name, value in client.headers.items() if name.startswith("prefect-csrf")}
    for auth in (None, ("tester", "wrong")):
        for method, path, body in (
            ("GET", "admin/settings", None),
            ("GET", "csrf-token?client=test", None),  # else anybody could get past the CSRF check
            ("POST", "flow_runs/filter", {}),
            ("POST", "flows/", {"name": "no-credentials"}),
        ):
            answer = httpx.request(
                method, f"{composed.api}/{path}", json=body, headers=token, auth=auth, timeout=60
            )
            assert answer.status_code == 401, path
    assert httpx.get(f"{composed.api}/health", timeout=60).status_code == 200  # for probes
    with composed.client() as client:
        settings = client.get("admin/settings")
        assert settings.status_code == 200
        assert settings.json()["server"]["api"]["csrf_protection_enabled"] is True
        assert composed.credentials not in settings.text


@pytest.mark.e2e
def test_the_composed_server_refuses_a_change_without_a_csrf_token(composed: Composed) -> None:
    with composed.client() as client:
        assert client.post("flows/", json={"name": "with-token"}).is_success
        del client.headers["Prefect-Csrf-Token"]
        refused = client.post("flows/", json={"name": "without-token"})
        assert refused.status_code == 403
        assert "CSRF" in refused.text


@pytest.fixture(scope="module")
def deployed(composed: Composed) -> dict[str, dict[str, Any]]:
    """The deployments after `make deploy`, by name."""
    found = deploy(composed)
    with composed.client() as client:
        limits = {p["name"]: p["concurrency_limit"] for p in client.post("work_pools/filter", json={}).json()}
    assert limits == {"cpu": None, "gpu-1": 1, "gpu-8": 1}
    return found


def deploy(composed: Composed) -> dict[str, dict[str, Any]]:
    registered(composed)
    return by_name(composed)


def by_name(composed: Composed) -> dict[str, dict[str, Any]]:
    with composed.client() as client:
        return {d["name"]: d for d in client.post("deployments/filter", json={}).raise_for_status().json()}


def registered(composed: Composed) -> str:
    """What the command says."""
    ended = subprocess.run(
        [sys.executable, "infra/deploy.py"],
        cwd=ROOT,
        env=composed.environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@dataclass
class Again:
    """What `make deploy` made of what people had set, after a try that was killed; and what both said."""

    killed: str
    said: str
    deployments: dict[str, dict[str, Any]]
    added: dict[str, str]  # schedules, by the names of deployments


NOON = {"cron": "0 12 * * *", "timezone": "Europe/Berlin", "day_or": True}
GIVEN = {"nightly": {"tier": "quick"}, "reproduce": {}}  # with schedules in the file, and without
MINE = {"config": "mine", "set": "evaluate.limit=10"}


@pytest.fixture(scope="module")
def again(composed: Composed, deployed: dict[str, dict[str, Any]]) -> Iterator[Again]:
    """People change this and that, a first `make deploy` is killed while it registers, and a second one ends."""
    with composed.client() as client:
        night, training = deployed["nightly"], deployed["training"]
        schedules = f"deployments/{night['id']}/schedules"
        client.patch("work_pools/gpu-1", json={"concurrency_limit": 3}).raise_for_status()
        weekly = f"{schedules}/{scheduled(night)['every-week']['id']}"
        client.patch(weekly, json={"active": False}).raise_for_status()  # a pause of one schedule,
        client.post(f"deployments/{training['id']}/pause_deployment").raise_for_status()  # of a deployment
        client.patch(f"deployments/{night['id']}", json={"parameters": MINE}).raise_for_status()
        added = {}
        for name, parameters in GIVEN.items():  # as the UI does: without a slug
            body = [{"schedule": NOON, "active": False, "parameters": parameters}]
            path = f"deployments/{deployed[name]['id']}/schedules"
            added[name] = client.post(path, json=body).raise_for_status().json()[0]["id"]
        changed = f"{schedules}/{scheduled(night)['every-night']['id']}"
        client.patch(changed, json={"schedule": NOON}).raise_for_status()
        killed = killed_while_it_registers(composed)
        yield Again(killed, registered(composed), by_name(composed), added)
        for name, schedule in added.items():
            client.delete(f"deployments/{deployed[name]['id']}/schedules/{schedule}").raise_for_status()
        client.patch(
            f"deployments/{night['id']}", json={"parameters": night["parameters"]}
        ).raise_for_status()


def killed_while_it_registers(composed: Composed) -> str:
    """Starts the command, and kills it with what it started once it has resumed a paused deployment; what it said."""
    started = subprocess.Popen(
        [sys.executable, "infra/deploy.py"],
        cwd=ROOT,
        env=composed.environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while by_name(composed)["training"]["paused"]:
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(started.pid, signal.SIGKILL)
    said, _ = started.communicate()
    assert not by_name(composed)["training"]["paused"], "it had put everything back before it was killed"
    return said


@pytest.mark.timeout(1200)  # two or three times `make deploy`, which takes minutes on an overloaded machine
@pytest.mark.e2e
def test_deploying_again_updates_and_leaves_what_people_set_though_a_try_was_killed(
    composed: Composed, deployed: dict[str, dict[str, Any]], again: Again
) -> None:
    assert set(deployed) == set(DEPLOYMENTS)
    found = again.deployments
    assert {name: d["id"] for name, d in found.items()} == {name: d["id"] for name, d in deployed.items()}
    with composed.client() as client:
        assert client.get("work_pools/gpu-1").json()["concurrency_limit"] == 3
        key = {"artifacts": {"key": {"any_": [interrupted.KEY]}}}
        assert client.post("artifacts/filter", json=key).json() == [], "the note of what is to be put back"
    active = {slug: schedule["active"] for slug, schedule in scheduled(found["nightly"]).items()}
    assert (active["every-night"], active["every-week"]) == (True, False)
    assert [name for name, d in found.items() if d["paused"]] == ["training"]
    assert found["nightly"]["parameters"] == MINE
    assert found["compare"]["parameters"] == deployed["compare"]["parameters"]
    assert 'nightly/nightly: the parameter config="mine", which somebody set, stays' in again.said
    assert "an earlier registration was interrupted" in again.said


@pytest.mark.e2e
def test_deploying_again_leaves_schedules_that_people_added_and_mends_its_own(
    composed: Composed, deployed: dict[str, dict[str, Any]], again: Again
) -> None:
    with composed.client() as client:
        for name, parameters in GIVEN.items():
            path = f"deployments/{deployed[name]['id']}/schedules"
            found = {one["id"]: one for one in client.get(path).json()}
            assert len(found) == len(deployed[name]["schedules"]) + 1
            one = found[again.added[name]]
            assert (one["schedule"], one["active"], one["parameters"]) == (NOON, False, parameters)
            stays = f"{name}: the schedule 0 12 * * * Europe/Berlin, which somebody added, stays"
            assert stays in again.killed
    mended = "every-night is as in prefect.yaml again: 0 1 * * 1-6 Etc/UTC, not 0 12 * * * Europe/Berlin"
    assert mended in again.killed
    night = scheduled(again.deployments["nightly"])
    assert night["every-night"]["schedule"]["cron"] == "0 1 * * 1-6"
    assert "deployment nightly/nightly is registered, pool cpu\n" in again.said
    assert "make worker POOL=cpu" in again.said
    assert (
        "prefect worker start" not in again.said
    )  # Prefect's advice: that worker does not wait for its runs


@pytest.mark.e2e
def test_the_night_comes_at_its_hour_in_its_time_zone_one_at_a_time(
    composed: Composed, deployed: dict[str, dict[str, Any]]
) -> None:
    night = deployed["nightly"]
    assert not night["paused"]
    assert night["global_concurrency_limit"]["limit"] == 1
    assert night["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    settings = load_text(night["parameters"]["config"], {}, "config").nightly
    now = datetime(2026, 3, 27, 12, tzinfo=UTC)  # a Friday
    nights: dict[datetime, str] = {}
    for schedule in night["schedules"]:
        zone = ZoneInfo(schedule["schedule"]["timezone"])
        for due in asyncio.run(CronSchedule(**schedule["schedule"]).get_dates(8, start=now)):
            assert due not in nights, "two nights at once"
            nights[due.astimezone(zone)] = schedule["parameters"].get("tier", settings.tier)
    week = sorted(nights)[:7]
    assert [time.time().isoformat() for time in week] == ["01:00:00"] * 7
    assert [(time - week[0]).days for time in week] == [*range(7)], "one each day"
    assert [nights[time] for time in week] == ["nightly", "weekly", *["nightly"] * 5]
    assert set(nights.values()) <= set(settings.tiers) and settings.tiers["weekly"].fresh


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "configuration", "pool", "part"),
    [
        ("reproduce", "demo", "cpu", {}),  # on demand: what `make demo` ran, to be changed in the form
        ("dataset", "paper", "gpu-1", {"stop_after": "subset"}),  # ends with the last stage that makes data
        ("training", "paper", "gpu-8", {"start_at": "sft"}),  # the data set comes from the store
        ("nightly", "nightly", "cpu", {}),  # on what the demo left in the store
        ("ablation", "ablation", "cpu", {}),
    ],
)
def test_a_deployment_starts_from_a_configuration_of_the_flows(
    deployed: dict[str, dict[str, Any]], name: str, configuration: str, pool: str, part: dict[str, str]
) -> None:
    assert deployed[name]["parameters"] == {"config": configuration, **part}
    assert load_text(configuration, {}, "config").name
    assert deployed[name]["work_pool_name"] == pool


@pytest.mark.e2e
def test_the_weekly_pruning_only_looks_until_somebody_says_otherwise(
    deployed: dict[str, dict[str, Any]],
) -> None:
    [schedule] = deployed["prune"]["schedules"]
    assert schedule["active"] and schedule["schedule"]["cron"] == "0 12 * * 0"
    assert deployed["prune"]["parameters"]["apply"] is False
    fields = deployed["prune"]["parameter_openapi_schema"]["properties"]
    assert fields["apply"]["default"] is False
    assert all(field.get("description") for field in fields.values())


@pytest.mark.e2e
def test_the_form_is_short_and_offers_stages(deployed: dict[str, dict[str, Any]]) -> None:
    schema = deployed["reproduce"]["parameter_openapi_schema"]
    fields = schema["properties"]
    assert [*fields] == ["config", "set", "start_at", "stop_after", "refresh", "reuse_run"]
    assert not schema.get("definitions")
    stages = fields["refresh"]["items"]["enum"]
    assert stages == [*LABELS]
    assert fields["start_at"]["enum"] == [BEGINNING, *stages] and fields["stop_after"]["enum"] == [
        END,
        *stages,
    ]


@pytest.mark.e2e
def test_no_deployment_holds_a_secret(deployed: dict[str, dict[str, Any]]) -> None:
    for deployment in deployed.values():
        names = {name for name, _ in leaves(deployment["parameters"])} | set(
            deployment["job_variables"]["env"]
        )
        assert not [n for n in names if any(word in n.lower() for word in ("password", "secret", "auth"))]
        assert {n for n in names if "key" in n.lower()} <= {
            "api_key_env"
        }  # the name of a variable, not its value


@pytest.mark.e2e
def test_a_wrong_parameter_is_refused_by_the_server(
    composed: Composed, deployed: dict[str, dict[str, Any]]
) -> None:
    with composed.client() as client:
        path = f"deployments/{deployed['reproduce']['id']}/create_flow_run"
        wrong = {
            "start_at": "no-stage",
            "set": "annotate.api_key=sk-123",
            "refresh": ["no-stage"],
            "config": {"scenes": {}},
        }
        for field, value in wrong.items():
            refused = client.post(path, json={"parameters": {"config": "smoke", field: value}})
            assert refused.status_code == 409, field
            assert field in refused.text or str(value) in refused.text
        no_value = {"parameters": {"config": "smoke", "set": "grpo.learning_rate"}}
        refused = client.post(path, json=no_value)
        assert refused.status_code == 409 and "FIELD=VALUE, one a line" in refused.text


@pytest.mark.e2e
def test_a_worker_anywhere_runs_a_deployment_in_its_own_checkout(
    composed: Composed, deployed: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    config = {
        "name": "by-worker",
        "store": str(tmp_path / "store"),
        "scenes": {"rows": 2, "benchmark_rows": 2},
    }
    with composed.client() as client:
        run = (
            client.post(
                f"deployments/{deployed['reproduce']['id']}/create_flow_run",
                json={
                    "parameters": {"config": yaml.safe_dump(config), "stop_after": "scenes"},
                    "state": {"type": "SCHEDULED"},
                },
            )
            .raise_for_status()
            .json()
        )
        (tmp_path / "elsewhere").mkdir()
        command = [
            sys.executable,
            "-m",
            "prefect",
            "worker",
            "start",
            "--pool",
            "cpu",
            "--type",
            "process",
            "--run-once",
        ]
        ended = subprocess.run(
            command,
            cwd=tmp_path / "elsewhere",
            env={**composed.environment, "SIF_HOME": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        state = client.get(f"flow_runs/{run['id']}").json()["state"]
        assert state["type"] == "COMPLETED", f"{json.dumps(state)}\n{ended.stdout}\n{ended.stderr}"
        assert not list((tmp_path / "elsewhere").iterdir())
        assert list((tmp_path / "store" / "scenes").iterdir())
        logged = client.post("logs/filter", json={"logs": {"flow_run_id": {"any_": [run["id"]]}}}).text
        assert composed.credentials not in ended.stdout + ended.stderr + logged


def scheduled(deployment: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The schedules of a deployment, by their slugs."""
    return {schedule["slug"]: schedule for schedule in deployment["schedules"]}


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, name)
    else:
        yield name, value
