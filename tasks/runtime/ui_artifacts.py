"""What people look at in the UI. If the server does not answer, a line in the log says so and the stage goes on.

Nothing waits for the server here. After a call that failed no other is made for a while, so that a server that hangs
costs a stage little.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from sifthinker.reporting import bought
from tasks.runtime import server_away

logger = logging.getLogger(__name__)

QUIET = 60.0  # seconds after a failed call in which progress and pages are not shown
TRAINING = "-training"  # ends the key of a training's page
ENDED = re.compile(r": (completed|failed|stopped) after |: ended with its run")
_quiet_until = 0.0  # of this process


def markdown(text: str, key: str, description: str) -> Any:
    """Shows a text; its id, or None where the server could not be told."""
    return _told(lambda: create_markdown_artifact(text, key=key, description=description), description)


def progress(percent: float, description: str, artifact: Any = None, last: bool = False) -> Any:
    """Shows how far something is, as a new artifact or in the `artifact` that a call before gave; its id, or None.

    Args:
        percent: that is done.
        description: the same in words.
        artifact: to be renewed.
        last: nothing may come after it, so it is tried although a call before has failed.
    """
    if time.monotonic() < _quiet_until and not last:
        return artifact
    if artifact is None:
        return _told(lambda: create_progress_artifact(percent, description=description), description)
    _told(lambda: update_progress_artifact(artifact, percent, description), description)
    return artifact


def page(text: str, key: str, description: str, artifact: Any = None) -> Any:
    """Shows a text that is renewed in place, as a new artifact or in the `artifact` that a call before gave; its id, or None."""
    if time.monotonic() < _quiet_until:
        return artifact
    if artifact is None:
        return markdown(text, key, description)

    def renew() -> None:
        with get_client(sync_client=True) as client:
            client.update_artifact(
                artifact_id=artifact, artifact=ArtifactUpdate(data=text, description=description)
            )

    _told(renew, description)
    return artifact


def describe(artifact: Any, description: str) -> None:
    """Renews what is said of an artifact, and leaves what it shows."""

    def renew() -> None:
        with get_client(sync_client=True) as client:
            client.update_artifact(artifact_id=artifact, artifact=ArtifactUpdate(description=description))

    _told(renew, description)


def close(client: SyncPrefectClient, run: UUID, why: str) -> None:
    """Says of a run whose process is gone that nothing more comes, wherever its artifacts say that something would.

    Raises:
        httpx.HTTPError: the server does not answer.
    """
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    for artifact in client.read_artifacts(artifact_filter=of_run):
        renewed = artifact.type == "progress" or (artifact.key or "").endswith(TRAINING)
        said = artifact.description or ""
        if renewed and not ENDED.search(said):
            what, _, before = said.partition(": ")
            text = f"{what}: ended with its run: {why}. It said before: {before}"
            client.update_artifact(artifact.id, ArtifactUpdate(description=text))


def _told(tell: Callable[[], Any], what: str) -> Any:
    global _quiet_until
    try:
        return server_away.told(tell)
    except Exception as error:
        if not server_away.is_away(error):
            raise
        server_away.note()
        _quiet_until = time.monotonic() + QUIET
        kind = type(error).__name__
        logger.warning(
            "%s: could not be shown, the Prefect server did not take it: %s: %s", what, kind, error
        )
        return None


def summary(label: str, manifest: Mapping[str, Any]) -> str:
    """A stage's outcome in Markdown."""
    rows = manifest["rows"]
    lines = [
        f"### {label}",
        "",
        "| rows in | kept | rejected | seconds | key | digest |",
        "|---|---|---|---|---|---|",
        f"| {rows['in']} | {rows['kept']} | {sum(rows['rejected'].values())} | {bought.seconds(manifest):.1f} "
        f"| `{manifest['key']}` | `{manifest['digest'][:12]}` |",
    ]
    if rows["rejected"]:
        lines += ["", "| rejected because | rows |", "|---|---|"]
        lines += [f"| {reason} | {count} |" for reason, count in rows["rejected"].items()]
    notes = {
        name: value for name, value in bought.notes(manifest).items() if not isinstance(value, (dict, list))
    }
    if (tries := bought.tries(manifest)) > 1:
        lines += ["", f"Seconds and what was bought are of {tries} tries."]
    if notes:
        lines += ["", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in notes.items())]
    return "\n".join(lines)
