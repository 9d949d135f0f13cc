"""The Prefect server's part of `sif doctor`: whether it answers, its pools and their workers, its deployments."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import prefect
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import WorkerStatus, WorkPool
from prefect.exceptions import PrefectHTTPStatusError

from sifthinker.config import Config
from sifthinker.doctor import Check, Finding, Verdict
from tasks import placement

DEPLOY = "make deploy registers it"


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
    if not answers(api):
        return {"server": lambda: [_silent(api)]}
    return {
        "server": lambda: _server(api),
        "work pools": lambda: _pools(config, expected),
        "deployments": lambda: _deployments(expected),
    }


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
    fields = type(config.pools).model_fields
    sent = {there: name for name in fields if name != "wait" and (there := placement.pool(config, name))}
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
