"""What people have set and registering undoes for a moment, noted on the server until it is set back.

Registering resumes deployments that are paused and sets parameters to those of prefect.yaml; `deploy.py` puts both back at its end.
A process that is killed in between cannot. The next one finds the note, and puts them back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact
from prefect.exceptions import ObjectNotFound

from infra.parameters import Kept

KEY = "sif-registering"  # of an artifact: a variable of Prefect holds 5,000 characters, and a configuration may be longer


@dataclass(frozen=True)
class Undone:
    """What registering undoes.

    Attributes:
        paused: deployments that it resumes.
        kept: parameters that it sets anew.
    """

    paused: Sequence[UUID]
    kept: Sequence[Kept]


def note(client: SyncPrefectClient, now: Undone) -> tuple[Undone, bool]:
    """Notes what is about to be undone; with what an interrupted registration has left undone, and whether there was one."""
    left = [_read(artifact) for artifact in _noted(client)]
    paused = dict.fromkeys([*(one for earlier in left for one in earlier.paused), *now.paused])
    kept = {one.deployment: one for earlier in left for one in earlier.kept}
    for one in now.kept:
        before = kept.get(one.deployment)
        kept[one.deployment] = Kept(
            one.name, one.deployment, {**(before.values if before else {}), **one.values}
        )
    undone = Undone([*paused], [*kept.values()])
    if not left and not undone.paused and not undone.kept:
        return undone, False
    text = {
        "paused": [str(one) for one in undone.paused],
        "kept": [{"name": k.name, "deployment": str(k.deployment), "values": k.values} for k in undone.kept],
    }
    said = "What people had set when `make deploy` began. It is set back, and this removed, at its end, or by the next one."
    client.create_artifact(ArtifactCreate(key=KEY, type="json", description=said, data=json.dumps(text)))
    return undone, bool(left)


def pause(client: SyncPrefectClient, undone: Undone) -> None:
    """Pauses again what registering has resumed."""
    for deployment in undone.paused:
        with suppress(ObjectNotFound):  # somebody has removed it since
            client.pause_deployment(deployment)


def forget(client: SyncPrefectClient) -> None:
    """Removes the note: everything is set back."""
    for artifact in _noted(client):
        client.delete_artifact(artifact.id)


def _noted(client: SyncPrefectClient) -> list[Artifact]:
    """The earliest first."""
    found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[KEY])))
    return sorted(found, key=lambda artifact: str(artifact.created))


def _read(artifact: Artifact) -> Undone:
    text = json.loads(str(artifact.data))
    kept = [Kept(one["name"], UUID(one["deployment"]), one["values"]) for one in text["kept"]]
    return Undone([UUID(one) for one in text["paused"]], kept)
