"""What the Prefect server does by itself for the deployments of prefect.yaml: it closes dead runs, and tells people.

    PREFECT_API_URL=... python -m infra.automations      # as `make deploy` does, after the deployments

May be repeated: an automation is updated in place, under its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect.automations import AutomationCore
from prefect.client.orchestration import SyncPrefectClient

from infra import alerts, lost_runs, registration
from infra import pools as work_pools
from tasks.runtime.placement import FLOW

RETIRED = (
    "a night went wrong",
)  # automations of earlier versions; beside the new ones they tell of the same twice
NIGHT = "nightly"  # the flow of flows/nightly.py
FILE = Path(__file__).with_name("prefect.yaml")


@dataclass(frozen=True)
class Deployments:
    """Ids of the registered deployments, as events name them: `prefect.deployment.<id>`."""

    whole: Sequence[str]  # what people and schedules start
    nights: Sequence[str]  # those of them that a schedule starts every night
    stages: Sequence[str]  # what a run starts in a pool, and answers for
    processes: Sequence[
        str
    ]  # those of `whole` and `stages` whose worker starts a process, on its own machine
    pods: Sequence[str]  # those whose worker starts a pod, on a node that has room


def deployments(client: SyncPrefectClient) -> Deployments:
    """The deployments of prefect.yaml on this server.

    Raises:
        ObjectNotFound: one of them is not registered.
    """
    whole, nights, stages, processes, pods = [], [], [], [], []
    types = {name: pool.type for name, pool in work_pools.read().items()}
    for deployment in yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]:
        flow = deployment["entrypoint"].rpartition(":")[2]
        found = client.read_deployment_by_name(f"{flow}/{deployment['name']}")
        named = f"prefect.deployment.{found.id}"
        (stages if flow == FLOW else whole).append(named)
        if flow == NIGHT:
            nights.append(named)
        (pods if types[deployment["work_pool"]["name"]] == "kubernetes" else processes).append(named)
    return Deployments(whole, nights, stages, processes, pods)


def register(client: SyncPrefectClient) -> Iterator[str]:
    """Registers or renews every automation; what was done, a line each."""
    found = deployments(client)
    of_runs = list(lost_runs.automations([*found.whole, *found.stages], found.processes, found.pods))
    # That of another kind of pool would go on watching the deployments, with the wrong time.
    others = {lost_runs.NEVER_BEGAN, lost_runs.NO_POD} - {automation.name for automation in of_runs}
    for name in (*RETIRED, *sorted(others)):
        for old in client.read_automations_by_name(name):
            client.delete_automation(old.id)
            yield f"automation {name!r} of an earlier version is removed"
    for automation in of_runs:
        yield save(client, automation)
    yield from alerts.told(client, found.whole, found.nights, lambda automation: save(client, automation))


def save(client: SyncPrefectClient, automation: AutomationCore) -> str:
    """Registers an automation, or renews the one of its name; what was done."""
    for known in client.read_automations_by_name(automation.name):
        renewed: Any = automation
        client.update_automation(known.id, renewed)
        return f"automation {automation.name!r} is renewed"
    client.create_automation(automation)
    return f"automation {automation.name!r} is registered"


if __name__ == "__main__":
    registration.run(register)
