"""infra/kubernetes against the published schemas, Prefect's own rendering of a run's Job, and our own rules."""

from __future__ import annotations

import asyncio
import copy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock
from uuid import uuid4

import pytest
import yaml
from prefect.client.schemas.objects import Flow, FlowRun
from prefect.workers.base import BaseJobConfiguration

from infra import pools
from infra.alert_triggers import HOURS
from infra.alerts import FORMAT, URL
from infra.trial import VARIABLE
from sifthinker import config
from sifthinker.config import Grpo, Sft
from sifthinker.config.layers import OWN
from sifthinker.llm import bookkeeping
from tasks.runtime.following import MARGIN
from tasks.runtime.nodes import ADDRESS
from tests.infra.conftest import ROOT

FOLDER = ROOT / "infra" / "kubernetes"
BASE = FOLDER / "base"
OVERLAYS = sorted(path.parent for path in FOLDER.glob("overlays/*/kustomization.yaml"))
POOLS = {
    f"{folder.name} {name}": (folder, pool)
    for folder in (BASE, FOLDER / "overlays" / "gpu-nodes")
    for name, pool in yaml.safe_load((folder / "pools.yaml").read_text(encoding="utf-8")).items()
}


def objects() -> Iterator[dict[str, Any]]:
    for file in sorted(FOLDER.rglob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            if "kind" in document and document["kind"] != "Kustomization":
                yield from document["items"] if document["kind"] == "List" else [document]


def name(found: dict[str, Any]) -> str:
    return f"{found['kind']}-{found['metadata']['name']}"


def rendered(key: str) -> dict[str, Any]:
    """The Job that Prefect's worker makes for a run of a pool, with the run's environment."""
    worker = pytest.importorskip("prefect_kubernetes.worker", reason="renders Jobs; pip install -e '.[dev]'")
    folder, pool = POOLS[key]
    template = pools.template(pools.Pool.model_validate(pool), BASE)
    assert folder == BASE or not (folder / pools.TEMPLATE).exists(), "an overlay has the base's template"
    variables = {"env": {"OMP_NUM_THREADS": "1"}}
    configuration = worker.KubernetesWorkerJobConfiguration
    job = asyncio.run(configuration.from_template_and_values(template, variables, client=MagicMock()))
    job.prepare_for_flow_run(FlowRun(flow_id=uuid4(), name="calm-otter"), None, Flow(name="reproduce"))
    return dict(job.job_manifest)


OBJECTS = {name(found): found for found in objects()}
PODS = {key: o["spec"]["template"] for key, o in OBJECTS.items() if "template" in o.get("spec", {})}
EVERY = [*PODS, *POOLS]


def pod(key: str) -> dict[str, Any]:
    """The template of a pod: of the files, or of a run of a pool."""
    return dict(PODS[key] if key in PODS else rendered(key)["spec"]["template"])


def validate(found: dict[str, Any], version: str) -> None:
    """Strictly: unknown fields are errors."""
    schemas = pytest.importorskip("kubernetes_validate", reason="carries them; pip install -e '.[dev]'")
    schemas.validate(found, version, strict=True)


@pytest.mark.parametrize("version", ["1.31", "1.37"])
@pytest.mark.parametrize("key", OBJECTS)
def test_an_object_agrees_with_the_published_schema(key: str, version: str) -> None:
    validate(OBJECTS[key], version)


@pytest.mark.parametrize("version", ["1.31", "1.37"])
@pytest.mark.parametrize("key", POOLS)
def test_a_runs_job_agrees_with_the_published_schema(key: str, version: str) -> None:
    job = rendered(key)
    for unknown in ("parallelism", "completions"):  # Prefect insists on them; the API server drops them
        del job["spec"]["template"]["spec"][unknown]
    validate(job, version)


def test_a_misspelt_field_is_found() -> None:
    job = copy.deepcopy(OBJECTS["Job-deploy"])
    job["spec"]["template"]["spec"]["tolerationz"] = []
    schemas = pytest.importorskip("kubernetes_validate")
    with pytest.raises(schemas.ValidationError, match="tolerationz"):
        validate(job, "1.37")


@pytest.mark.parametrize("key", EVERY)
def test_a_pod_meets_the_restricted_standard(key: str) -> None:
    found = pod(key)["spec"]
    assert found["securityContext"]["runAsNonRoot"] and found["securityContext"]["runAsUser"] > 0
    assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    makes_jobs = found.get("serviceAccountName") == "worker"
    assert found["automountServiceAccountToken"] is makes_jobs
    mounts = {volume["name"] for volume in found["volumes"]} | {"data"}  # a StatefulSet's claim
    for container in found["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= mounts


@pytest.mark.parametrize("key", EVERY)
def test_what_a_pod_writes_beside_its_volumes_is_in_a_volume_of_its_own(key: str) -> None:
    found = pod(key)["spec"]
    scratch = {volume["name"] for volume in found["volumes"] if "emptyDir" in volume}
    for container in found["containers"]:
        folders = [m["mountPath"] for m in container["volumeMounts"] if m["name"] in scratch]
        environment = {variable["name"]: variable.get("value", "") for variable in container["env"]}
        if key in POOLS:  # here the worker's own home, of this test; there the one of the Deployment
            [worker] = PODS["Deployment-worker-cpu"]["spec"]["containers"]
            environment |= {v["name"]: v["value"] for v in worker["env"] if v["name"] == "PREFECT_HOME"}
        assert environment["TMPDIR"] in folders
        for variable in ("PREFECT_HOME", "PREFECT_SERVER_UI_STATIC_DIRECTORY", "MPLCONFIGDIR"):
            written = environment.get(variable, folders[0])
            assert any(written == folder or written.startswith(f"{folder}/") for folder in folders)


def runs() -> list[str]:
    """The pods that make artifacts."""
    return [key for key in EVERY if pod(key)["metadata"]["labels"]["app"] == "run"]


def test_runs_take_keys_and_the_object_stores_variables_from_secrets_that_may_be_missing() -> None:
    assert len(runs()) == len(POOLS) + 1
    for key in runs():
        [container] = pod(key)["spec"]["containers"]
        secrets = {s["secretRef"]["name"]: s["secretRef"] for s in container["envFrom"]}
        assert set(secrets) == {"api-keys", "object-store"}
        assert all(secret["optional"] for secret in secrets.values())


@pytest.mark.parametrize("key", POOLS)
def test_a_run_whose_store_is_gone_with_it_pays_nothing_without_a_database(key: str) -> None:
    [container], [store, *_] = pod(key)["spec"]["containers"], pod(key)["spec"]["volumes"]
    said = {v["name"]: v.get("value") for v in container["env"]}[bookkeeping.FLEETING]
    assert store["name"] == "store" and said == ("0" if "persistentVolumeClaim" in store else "1")


@pytest.mark.parametrize("key", [key for key in POOLS if key.endswith("cpu")])
def test_a_run_without_a_gpu_starts_no_more_processes_than_its_memory_holds(key: str) -> None:
    """A process for each core of its quota (sifthinker/system/cores.py): without one, for each core of the node."""
    limits = pod(key)["spec"]["containers"][0]["resources"]["limits"]
    assert limits["memory"].endswith("Gi")
    assert int(limits["memory"].removesuffix("Gi")) >= 2 * int(limits["cpu"])


@pytest.mark.parametrize("key", POOLS)
def test_a_run_finds_configurations_of_the_cluster_where_there_are_some(key: str) -> None:
    found = pod(key)["spec"]
    [container] = found["containers"]
    folder = {v["name"]: v.get("value") for v in container["env"]}[OWN]
    [mount] = [mount for mount in container["volumeMounts"] if mount["mountPath"] == folder]
    [volume] = [volume for volume in found["volumes"] if volume["name"] == mount["name"]]
    assert volume["configMap"] == {"name": "configs", "optional": True} and mount["readOnly"]


def test_the_database_has_the_shared_memory_that_it_has_in_compose() -> None:
    found = PODS["StatefulSet-postgres"]["spec"]
    [mount] = [m for m in found["containers"][0]["volumeMounts"] if m["mountPath"] == "/dev/shm"]
    [volume] = [volume for volume in found["volumes"] if volume["name"] == mount["name"]]
    compose = yaml.safe_load((ROOT / "infra/compose.yaml").read_text(encoding="utf-8"))["services"]
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "256Mi"}
    assert compose["postgres"]["shm_size"] == "256m"


@pytest.mark.parametrize("pool", ["cpu", "gpu-1", "gpu-8"])
def test_links_to_runs_lead_to_where_browsers_reach_the_server(pool: str) -> None:
    """Prefect hands its settings on to the Jobs: else their links lead to the service, which no browser knows."""
    [server] = PODS["Deployment-server"]["spec"]["containers"]
    [worker] = PODS[f"Deployment-worker-{pool}"]["spec"]["containers"]
    wanted, found = (
        {v["name"]: v.get("value") for v in one["env"]}["PREFECT_UI_URL"] for one in (server, worker)
    )
    assert found == wanted


def test_training_and_vllm_have_shared_memory() -> None:
    for key in runs():
        found = pod(key)["spec"]
        [shm] = [volume for volume in found["volumes"] if volume["name"] == "shm"]
        assert shm["emptyDir"]["medium"] == "Memory" and shm["emptyDir"]["sizeLimit"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in found["containers"][0]["volumeMounts"]


def test_runs_have_time_for_a_trainings_checkpoint_and_their_first_process_waits_for_it() -> None:
    longest = max(Sft().grace, Grpo().grace) + MARGIN
    for key in runs():
        assert pod(key)["spec"]["terminationGracePeriodSeconds"] >= longest + 60
    for key in POOLS:
        job = rendered(key)
        [container] = job["spec"]["template"]["spec"]["containers"]
        assert container["args"] == ["python", "-m", "infra.run"] and "command" not in container
        sigterm = {v["name"]: v.get("value") for v in container["env"]}
        assert sigterm["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
        assert job["spec"]["backoffLimit"] == 0, "else the cluster repeats what the server starts again"


def test_every_setting_of_a_runs_job_is_read_by_prefects_worker() -> None:
    """A setting that is declared and read nowhere promises what does not happen."""
    worker = pytest.importorskip("prefect_kubernetes.worker", reason="reads them; pip install -e '.[dev]'")
    code = Path(worker.__file__).read_text(encoding="utf-8")
    ours = yaml.safe_load((BASE / pools.TEMPLATE).read_text(encoding="utf-8"))["job_configuration"]
    of_the_base = BaseJobConfiguration.model_fields
    unread = [
        name
        for name in ours
        if name not in of_the_base and f"configuration.{name}" not in code and f"self.{name}" not in code
    ]
    assert not unread


def test_what_runs_for_ever_is_probed_and_the_server_is_ready_when_its_database_is() -> None:
    for found in [found for key, found in PODS.items() if not key.startswith("Job-")]:
        for container in found["spec"]["containers"]:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    [server] = PODS["Deployment-server"]["spec"]["containers"]
    assert server["readinessProbe"]["httpGet"]["path"] == "/api/ready"
    assert server["livenessProbe"]["httpGet"]["path"] == "/api/health"


def test_what_there_is_one_of_is_not_drained_away() -> None:
    for app in ("server", "postgres"):
        budget = OBJECTS[f"PodDisruptionBudget-{app}"]["spec"]
        assert budget == {"maxUnavailable": 0, "selector": {"matchLabels": {"app": app}}}


def test_secrets_are_named_and_never_held() -> None:
    assert not any(found["kind"] == "Secret" for found in OBJECTS.values())
    for key in EVERY:
        for container in pod(key)["spec"]["containers"]:
            for variable in container["env"]:
                held = ("PASSWORD", "AUTH_STRING", "KEY", "ALERT_URL")
                if any(word in variable["name"] for word in held) and not variable["name"].endswith(
                    ("_SECRET_NAME", "_SECRET_KEY")
                ):
                    assert "secretKeyRef" in variable["valueFrom"], variable["name"]


@pytest.mark.parametrize("pool", ["cpu", "gpu-1", "gpu-8"])
def test_a_worker_gives_its_jobs_the_servers_credentials_by_reference(pool: str) -> None:
    [container] = PODS[f"Deployment-worker-{pool}"]["spec"]["containers"]
    environment = {v["name"]: v for v in container["env"]}
    secret = environment["PREFECT_API_AUTH_STRING"]["valueFrom"]["secretKeyRef"]
    prefix = "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET"
    assert environment[f"{prefix}_NAME"]["value"] == secret["name"]
    assert environment[f"{prefix}_KEY"]["value"] == secret["key"]
    arguments = container["args"]
    assert arguments[arguments.index("--pool") + 1] == pool
    assert arguments[arguments.index("--type") + 1] == "kubernetes"
    assert "--no-create-pool-if-not-found" in arguments


def test_a_worker_may_make_jobs_here_and_nothing_else() -> None:
    rules = OBJECTS["Role-worker"]["rules"]
    may = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert {("jobs", "create"), ("jobs", "delete"), ("pods", "watch"), ("events", "list")} <= may
    assert not {resource for resource, _ in may} & {"secrets", "configmaps", "roles", "*"}
    assert not [key for key in OBJECTS if key.startswith("Cluster")]


@pytest.mark.parametrize("key", POOLS)
def test_a_run_has_the_gpus_of_its_pool_and_goes_where_it_should(key: str) -> None:
    found = pod(key)["spec"]
    limits = found["containers"][0]["resources"]["limits"]
    gpus = {"cpu": None, "gpu-1": "1", "gpu-8": "8"}[key.split()[1]]
    assert limits.get("nvidia.com/gpu") == gpus
    taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert (taint in found["tolerations"]) == bool(gpus), "a run without a GPU takes no room beside them"
    chosen = key.startswith("gpu-nodes") and gpus
    assert bool(found["nodeSelector"]) == bool(chosen)
    assert len(found["tolerations"]) == (2 if chosen else 1 if gpus else 0)
    assert found["priorityClassName"] == ("sifthinker-gpu" if chosen else "")


@pytest.mark.parametrize("key", POOLS)
def test_a_run_has_an_image_with_the_libraries_of_the_stages(key: str) -> None:
    """The server's, which the workers have, carries out no run (tests/infra/test_compose.py: which images do)."""
    image = pod(key)["spec"]["containers"][0]["image"]
    assert image.split("/")[-1].split(":")[0] in ("sifthinker-worker", "sifthinker-train")


def test_an_overlay_has_the_pools_of_the_base() -> None:
    names = {
        folder: {key.split()[1] for key in POOLS if key.split()[0] == folder}
        for folder in ("base", "gpu-nodes")
    }
    assert names["base"] == names["gpu-nodes"] == set(pools.read())


def test_no_volume_of_the_base_is_written_from_several_machines() -> None:
    claims = {key: o["spec"] for key, o in OBJECTS.items() if key.startswith("PersistentVolumeClaim-")}
    shared = {key for key, spec in claims.items() if spec["accessModes"] == ["ReadWriteMany"]}
    assert shared == {"PersistentVolumeClaim-store-two-nodes"}
    for key in runs():
        for volume in pod(key)["spec"]["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert f"PersistentVolumeClaim-{claim['claimName']}" in claims
                assert (volume["name"] == "data") == bool(claim.get("readOnly"))


def test_the_nodes_of_a_training_have_a_machine_each_know_their_address_and_reach_each_other() -> None:
    job = OBJECTS["Job-two-nodes"]["spec"]
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"] == 2
    assert job["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    found = job["template"]
    [apart] = found["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["labelSelector"]["matchLabels"] == found["metadata"]["labels"]
    variables = {variable["name"]: variable for variable in found["spec"]["containers"][0]["env"]}
    assert variables[ADDRESS]["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    policy = OBJECTS["NetworkPolicy-nodes"]["spec"]
    others = [{"podSelector": {"matchLabels": found["metadata"]["labels"]}}]
    assert policy["podSelector"]["matchLabels"] == found["metadata"]["labels"]
    assert policy["ingress"] == [{"from": others}] and policy["egress"] == [{"to": others}]
    for key in POOLS:  # a run of gpu-8 has these labels, too
        if key.endswith("gpu-8"):
            assert found["metadata"]["labels"].items() <= pod(key)["metadata"]["labels"].items()


def test_no_command_of_two_nodes_is_the_first_process_of_its_container() -> None:
    [container] = OBJECTS["Job-two-nodes"]["spec"]["template"]["spec"]["containers"]
    started = [line.split() for line in container["args"][0].splitlines() if line.strip().startswith("exec")]
    assert [line[4:6] for line in started] == [["sif", "run"], ["sif", "join"]]
    assert all(line[:4] == ["exec", "python", "-m", "infra.run"] for line in started)


def test_the_two_nodes_configuration_can_be_read_and_has_a_node_for_each_pod() -> None:
    read = config.load(FOLDER / "overlays" / "two-nodes" / "configuration.yaml", {})
    assert read.sft.nodes == read.grpo.nodes == OBJECTS["Job-two-nodes"]["spec"]["completions"]
    assert read.remote and read.placement == "process"


def test_nothing_is_reached_but_what_is_listed() -> None:
    policies = {key: o["spec"] for key, o in OBJECTS.items() if o["kind"] == "NetworkPolicy"}
    assert policies["NetworkPolicy-default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    labels = {pod(key)["metadata"]["labels"]["app"] for key in EVERY}
    chosen = {p["podSelector"]["matchLabels"]["app"] for p in policies.values() if p["podSelector"]}
    assert chosen == labels


def test_names_resolve_and_alerts_go_out() -> None:
    """The server calls the webhook; without DNS nobody finds anybody."""
    names = OBJECTS["NetworkPolicy-names"]["spec"]
    assert names["podSelector"] == {} and {port["port"] for port in names["egress"][0]["ports"]} == {53, 5353}
    out = OBJECTS["NetworkPolicy-server"]["spec"]["egress"]
    [web] = [rule for rule in out if "ipBlock" in rule["to"][0]]
    assert web["to"][0]["ipBlock"]["cidr"] == "0.0.0.0/0" and web["ports"] == [
        {"port": 443, "protocol": "TCP"}
    ]
    [deploy] = PODS["Job-deploy"]["spec"]["containers"]
    variables = {v["name"]: v for v in deploy["env"]}
    assert variables[URL]["valueFrom"]["secretKeyRef"] == {"name": "alerts", "key": "url", "optional": True}
    for variable, key in ((FORMAT, "format"), (VARIABLE, "test"), (HOURS, "night-hours")):
        reference = variables[variable]["valueFrom"]["secretKeyRef"]
        assert reference == {"name": "alerts", "key": key, "optional": True}
    assert variables["PREFECT_UI_URL"]["value"] and variables[pools.VARIABLE]["value"].endswith("/pools.yaml")


@pytest.mark.parametrize("folder", [BASE, *OVERLAYS], ids=lambda folder: folder.name)
def test_the_kustomizations_build_valid_objects_with_pinned_images(folder: Path) -> None:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not here")
    ended = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    made = {name(found): found for found in yaml.safe_load_all(ended.stdout)}
    for key, found in made.items():
        validate(found, "1.37")
        if key in PODS:
            for container in found["spec"]["template"]["spec"]["containers"]:
                tag = container["image"].rpartition(":")[2]
                assert tag[0].isdigit(), f"{key}: {container['image']}"
                assert container.get("livenessProbe") == PODS[key]["spec"]["containers"][0].get(
                    "livenessProbe"
                )
    if folder.name != "two-nodes":
        assert {key for key in OBJECTS if "two-nodes" not in key and "PriorityClass" not in key} <= set(made)
        [shipped] = [found for key, found in made.items() if key.startswith("ConfigMap-pools-")]
        assert shipped["data"]["pools.yaml"] == (folder / "pools.yaml").read_text(encoding="utf-8")
        assert yaml.safe_load(shipped["data"][pools.TEMPLATE])["job_configuration"]
        [volume] = [v for v in made["Job-deploy"]["spec"]["template"]["spec"]["volumes"] if "configMap" in v]
        assert volume["configMap"]["name"] == shipped["metadata"]["name"]
