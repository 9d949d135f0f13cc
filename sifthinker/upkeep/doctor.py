"""What a reproduction needs, looked at one by one (`sif doctor`): this machine, its store, the users' files, endpoints.

A check yields findings: what is there, and what to do where that is not right. A check that breaks becomes a finding
too, and hides none of the others. No check prints a key. None costs money but `endpoints`, which makes one short call to
each. The checks of the Prefect server are in tasks/operations/doctor.py.
"""

from __future__ import annotations

from sifthinker.config import Config
from sifthinker.upkeep.data_checks import data, remote, store, weights
from sifthinker.upkeep.endpoint_checks import endpoints, servers
from sifthinker.upkeep.findings import Check
from sifthinker.upkeep.ledger_checks import ledger
from sifthinker.upkeep.machine_checks import disk, gpu, packages, python, vllm


def machine(config: Config, calls: bool) -> dict[str, Check]:
    """The checks of everything but the Prefect server; with `calls` also those that cost a few tokens."""
    return {
        "python": python,
        "packages": packages,
        "GPU": lambda: gpu(config),
        "vLLM": lambda: vllm(config),
        "servers": lambda: servers(config),
        "disk": lambda: disk(config),
        "store": lambda: store(config),
        "remote": lambda: remote(config),
        "ledger": lambda: ledger(config.store),
        "data": lambda: data(config),
        "weights": lambda: weights(config),
        "endpoints": lambda: endpoints(config, calls),
    }
