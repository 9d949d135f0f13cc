"""The Prefect server's part of `sif doctor`.

It looks whether the server answers, at its pools and their workers, at its deployments and their schedules, and whether the
packages here are ones that Prefect works with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import httpx
import prefect
from packaging.specifiers import SpecifierSet
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import WorkerStatus, WorkPool
from prefect.exceptions import PrefectHTTPStatusError

from sifthinker.config import Config
from sifthinker.system import loopback
from sifthinker.upkeep.findings import Check, Finding, Verdict
from sifthinker.upkeep.ledger_checks import NETWORK
from sifthinker.upkeep.machine_checks import filesystem
from tasks.operations import alert_calls
from tasks.operations.schedules import scheduled
from tasks.runtime import placement

DEPLOY = "make deploy registers it"
# Packages that Prefect 3.8.8 accepts in any newer version, the versions that it works with, and what fails with others.
# Nothing else shows it: these failures are silent, or name another cause.
NEEDS = {
    "sqlalchemy": (
        "<2.1",
        "the scheduler of a server that is started from here fails: no schedule makes a run",
    ),
    "fastapi": ("<0.151", "every flow fails with an unexpected keyword argument"),
}
SCHEDULER = (
    "they will not start by themselves: look for schedule_deployments in the server's log, see that the server's "
    f"environment has sqlalchemy{NEEDS['sqlalchemy'][0]} and that its scheduler is on "
    "(PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED), and restart the server. Look again later where the server has just "
    "started, or where the next date is more than 100 days away"
)


def server(
    config: Config, api: str, answers: Callable[[str], bool], expected: dict[str, str]
) -> dict[str, Check]:
    """The checks of a server.

    Args:
        config: says which pools are needed.
        api: address of its API.
        answers: whether a server is healthy at an address.
        expected: the pools of the deployments that there should be, by their names.
    """
    first: dict[str, Check] = {"Prefect": needs, "Prefect's database": lambda: database(api)}
    if not answers(api):
        return {**first, "server": lambda: [_silent(api)]}
    return {
        **first,
        "server": lambda: _server(api),
        "work pools": lambda: _pools(config, expected),
        "deployments": lambda: _deployments(expected),
        "schedules": schedules,
        "alerts": alert_calls.alerts,
    }


def needs(installed: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """The packages here against the versions that Prefect works with.

    Args:
        installed: version by name; none: of this environment.
    """
    there = _installed() if installed is None else installed
    wrong = [
        (f"{name} {there[name]} is not {bound}: {fails}", f"{name}{bound}")
        for name, (bound, fails) in NEEDS.items()
        if name in there and not SpecifierSet(bound).contains(there[name], prereleases=True)
    ]
    if wrong:
        wanted = " ".join(f"'{requirement}'" for _, requirement in wrong)
        todo = f"pip install {wanted} -c constraints.txt, and restart the server and the workers"
        yield Finding("Prefect", "error", "; ".join(found for found, _ in wrong), todo)
    else:
        found = ", ".join(f"{name} {there[name]}" for name in NEEDS if name in there)
        yield Finding("Prefect", "ok", f"{prefect.__version__} works with {found}")


def database(api: str) -> Iterator[Finding]:
    """Whether the database of a server of this machine is a file on a disk of this machine, or PostgreSQL.

    Args:
        api: address of the server; the database of one elsewhere is that machine's.
    """
    if httpx.URL(api).host not in loopback.HOSTS:
        return
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    url = os.environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL") or os.environ.get(
        "PREFECT_API_DATABASE_CONNECTION_URL", ""
    )
    if url and not url.startswith("sqlite"):
        yield Finding("Prefect's database", "ok", f"not SQLite: {url.partition(':')[0]}")
        return
    file = Path(url.partition("///")[2]) if "///" in url else home / "prefect.db"
    kind = filesystem(file.parent)
    if NETWORK.fullmatch(kind):
        todo = (
            "set PREFECT_HOME to a folder on a local disk, or PREFECT_SERVER_DATABASE_CONNECTION_URL to a PostgreSQL database: "
            "SQLite's locks do not hold there, and runs are lost"
        )
        yield Finding(
            "Prefect's database", "warning", f"{file} is SQLite on {kind}, a network file system", todo
        )
    else:
        yield Finding("Prefect's database", "ok", f"{file} on {kind}")


def _installed() -> dict[str, str]:
    found = {}
    for name in NEEDS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # `packages` says so
            continue
    return found


def _silent(api: str) -> Finding:
    host = httpx.URL(api).host
    if host in ("127.0.0.1", "localhost"):
        return Finding("server", "warning", f"none answers at {api}", "`sif run` and `make deploy` start one")
    return Finding("server", "error", f"none answers at {api}", "start it, or correct PREFECT_API_URL")


def _server(api: str) -> Iterator[Finding]:
    try:
        with get_client(sync_client=True) as client:
            there = client.api_version()
            client.read_work_pools(limit=1)
    except PrefectHTTPStatusError as error:
        if error.response.status_code != httpx.codes.UNAUTHORIZED:
            raise
        todo = "set PREFECT_API_AUTH_STRING to the server's user:password"
        yield Finding("server", "error", f"{api} refuses these credentials", todo)
        return
    if there == prefect.__version__:
        yield Finding("server", "ok", f"{api}: Prefect {there}")
    else:
        found = f"{api}: Prefect {there}, and {prefect.__version__} here"
        yield Finding("server", "warning", found, "use one version on both sides")


def _pools(config: Config, expected: dict[str, str]) -> Iterator[Finding]:
    """A pool that a stage is sent to must be there; one that only deployments use is missed by nobody yet."""
    sent = {there: name for name in placement.stages() if (there := placement.pool(config, name))}
    with get_client(sync_client=True) as client:
        found = {pool.name: pool for pool in client.read_work_pools()}
        for name in sorted({*expected.values(), *sent}):
            needed = f", which `pools.{sent[name]}` names" if name in sent else ""
            if name in found:
                yield _pool(client, found[name], needed)
            else:
                verdict: Verdict = "error" if needed else "warning"
                yield Finding(f"pool {name}", verdict, f"the server has none{needed}", DEPLOY)


def _pool(client: SyncPrefectClient, pool: WorkPool, needed: str) -> Finding:
    workers = client.read_workers_for_work_pool(pool.name)
    online = [worker.name for worker in workers if worker.status == WorkerStatus.ONLINE]
    if pool.is_paused:
        return Finding(
            f"pool {pool.name}", "warning", "is paused", "resume it in the UI, when it shall run again"
        )
    if online:
        return Finding(f"pool {pool.name}", "ok", f"{len(online)} live: {', '.join(online)}")
    earlier = f", {len(workers)} gone" if workers else ""
    found = f"no live worker{earlier}{needed}"
    return Finding(
        f"pool {pool.name}", "error" if needed else "warning", found, f"make worker POOL={pool.name}"
    )


def _deployments(expected: dict[str, str]) -> Iterator[Finding]:
    with get_client(sync_client=True) as client:
        found = {deployment.name: deployment for deployment in client.read_deployments()}
    if missing := sorted(expected.keys() - found.keys()):
        yield Finding("deployments", "warning", f"not registered: {', '.join(missing)}", "make deploy")
    if paused := sorted(name for name, deployment in found.items() if deployment.paused):
        yield Finding(
            "deployments",
            "warning",
            f"paused: {', '.join(paused)}",
            "resume them in the UI, if they shall run",
        )
    if not missing and not paused:
        yield Finding("deployments", "ok", f"{len(found)}: {', '.join(sorted(found))}")


def schedules() -> Iterator[Finding]:
    """Whether the server has made a run ahead of time for each deployment whose schedule is active.

    It makes at least three, and those of the next 100 days at most.
    """
    with get_client(sync_client=True) as client:
        known = list(scheduled(client))
    without, new, off = (
        sorted(one.deployment for one in known if one.standing == standing)
        for standing in ("without runs", "new", "off")
    )
    coming = {one.deployment: one.begins for one in known if one.begins}
    if without:
        found = f"active, and the server has scheduled no run: {', '.join(without)}"
        yield Finding("schedules", "error", found, SCHEDULER)
    if new:
        found = f"registered or changed just now, and not scheduled yet: {', '.join(new)}"
        yield Finding("schedules", "warning", found, "look again in two minutes")
    if off:
        todo = "switch them on in the UI, if they shall run"
        yield Finding("schedules", "warning", f"off: {', '.join(off)}", todo)
    if coming or not (without or new or off):
        runs = [f"{name} runs next at {coming[name]:%Y-%m-%d %H:%M} UTC" for name in sorted(coming)]
        yield Finding("schedules", "ok", ", ".join(runs) or "no deployment has one")
