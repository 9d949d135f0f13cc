"""infra/compose.yaml against the published schema and our own rules."""

import json
import re
from datetime import timedelta
from importlib import resources
from typing import Any

import jsonschema
import pytest
import yaml
from prefect.settings import Settings

from sifthinker.config import layers
from tasks.operations import kept_store
from tests.infra.conftest import ROOT

TEXT = (ROOT / "infra/compose.yaml").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SECRET = re.compile(r"PASSWORD|AUTH_STRING|API_KEY|TOKEN|SECRET")


def test_it_agrees_with_the_compose_specification() -> None:
    pytest.importorskip("check_jsonschema", reason="carries the schema; pip install -e '.[dev]'")
    schema = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(COMPOSE, json.loads(schema.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged") and "network_mode" not in service
    image = re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", service["image"])  # by default
    assert re.search(r":\d+\.\d+[\w.-]*$", image), "an image is pinned by its version"
    assert service["healthcheck"]


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_writes_beside_its_volumes_is_in_its_own_memory(name: str) -> None:
    service = SERVICES[name]
    folders = [mount.split(":")[0] for mount in service["tmpfs"]]
    environment = service["environment"]
    assert environment["TMPDIR"] in folders, (
        "the rest is read-only, and so would be the folder of temporary files"
    )
    for variable in ("PREFECT_HOME", "PREFECT_SERVER_UI_STATIC_DIRECTORY"):
        written = environment.get(variable, folders[0])
        assert any(written == folder or written.startswith(f"{folder}/") for folder in folders)
    uid, gid = service["user"].split(":")
    assert all(f"uid={uid},gid={gid}" in mount for mount in service["tmpfs"])


def test_workers_and_metrics_are_given_what_a_store_on_s3_needs() -> None:
    for name, service in SERVICES.items():
        if name.startswith("worker") or name == "metrics":
            assert service["env_file"] == [{"path": "keys.env", "required": False}], name
            names = {variable for variable in service["environment"] if variable.startswith("AWS_")}
            assert names == {
                "AWS_ACCESS_KEY_ID",
                "AWS_SECRET_ACCESS_KEY",
                "AWS_DEFAULT_REGION",
                "AWS_ENDPOINT_URL_S3",
            }
            # An empty region is no region to boto3, and an error.
            assert re.fullmatch(
                r"\$\{AWS_DEFAULT_REGION:-[a-z0-9-]+\}", service["environment"]["AWS_DEFAULT_REGION"]
            )


def test_metrics_ask_the_server_and_outlive_it() -> None:
    metrics = SERVICES["metrics"]
    assert "depends_on" not in metrics, "it says that the server is down"
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        assert metrics["environment"][name] == SERVICES["worker-cpu"]["environment"][name]
    assert set(metrics["networks"]) & set(SERVICES["server"]["networks"])


@pytest.mark.parametrize(
    "given", [{}, {"ENABLED": "events", "RETENTION_PERIOD": "86400"}], ids=["ours", "theirs"]
)
def test_the_server_forgets_runs_after_90_days_unless_it_is_told_otherwise(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SERVICES["server"]["environment"].items():
        if "DB_VACUUM" in name:
            field, default = name.rpartition("VACUUM_")[2], value.partition(":-")[2].rstrip("}")
            assert value == f"${{{name}:-{default}}}"
            monkeypatch.setenv(name, given.get(field, default))
    settings = Settings().server.services.db_vacuum
    assert ("flow_runs" in settings.enabled_vacuum_types) is not bool(given)
    assert settings.retention_period == timedelta(days=1 if given else 90)


def test_workers_are_given_the_users_configurations_and_the_stores_remote() -> None:
    for service in (service for name, service in SERVICES.items() if name.startswith("worker")):
        environment = service["environment"]
        [mount] = [one for one in service["volumes"] if "SIF_CONFIGS" in str(one)]
        assert mount["read_only"] and mount["type"] == "bind"
        assert not mount["bind"]["create_host_path"], "a folder that is misspelt is refused, not made"
        # Named in the container only where the user gave a folder; empty is none.
        assert environment[layers.OWN] == f"${{SIF_CONFIGS:+{mount['target']}}}"
        default = re.search(r":-(.*)}", mount["source"])
        assert default and (ROOT / "infra" / default[1]).is_dir()
        assert environment[kept_store.VARIABLE] == "${SIF_REMOTE:-}"


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_alone(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_a_secret_comes_from_the_environment(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if SECRET.search(variable):
            assert re.fullmatch(r"\$\{\w+:(\?[^}]*|-)\}", value), f"{variable} holds a value"


def test_the_server_is_started_with_authentication_and_csrf_protection() -> None:
    environment = SERVICES["server"]["environment"]
    assert ":?" in environment["PREFECT_SERVER_API_AUTH_STRING"], "unset: compose must refuse to start"
    assert environment["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
    assert "*" not in environment["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"]


def test_every_pool_of_the_deployments_has_a_worker_and_a_gpu_one_takes_one_run_at_a_time() -> None:
    deployments = yaml.safe_load((ROOT / "infra/prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    commands = [service.get("command", []) for service in SERVICES.values()]
    workers = {c[c.index("--pool") + 1]: c for c in commands if "--pool" in c}
    assert set(workers) == {deployment["work_pool"]["name"] for deployment in deployments}
    assert all("--limit" in command for pool, command in workers.items() if pool.startswith("gpu"))


def test_whatever_carries_out_runs_has_the_libraries_of_the_stages() -> None:
    """A worker of type process carries out its runs itself: its image installs the extra `train`."""
    workers = {name: s for name, s in SERVICES.items() if "infra.worker" in s.get("command", [])}
    assert len(workers) == 3
    for name, service in workers.items():
        text = (ROOT / service["build"]["dockerfile"]).read_text(encoding="utf-8")
        target = service["build"].get("target")
        stage = (
            re.search(rf"^FROM \S+ AS {target}$(.*?)(?=^FROM|\Z)", text, re.MULTILINE | re.DOTALL)
            if target
            else None
        )
        assert "-r train.txt" in (stage[1] if stage else text), name


def test_the_database_is_reached_by_the_server_alone() -> None:
    assert COMPOSE["networks"]["database"]["internal"]
    assert {name for name, s in SERVICES.items() if "database" in s["networks"]} == {"postgres", "server"}
    assert "ports" not in SERVICES["postgres"]


def test_every_variable_is_in_the_example_and_none_has_a_value_there() -> None:
    lines = (ROOT / "infra/.env.example").read_text(encoding="utf-8").splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(example) == set(re.findall(r"\$\{(\w+)", TEXT))
    assert not any(example.values())


def test_every_named_volume_and_network_is_declared() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (isinstance(volume, dict) and volume["type"] == "bind")
        assert set(service["networks"]) <= set(COMPOSE["networks"])
