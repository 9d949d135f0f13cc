"""What tests of calls share: both kinds of ledgers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ledgers import Kind


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    """A ledger that is not made yet, of each kind."""
    path = tmp_path / "calls.db"
    return Kind(path) if request.param == "sqlite" else Kind(path, request.getfixturevalue("database"))
