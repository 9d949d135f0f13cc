"""A run ends within 15 seconds of being told to, whatever its endpoint does.

The endpoint is a server of the test; the run is a real `sif run` whose data stages are made.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import evil
from tests.faults.conftest import FIELDS, PrefectServer, Sif, until
from tests.faults.test_faults import cancel, latest

pytestmark = pytest.mark.timeout(600)
SOON = 15.0  # seconds

ENDPOINTS: dict[str, evil.Answer | None] = {
    "asks for a day's pause": (429, {"Retry-After": "86400"}, b"come back tomorrow"),
    "never answers": None,
    "stalls in the middle of a body": (200, {"content-length": "9999"}, b'{"choices": [{"message": '),
}


@pytest.fixture(scope="module")
def data(prefect: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Sif:
    """A store in which everything is made that annotation needs."""
    fields = {name: value for name, value in FIELDS.items() if not name.startswith(("sft.", "grpo."))}
    sif = Sif(prefect, tmp_path_factory.mktemp("data") / "store", fields)
    sif.finish("--stop-after", "depth")
    return sif


@pytest.fixture
def sif(data: Sif, tmp_path: Path) -> Iterator[Sif]:
    shutil.copytree(data.store, tmp_path / "store")
    made = Sif(data.prefect, tmp_path / "store", dict(data.fields))
    yield made
    for run in made.started:
        for process in run.family():
            process.kill()


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        pytest.param(
            endpoint,
            told,
            marks=pytest.mark.e2e
            if (endpoint, told)
            in {
                ("asks for a day's pause", "Cancel"),
                ("never answers", "SIGTERM"),
                ("stalls in the middle of a body", "SIGINT"),
            }
            else pytest.mark.slow,
        )
        for endpoint in ENDPOINTS
        for told in ("Cancel", "SIGTERM", "SIGINT")
    ],
)
def test_a_run_that_waits_for_its_endpoint_ends_when_it_is_told_to(
    sif: Sif, endpoint: str, told: str
) -> None:
    with evil.serving(lambda *_: ENDPOINTS[endpoint]) as server:
        sif.fields["annotate.api.base_url"] = server.url
        run = sif.start("--stop-after", "annotate")
        until(lambda: server.asked or run.process.poll() is not None, "the endpoint is asked", 200)
        time.sleep(3)
        assert run.process.poll() is None, run.log.read_text()
        since = time.monotonic()
        if told == "Cancel":
            cancel(sif.prefect, latest(sif.prefect)["id"])
        else:
            os.kill(run.process.pid, signal.Signals[told])
        until(lambda: run.process.poll() is not None, f"the run ends: {run.log.read_text()[-3000:]}", 60)
        took = time.monotonic() - since
        print(f"{endpoint}, {told}: {took:.1f} s")
    assert took < SOON, run.log.read_text()
    until(lambda: not run.family(), "no process of the run is left", 5)
    assert run.process.returncode != 0
    expected = "Cancelled" if told == "Cancel" else "Crashed"
    assert latest(sif.prefect)["state"]["name"] == expected, run.log.read_text()
    assert not sif.prefect.going()
    assert not sif.reserved()
    if endpoint == "asks for a day's pause":
        assert "nothing is sent until" in run.log.read_text()
