"""The real data flow on a store in S3: a machine with an empty cache runs nothing, and damage is made again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sifthinker.store.artifacts import Store
from sifthinker.store.s3 import Remote
from tests.flows.test_end_to_end import SIF, manifests, sif, states

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(900)]
LAST = "ingest"


def test_a_machine_with_an_empty_cache_runs_nothing_and_damage_is_made_again(
    bucket: str, tmp_path: Path
) -> None:
    def run(cache: Path) -> dict[str, str]:
        sif(cache, "run", "--stop-after", LAST, settings=[f"remote={bucket}"])
        return states(cache)

    first, second, third = (tmp_path / name for name in "abc")
    assert "Cached" not in run(first).values()
    assert set(run(second).values()) == {"Cached"}
    made = manifests(first)["ingest"]
    name = next(iter(made["files"]))
    Remote(bucket).write(f"ingest/{made['key']}/{name}", b"damaged")
    after = run(third)
    assert after["ingest"] == "Completed" and after["scenes"] == "Cached"
    again = Store(third).find("ingest", made["key"])
    assert again and again.ref.digest == made["digest"]
    listed = subprocess.run(
        [SIF, "status", "--store", str(third)], capture_output=True, text=True, timeout=120
    )
    assert "ingest/" in listed.stdout and "gone" not in listed.stdout, listed.stderr
