"""A whole reproduction on a ledger in PostgreSQL: nothing is paid twice, by this host or by another one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sifthinker.llm import standin
from tests.flows.test_end_to_end import LABELS, line, manifests, states
from tests.ledgers import Kind

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


def test_a_run_to_its_report_pays_once_whoever_runs_it_again(
    tmp_path: Path, prefect_server: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIF_LEDGER", database)
    book = Kind(Path(), database)
    with standin.running(tmp_path / "standin.log") as url:
        settings = [
            f"annotate.api.base_url={url}",
            f"grpo.judge.base_url={url}",
            "grpo.save_steps=2",
        ]

        def sif(store: Path, *arguments: str) -> None:
            asked = line(store, "run", arguments, settings)
            done = subprocess.run(asked, capture_output=True, text=True, timeout=1200, env=os.environ)
            assert done.returncode == 0, done.stdout + done.stderr

        def paid() -> tuple[dict[str, int], int]:
            """Requests of the ledger by state, and answers that the provider bills."""
            states = dict(book.run("SELECT state, count(*) FROM calls GROUP BY state"))
            return states, standin.counts(url)["answered"]

        store = tmp_path / "store"
        sif(store)
        made = manifests(store)
        assert list(made) == LABELS and list(store.glob("report/*/report.html"))
        assert not list(store.glob("calls.sqlite*")), "the ledger is in the database"
        once = paid()
        states_once, billed = once
        assert set(states_once) == {"ok"}
        bought = made["annotate"]["notes"]["calls"] + made["evaluate"]["notes"]["calls"]
        assert states_once["ok"] >= bought > made["annotate"]["rows"]["kept"]
        # The policy's own server bills nobody. GRPO's pre-flight asks the judge one question that is in no ledger.
        assert billed == states_once["ok"] - made["evaluate"]["notes"]["calls"] + 1

        sif(store)
        assert set(states(store).values()) == {"Cached"}
        assert paid() == once

        other = tmp_path / "another host"  # an empty store: it makes the chains, and asks nobody
        sif(other, "--stop-after", "annotate")
        again = manifests(other)["annotate"]
        assert again["digest"] == made["annotate"]["digest"]
        assert (again["notes"]["calls"], again["rows"]) == (0, made["annotate"]["rows"])
        assert paid() == once
