"""Registers the work pools and deployments of prefect.yaml with the server of PREFECT_API_URL.

May be repeated: deployments and their schedules are updated. Pools that are there, what is paused, parameters, and schedules that
people added in the UI stay as people have set them.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.exceptions import ObjectNotFound

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this file is run by its path

from infra import interrupted, parameters  # noqa: E402
from sifthinker.core.errors import UserError  # noqa: E402

FILE = Path("infra") / "prefect.yaml"


def main() -> None:
    """Registers everything, and ends with the status of the command that does so."""
    if not os.environ.get("PREFECT_API_URL"):  # Prefect would start a server that ends with this command
        sys.exit("deploy: set PREFECT_API_URL to the server's address, e.g. http://127.0.0.1:4200/api")
    if wrong := _away():
        sys.exit(f"deploy: {wrong}")
    # -m: this file is run by its path, and the modules beside it are found from the root
    if status := subprocess.call([sys.executable, "-m", "infra.pools"], cwd=ROOT):
        sys.exit(status)
    with get_client(sync_client=True) as client:
        for line in keep(client):
            print(line)
        entries = {_name(entry): entry for entry in _entries()}
        try:
            kept = parameters.found(client, entries)
        except UserError as error:
            sys.exit(f"deploy: {error}")
        paused = [deployment.id for deployment in client.read_deployments() if deployment.paused]
        undone, cut_off = interrupted.note(client, interrupted.Undone(paused, kept))
        if cut_off:
            print("an earlier registration was interrupted: what people had set before it is put back now")
        print("registering the deployments; a minute", flush=True)
        # -m: this folder is then on the import path, for the steps
        command = ["-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(FILE)]
        try:
            done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
        finally:  # also where somebody interrupts this
            interrupted.pause(client, undone)
            for line in parameters.restore(client, undone.kept):
                print(line)
            interrupted.forget(client)
        if done.returncode:
            print(done.stdout, done.stderr, file=sys.stderr, sep="\n")
            sys.exit(done.returncode)
        parameters.remember(client, entries)
        # In the place of Prefect's dozen lines on each, which name a worker that does not wait for its runs.
        for line in registered(client):
            print(line)
    sys.exit(subprocess.call([sys.executable, "-m", "infra.automations"], cwd=ROOT))


def _away() -> str:
    """Why the server cannot be asked, and what to do; "" where it can."""
    api = os.environ["PREFECT_API_URL"]
    try:
        with get_client(sync_client=True) as client:
            client.read_work_pools(limit=1)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in (401, 403):
            return f"the server at {api} refuses this machine: set PREFECT_API_AUTH_STRING to user:password"
        return f"the server at {api} answers with status {status}; see that the address ends in /api"
    except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:
        return f"no Prefect server answers at {api} ({error}); start it, or correct PREFECT_API_URL"
    return ""


def registered(client: SyncPrefectClient) -> Iterator[str]:
    """Our deployments on the server with their pools, and what carries their runs out."""
    entries = _entries()
    for entry in entries:
        found = client.read_deployment_by_name(_name(entry))
        paused = " (paused)" if found.paused else ""
        yield f"deployment {_name(entry)} is registered, pool {entry['work_pool']['name']}{paused}"
    pools = dict.fromkeys(entry["work_pool"]["name"] for entry in entries)
    yield f"Their runs wait for a worker: make worker POOL={next(iter(pools))} (pools: {', '.join(pools)})"


def _entries() -> list[dict[str, Any]]:
    return list(yaml.safe_load((ROOT / FILE).read_text(encoding="utf-8"))["deployments"])


def _name(entry: Mapping[str, Any]) -> str:
    """As Prefect's command knows it: the flow's name and its own."""
    return f"{entry['entrypoint'].rpartition(':')[2]}/{entry['name']}"


def keep(client: SyncPrefectClient) -> Iterator[str]:
    """Names the schedules that have no name, so that registering leaves them; says what becomes of people's schedules.

    Registering updates schedules by their names (slugs). Where one of a deployment has none, as those that the UI makes,
    Prefect removes all of them and makes those of prefect.yaml anew, pauses forgotten.
    """
    for entry in _entries():
        try:
            found = client.read_deployment_by_name(_name(entry))
        except ObjectNotFound:  # the first time
            continue
        ours = {schedule["slug"]: schedule for schedule in entry.get("schedules", ())}
        for schedule in found.schedules:
            what = f"{entry['name']}: the schedule {schedule.slug or _times(schedule)}"
            if schedule.slug is None:
                name = f"added-{str(schedule.id)[:8]}"
                # Parameters, too: Prefect would empty them.
                client.update_deployment_schedule(
                    found.id, schedule.id, slug=name, parameters=schedule.parameters
                )
                yield f"{what}, which somebody added, stays; it is called {name} now"
            elif schedule.slug not in ours:
                yield f"{what} ({_times(schedule)}), which is not in prefect.yaml, stays"
            elif (before := _times(schedule)) != (now := "{cron} {timezone}".format(**ours[schedule.slug])):
                yield f"{what} is as in prefect.yaml again: {now}, not {before}"


def _times(schedule: DeploymentSchedule) -> str:
    of = schedule.schedule.model_dump(mode="json")
    times = of.get("cron") or of.get("rrule") or f"every {of.get('interval')} s"
    return f"{times} {of.get('timezone') or 'UTC'}"


if __name__ == "__main__":
    # As Ctrl-C: what people have set is put back.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    main()
