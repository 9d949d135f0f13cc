"""Dead letters through the whole flow: asked again alone, twice, published; and the key is nowhere afterwards."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest

from sifthinker.core.tables import read
from sifthinker.llm import standin
from tests.flows.test_end_to_end import line, manifests, states

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
KEY = "not-a-real-key-5ebe2294ecd0e0f0"
FAULTS = {"wrong-depths": 0.5, "500": 0.1, "429": 0.05}  # drawn by the request: another model draws anew


@pytest.fixture
def sif(tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch):
    """Runs a `sif` command against a stand-in with faults, as if it were somebody's endpoint; what it printed."""
    monkeypatch.setenv("SIF_TEST_KEY", KEY)
    monkeypatch.setenv("PREFECT_LOGGING_TO_API_ENABLED", "true")
    with standin.running(tmp_path / "standin.log", FAULTS) as url:
        settings = [
            "scenes.rows=32",
            f"annotate.api.base_url={url}",
            "annotate.api.api_key_env=SIF_TEST_KEY",
            "annotate.api.prices={prompt: 2.0, completion: 8.0}",
            "annotate.attempts=1",
            "max_rejected=1",  # half of the rows are dead letters
            "evaluate.benchmarks=[]",
        ]

        def sif(command: str, *arguments: str, more: tuple[str, ...] = ()) -> str:
            done = subprocess.run(
                line(tmp_path / "store", command, arguments, [*settings, *more]),
                capture_output=True,
                text=True,
                timeout=600,
                env=os.environ,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert KEY not in done.stdout + done.stderr
            return done.stdout

        sif.asked = lambda: standin.counts(url)["answered"]  # type: ignore[attr-defined]
        yield sif


def test_two_passes_over_the_dead_letters_are_published_and_the_key_is_nowhere(sif, tmp_path: Path) -> None:
    store = tmp_path / "store"
    sif("annotate")
    first = manifests(store)["annotate"]["rows"]
    assert first["rejected"]["depths"] > 0
    listed = sif("annotate", "--rejected")
    assert re.search(rf"depths +{first['rejected']['depths']}", listed)

    before = sif.asked()
    again = ("retry.passes=[{model: other}, {model: third, reasons: [depths]}]",)
    planned = sif("plan", more=again)
    assert re.search(r"retry +runs .*rows: [\d,]+ calls, .* tokens, .* USD", " ".join(planned.split()))
    sif("run", "--stop-after", "subset", more=again)
    made = manifests(store)
    assert {name: states(store)[name] for name in ("annotate", "retry", "publish")} == {
        "annotate": "Cached",
        "retry": "Completed",
        "publish": "Completed",
    }
    rows = made["retry"]["rows"]
    assert rows["in"] == first["in"] == rows["kept"] + sum(rows["rejected"].values())
    assert rows["kept"] > first["kept"]
    assert made["publish"]["rows"]["in"] >= rows["kept"]
    rejected = sum(first["rejected"].values())
    assert rejected <= sif.asked() - before <= 2 * rejected  # nothing of the rows that were accepted
    notes = made["retry"]["notes"]
    assert notes["calls"] == sif.asked() - before, "the calls of both passes"
    price = (2.0 * notes["prompt_tokens_bought"] + 8.0 * notes["completion_tokens_bought"]) / 1e6
    assert notes["cost"] == f"{price:.4f} USD"
    published = {row["id"] for row in read(sorted(store.glob("publish/*/data/sif-*.parquet")), ["id"])}
    assert len(published) == made["publish"]["rows"]["kept"]

    asked = sif.asked()
    sif("run", "--stop-after", "subset", more=again)
    assert sif.asked() == asked
    assert set(states(store).values()) == {"Cached"}

    home = Path(os.environ["PREFECT_HOME"])
    with sqlite3.connect(home / "prefect.db") as server:  # what is in its write-ahead log belongs to it
        tables = [name for (name,) in server.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert "log" in tables
        for table in tables:
            for row in server.execute(f'SELECT * FROM "{table}"'):
                assert KEY not in str(row), table
    for folder in (store, home):
        for path in folder.rglob("*"):
            if path.is_file():
                assert KEY.encode() not in path.read_bytes(), path
