"""What people look at in the UI. If the server does not answer, a line in the log says so and the stage goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import httpx
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

logger = logging.getLogger(__name__)


def markdown(text: str, key: str, description: str) -> Any:
    """Shows a text; its id, or None where the server could not be told."""
    return _told(lambda: create_markdown_artifact(text, key=key, description=description), description)


def progress(percent: float, description: str, artifact: Any = None) -> Any:
    """Shows how far something is, as a new artifact or in the `artifact` that a call before gave; its id, or None."""
    if artifact is None:
        return _told(lambda: create_progress_artifact(percent, description=description), description)
    _told(lambda: update_progress_artifact(artifact, percent, description), description)
    return artifact


def _told(tell: Callable[[], Any], what: str) -> Any:
    try:
        return tell()
    except (httpx.HTTPError, RuntimeError) as error:
        # Of an API out of reach Prefect's client raises a plain RuntimeError; any other is a mistake of ours.
        if isinstance(error, RuntimeError) and "reach API" not in str(error):
            raise
        kind = type(error).__name__
        logger.warning(
            "%s: could not be shown, the Prefect server did not take it: %s: %s", what, kind, error
        )
        return None
