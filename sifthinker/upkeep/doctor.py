"""What a reproduction needs, looked at one by one (`sif doctor`): this machine, its store, the users' files, endpoints.

A check yields findings: what is there, and what to do where that is not right. A check that breaks becomes a finding
too, and hides none of the others. No check prints a key. None costs money but `endpoints`, which makes one short call to
each. The checks of the Prefect server are in tasks/operations/doctor.py.
"""

from __future__ import annotations

from collections.abc import Collection

from sifthinker.config import Config
from sifthinker.upkeep.data_checks import benchmarks, data, remote, store, weights
from sifthinker.upkeep.endpoint_checks import endpoints, servers
from sifthinker.upkeep.findings import Check
from sifthinker.upkeep.ledger_checks import ledger
from sifthinker.upkeep.machine_checks import disk, gpu, packages, python, vllm

# Checks that only matter where one of these stages runs, by the labels of flows/reproduce.py.
_TRAINED = ("policy-weights", "sft", "merge-sft", "grpo", "merge-grpo", "evaluate")
_OF_STAGES: dict[str, tuple[str, ...]] = {
    "GPU": _TRAINED,
    "vLLM": ("grpo", "evaluate"),
    "servers": ("grpo", "evaluate"),
    "benchmarks": ("evaluate",),
}


def machine(config: Config, calls: bool, stages: Collection[str] | None = None) -> dict[str, Check]:
    """The checks of everything but the Prefect server.

    Args:
        config: what is to be run.
        calls: also those that cost a few tokens.
        stages: the labels of the stages that will run; None: all.
    """
    checks: dict[str, Check] = {
        "python": python,
        "packages": packages,
        "GPU": lambda: gpu(config),
        "vLLM": lambda: vllm(config),
        "servers": lambda: servers(config),
        "disk": lambda: disk(config, trains=_run(stages, _TRAINED)),
        "store": lambda: store(config),
        "remote": lambda: remote(config),
        "ledger": lambda: ledger(config.store),
        "data": lambda: data(config),
        "benchmarks": lambda: benchmarks(config),
        "weights": lambda: weights(config, policy=_run(stages, _TRAINED)),
        "endpoints": lambda: endpoints(config, calls, stages),
    }
    return {name: check for name, check in checks.items() if _run(stages, _OF_STAGES.get(name))}


def _run(stages: Collection[str] | None, wanted: Collection[str] | None) -> bool:
    """Whether one of the wanted stages is among those that run."""
    return stages is None or wanted is None or not set(wanted).isdisjoint(stages)
