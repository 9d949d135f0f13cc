"""What tests of calls share: a PostgreSQL server, and both kinds of ledgers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests import postgres
from tests.ledgers import Kind


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    with postgres.serving() as server:
        yield server


@pytest.fixture
def database(postgres_server: postgres.Server) -> str:
    """The URL of a database without a ledger."""
    with psycopg.connect(postgres_server.url, autocommit=True) as db:
        db.execute("DROP SCHEMA IF EXISTS sifthinker CASCADE")
    return postgres_server.url


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    """A ledger that is not made yet, of each kind."""
    path = tmp_path / "calls.db"
    return Kind(path) if request.param == "sqlite" else Kind(path, request.getfixturevalue("database"))
