"""The composed services, once for all files of this folder. Their tests are one story, in the order of the files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.composed import Stack, without_docker


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The composed services, removed at the end with their volumes."""
    if why := without_docker():
        pytest.skip(f"needs Docker with Compose 2.24: {why}")
    kept = os.environ.get("SIF_CONTAINERS")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("containers")
    folder.mkdir(parents=True, exist_ok=True)
    made = Stack.at_folder(folder.resolve())
    try:
        yield made
    finally:
        said = made.compose("logs", "--no-color", "--timestamps", check=False)
        (folder / "compose.log").write_text(said, encoding="utf-8")
        if not kept:
            made.compose("down", "--volumes", "--timeout", "20", check=False)
