"""infra/kubernetes against the published schemas and our own rules."""

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tasks.runtime.nodes import ADDRESS
from tests.infra.conftest import ROOT

FOLDER = ROOT / "infra" / "kubernetes"


def objects() -> Iterator[dict[str, Any]]:
    for file in sorted(FOLDER.glob("*.yaml")):
        if file.name != "kustomization.yaml":
            for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
                yield from document["items"] if document["kind"] == "List" else [document]


def name(found: dict[str, Any]) -> str:
    metadata = found["metadata"]
    return f"{found['kind']}-{metadata.get('name') or metadata['generateName']}"


OBJECTS = {name(found): found for found in objects()}
PODS = {key: o["spec"]["template"] for key, o in OBJECTS.items() if "template" in o.get("spec", {})}


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("key", OBJECTS)
def test_an_object_agrees_with_the_published_schema(key: str, version: str) -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="carries the schemas; pip install -e '.[dev]'"
    )
    validate.validate(OBJECTS[key], version, strict=True)


@pytest.mark.parametrize("key", PODS)
def test_a_pod_meets_the_restricted_standard(key: str) -> None:
    pod = PODS[key]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    mounts = {volume["name"] for volume in pod["volumes"]} | {"data"}  # a StatefulSet's claim
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= mounts


@pytest.mark.parametrize("key", PODS)
def test_what_a_pod_writes_beside_its_volumes_is_in_a_volume_of_its_own(key: str) -> None:
    pod = PODS[key]["spec"]
    scratch = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
    for container in pod["containers"]:
        folders = [m["mountPath"] for m in container["volumeMounts"] if m["name"] in scratch]
        environment = {variable["name"]: variable.get("value", "") for variable in container["env"]}
        assert environment["TMPDIR"] in folders
        for variable in ("PREFECT_HOME", "PREFECT_SERVER_UI_STATIC_DIRECTORY"):
            written = environment.get(variable, folders[0])
            assert any(written == folder or written.startswith(f"{folder}/") for folder in folders)


def test_workers_take_keys_and_the_object_stores_variables_from_secrets_that_may_be_missing() -> None:
    for key, pod in PODS.items():
        if "worker" in key or key.startswith("Job-gpu"):
            secrets = {
                s["secretRef"]["name"]: s["secretRef"] for s in pod["spec"]["containers"][0]["envFrom"]
            }
            assert set(secrets) == {"api-keys", "object-store"}
            assert all(secret["optional"] for secret in secrets.values())


@pytest.mark.parametrize("key", [key for key in PODS if not key.startswith("Job-")])
def test_what_runs_for_ever_is_probed(key: str) -> None:
    for container in PODS[key]["spec"]["containers"]:
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


def test_secrets_are_named_and_never_held() -> None:
    assert not any(found["kind"] == "Secret" for found in OBJECTS.values())
    for pod in PODS.values():
        for container in pod["spec"]["containers"]:
            for variable in container["env"]:
                if any(word in variable["name"] for word in ("PASSWORD", "AUTH_STRING", "KEY")):
                    assert "secretKeyRef" in variable["valueFrom"], variable["name"]


@pytest.mark.parametrize(
    ("key", "pool", "gpus"),
    [
        ("Deployment-worker-cpu", "cpu", None),
        ("Deployment-worker-gpu-1", "gpu-1", "1"),
        ("Deployment-worker-gpu-8", "gpu-8", "8"),
        ("Job-gpu-8-", "gpu-8", "8"),  # made for one run
        ("Job-gpu-8-nodes-", "gpu-8", "8"),  # a machine
    ],
)
def test_a_worker_has_the_gpus_of_its_pool(key: str, pool: str, gpus: str | None) -> None:
    container = PODS[key]["spec"]["containers"][0]
    assert container["args"][container["args"].index("--pool") + 1] == pool
    assert container["resources"]["limits"].get("nvidia.com/gpu") == gpus
    assert "store" in {mount["name"] for mount in container["volumeMounts"]}


def test_the_nodes_of_a_training_have_a_machine_each_know_their_address_and_reach_each_other_alone() -> None:
    job = OBJECTS["Job-gpu-8-nodes-"]["spec"]
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"] == 2
    pod = job["template"]
    [apart] = pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["labelSelector"]["matchLabels"] == pod["metadata"]["labels"]
    variables = {variable["name"]: variable for variable in pod["spec"]["containers"][0]["env"]}
    assert variables[ADDRESS]["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    policy = OBJECTS["NetworkPolicy-nodes"]["spec"]
    others = [{"podSelector": {"matchLabels": pod["metadata"]["labels"]}}]
    assert policy["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
    assert policy["ingress"] == [{"from": others}] and policy["egress"] == [{"to": others}]


def test_nothing_is_reached_but_what_is_listed() -> None:
    policies = {key: o["spec"] for key, o in OBJECTS.items() if o["kind"] == "NetworkPolicy"}
    assert policies["NetworkPolicy-default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    labels = {pod["metadata"]["labels"]["app"] for pod in PODS.values()}
    chosen = {p["podSelector"]["matchLabels"]["app"] for p in policies.values() if p["podSelector"]}
    assert chosen == labels


def test_the_kustomization_builds_with_pinned_images() -> None:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not here")
    built = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=True
    ).stdout
    made = {name(found): found for found in yaml.safe_load_all(built)}
    assert set(made) == set(OBJECTS) - {"Job-gpu-8-", "Job-gpu-8-nodes-"}
    for key in set(PODS) & set(made):
        for container in made[key]["spec"]["template"]["spec"]["containers"]:
            tag = container["image"].rpartition(":")[2]
            assert tag[0].isdigit(), f"{key}: {container['image']}"
            assert container.get("livenessProbe") == PODS[key]["spec"]["containers"][0].get("livenessProbe")
