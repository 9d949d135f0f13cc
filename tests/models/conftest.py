"""Toys of the model families, each built once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from sifthinker.models import loading


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's toy; nobody writes into it."""
    root = tmp_path_factory.mktemp("toys")

    @cache
    def built(family: str) -> Path:
        loading.build_tiny(family, 0, root / family)
        return root / family

    return built
