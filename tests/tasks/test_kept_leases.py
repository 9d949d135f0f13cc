"""Leases of concurrency limits, before and after a restart of the Prefect server; tests/infra/test_prefect.py has a real one."""

import asyncio
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import yaml

from flows import server
from tasks.runtime.kept_leases import ConcurrencyLeaseStorage

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"
FOR = timedelta(minutes=5)


def test_a_lease_of_the_server_before_is_valid_and_one_that_has_ended_is_not() -> None:
    async def steps() -> tuple[bool, bool, bool]:
        storage = ConcurrencyLeaseStorage()
        lease = await storage.create_lease([uuid4()], FOR)
        held = await storage.renew_lease(lease.id, FOR)
        await storage.revoke_lease(lease.id)
        return held, await storage.renew_lease(lease.id, FOR), await storage.renew_lease(uuid4(), FOR)

    assert asyncio.run(steps()) == (True, False, True)


def test_prefect_takes_it_and_there_is_one_storage() -> None:
    """In a process of its own: the setting is read once. Prefect asks for the storage at each call."""
    line = (
        "from prefect.server.concurrency.lease_storage import get_concurrency_lease_storage as get; a = get(); "
        "a.given_up.add(1); print(type(a).__module__, a is get(), get().given_up, a.leases is get().leases)"
    )
    done = subprocess.run(
        [sys.executable, "-c", line],
        cwd=ROOT,
        env={**server._guarded("http://127.0.0.1:4200/api")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout == "tasks.runtime.kept_leases True {1} True\n", done.stderr


def test_every_server_that_we_start_keeps_leases() -> None:
    composed = yaml.safe_load((ROOT / "infra/compose.yaml").read_text(encoding="utf-8"))
    assert composed["services"]["server"]["environment"][VARIABLE] == ConcurrencyLeaseStorage.__module__
    assert server._guarded("http://127.0.0.1:4200/api")[VARIABLE] == ConcurrencyLeaseStorage.__module__
    kubernetes = (ROOT / "infra/kubernetes/base/server.yaml").read_text(encoding="utf-8")
    assert f"{{name: {VARIABLE}, value: {ConcurrencyLeaseStorage.__module__}}}" in kubernetes
