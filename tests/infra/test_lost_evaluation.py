"""Which runs the automations of infra/lost_runs.py take for lost, by Prefect's own evaluation: events in, seconds out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from infra import automations, lost_runs, pools
from tasks.runtime.liveness import TOLD_TO_END, UNPLACED
from tests.infra.conftest import ROOT
from tests.infra.evaluation import DEPLOYMENT, fired

OURS = [DEPLOYMENT]
HEARTBEATS = [(5.0 + 30 * n, "heartbeat") for n in range(20)]


def test_a_drained_run_that_starts_again_or_waits_for_it_is_not_taken_for_dead() -> None:
    """Its heartbeats go on while it ends, after AwaitingRetry; its next start takes longer than the silence that is borne."""
    drained = [(0.0, "Running"), (5.0, "heartbeat"), (30.0, "AwaitingRetry"), (35.0, "heartbeat")]
    runs = {
        "starts again": [*drained, (50.0, "Pending"), (55.0, "Submitting")],
        "its pod is seen first": [*drained, (50.0, "InfrastructurePending")],
        "waits for a place": [*drained, (40.0, TOLD_TO_END)],
        "its machine was lost": drained,
        "fell silent": [(0.0, "Running"), (5.0, "heartbeat"), (35.0, "heartbeat")],
        "lives": [(0.0, "Running"), *HEARTBEATS],
        "ended": [(0.0, "Running"), (5.0, "heartbeat"), (20.0, "Completed")],
    }
    silent, *_ = lost_runs.automations(OURS, OURS, [])
    found = fired(silent, runs, 400)
    assert found == {
        name: [125.0] if name in ("its machine was lost", "fell silent") else [] for name in runs
    }


def test_a_pod_that_no_node_takes_is_closed_and_one_that_begins_is_not() -> None:
    minute = 60.0
    runs = {
        "no node": [(0.0, "Pending"), (5.0, "Submitting"), (10.0, "InfrastructurePending")],
        "its node had to be started": [(0.0, "Pending"), (10.0, "InfrastructurePending"), (30 * minute, "Running")],
        "cancelled": [(0.0, "Pending"), (10.0, "InfrastructurePending"), (20 * minute, "Cancelled")],
        "again without a node": [(0.0, "Pending"), (minute, "Running"), (2 * minute, "AwaitingRetry"), (3 * minute, "Pending")],
    }  # fmt: skip
    _, pod = lost_runs.automations(OURS, [], OURS)
    within = lost_runs.POD_START.total_seconds()
    assert fired(pod, runs, 60 * minute) == {
        **{name: [] for name in runs},
        "no node": [within],
        "again without a node": [within + 3 * minute],
    }


def test_a_second_start_within_the_time_of_the_first_is_watched_too() -> None:
    runs = {
        "lost again": [(0.0, "Pending"), (5.0, "Running"), (10.0, "Crashed"), (60.0, "Pending")],
        "begins": [(0.0, "Pending"), (5.0, "Running"), (10.0, "Crashed"), (60.0, "Pending"), (70.0, "Running")],
        "lost": [(0.0, "Pending")],
    }  # fmt: skip
    _, process = lost_runs.automations(OURS, OURS, [])
    assert fired(process, runs, 300) == {"lost again": [160.0], "begins": [], "lost": [100.0]}


@pytest.mark.parametrize(
    ("processes", "pods", "names"),
    [
        (OURS, [], ["a run fell silent", "a run never began"]),
        ([], OURS, ["a run fell silent", "a run's pod never began"]),
        (OURS, OURS, ["a run fell silent", "a run never began", "a run's pod never began"]),
    ],
)
def test_each_kind_of_pool_has_its_time_to_begin(
    processes: list[str], pods: list[str], names: list[str]
) -> None:
    found = list(lost_runs.automations(OURS, processes, pods))
    assert [one.name for one in found] == names
    for one in found:
        [action] = one.actions
        assert action.type == "change-flow-run-state"
        assert (action.message == UNPLACED) == (one.name == "a run's pod never began")


def test_the_message_of_a_pod_names_the_minutes() -> None:
    assert f"{lost_runs.POD_START.total_seconds() / 60:.0f} min" in UNPLACED


class Server:
    """Deployments that are there, and automations as they are saved and deleted."""

    def __init__(self) -> None:
        self.automations: dict[str, Any] = {}

    def read_deployment_by_name(self, name: str) -> Any:
        return SimpleNamespace(id=name)

    def read_automations_by_name(self, name: str) -> list[Any]:
        return [SimpleNamespace(id=name)] if name in self.automations else []

    def create_automation(self, automation: Any) -> None:
        self.automations[automation.name] = automation

    def update_automation(self, known: str, automation: Any) -> None:
        self.automations[known] = automation

    def delete_automation(self, known: str) -> None:
        del self.automations[known]


def test_deploying_watches_the_runs_of_kubernetes_for_their_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pools decide, and what an earlier registration with other pools left behind goes."""
    server: Any = Server()
    monkeypatch.delenv(automations.alerts.URL, raising=False)
    monkeypatch.delenv(pools.VARIABLE, raising=False)
    list(automations.register(server))
    assert set(server.automations) == {"a run fell silent", lost_runs.NEVER_BEGAN}
    watched = server.automations[lost_runs.NEVER_BEGAN].trigger.match_related
    monkeypatch.setenv(pools.VARIABLE, str(ROOT / "infra/kubernetes/base/pools.yaml"))
    list(automations.register(server))
    assert set(server.automations) == {"a run fell silent", lost_runs.NO_POD}
    assert server.automations[lost_runs.NO_POD].trigger.match_related == watched
