"""What several tests share: a real Prefect server, and a real PostgreSQL server, on loopback, started when they are asked for."""

import gc
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from tests import postgres

settings.register_profile("untimed", deadline=None)  # nothing here is a timed test
settings.register_profile("mutants", deadline=None, max_examples=20)  # each mutant runs the tests anew
settings.load_profile("untimed")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
_CACHE = tempfile.TemporaryDirectory(prefix="sif-tests-")
os.environ["SIF_CACHE"] = _CACHE.name  # digests of files, else kept in the user's cache folder
os.environ.pop("SIF_LEDGER", None)  # tests record nothing in a ledger that is in use
# Which variables these tests may send to servers of their own, see sifthinker/llm/keys.py.
os.environ["SIF_API_KEYS"] = (
    "MY_KEY=127.0.0.1,SIF_TEST_KEY=127.0.0.1,DOCTOR_KEY=127.0.0.1,DOCTOR_KEY=api.example.org"
)

pytest_plugins = ("tests.s3_server",)
SERVERS = {"prefect_server", "postgres_server", "bucket"}  # fixtures that start one
ROOMS = ("training", "pretraining", "models")  # train, or serve a model: e2e as a whole
# The e2e files that take longest (25 s and more in a run of 2026-12-02), longest first. They start first: one that starts last keeps
# one process at work while the others have nothing left to do.
LONGEST = (
    "flows/test_end_to_end.py",
    "infra/test_prefect.py",
    "faults/test_faults.py",
    "infra/test_alerts.py",
    "infra/test_deployments.py",
    "flows/test_preview.py",
    "faults/test_hanging_endpoint.py",
    "infra/test_image.py",
    "flows/test_exact_rows.py",
    "flows/test_exit_codes.py",
    "flows/test_ablation.py",
    "flows/test_nothing_kept.py",
    "flows/test_run_command.py",
    "flows/test_local_annotator.py",
    "flows/test_server.py",
    "llm/test_two_hosts.py",
    "llm/test_conformance.py",
    "flows/test_model_commands.py",
    "tasks/test_pipeline.py",
    "infra/test_pools.py",
)
TESTS = Path(__file__).resolve().parent
SHARED = TESTS.parents[1] / "shared" / "data"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Quick tests skip the rooms in which none is quick: reading those files loads the trainers, once a process."""
    skip = "not e2e" in config.option.markexpr and collection_path in {TESTS / room for room in ROOMS}
    return True if skip else None  # None: the others decide


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What trains, serves a model or needs a server takes minutes in all: it is `e2e`, not quick. The longest files go first."""
    for item in items:
        in_room = {TESTS / room for room in ROOMS} & set(item.path.parents)
        if in_room or SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker("e2e")
    first = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path, len(first)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keeps the garbage collector from what collecting loads: half a million objects that stay to the end.

    Looking through them again and again took a tenth of the quick tests' processor time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real test data that is kept beside the project."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    return SHARED


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    with postgres.serving() as server:
        yield server


@pytest.fixture
def database(postgres_server: postgres.Server) -> str:
    """The URL of a database without a ledger."""
    import psycopg

    with psycopg.connect(postgres_server.url, autocommit=True) as db:
        db.execute("DROP SCHEMA IF EXISTS sifthinker CASCADE")
    return postgres_server.url


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new database of Prefect's, for the homes of servers. Making its tables takes longer than all else of a first start.

    tests/infra/test_prefect.py has servers that make their own.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # one for all processes
    home = root / "prefect-database"
    with FileLock(root / "prefect-database.lock"):
        if not (home / "made").exists():
            command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
            inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
            subprocess.run(
                command, env={**inherited, "PREFECT_HOME": str(home)}, check=True, capture_output=True
            )
            (home / "made").touch()
    return home / "prefect.db"


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[str]:
    """The API address of a Prefect server of these tests' own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("prefect")
    shutil.copy(prefect_database, home)
    os.environ["PREFECT_HOME"] = str(home)
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    os.environ["PREFECT_LOGGING_TO_API_ENABLED"] = "false"
    from flows import server
    from sifthinker.system.processes import end

    server.ensure()
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: os.environ["PREFECT_API_URL"]}):
        yield os.environ["PREFECT_API_URL"]
    end(int((home / "server.pid").read_text()))
