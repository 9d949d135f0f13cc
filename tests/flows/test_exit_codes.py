"""What `sif run` ends with when a training program finds a mistake of the user's: the whole way, from a rank to the shell."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from sifthinker.store.artifacts import Store
from sifthinker.store.runs import runs

ROOT = Path(__file__).resolve().parents[2]
# The first stage that starts a program, on two ranks under torchrun, whose own exit code is 1 whatever a rank says.
FIELDS = {
    "scenes.rows": 6,
    "scenes.benchmark_rows": 2,
    "ingest.shards": 1,
    "publish.rl_samples": 2,
    "sft.max_steps": 1,
    "sft.batch": 1,
    "sft.accumulation": 1,
    "sft.ranks": 2,
    "sft.trackers": "[wandb]",
}


@pytest.mark.timeout(900)  # a loaded machine
@pytest.mark.skipif(find_spec("wandb") is not None, reason="the mistake is that wandb is not installed")
def test_a_mistake_that_a_rank_finds_is_shown_and_ends_the_run_with_2_at_the_first_try(
    prefect_server: str, tmp_path: Path
) -> None:
    fields = {**FIELDS, "store": str(tmp_path / "store")}
    options = [word for name, value in fields.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "flows", "run", "--verbose", "--config", "smoke", *options]
    command += ["--stop-after", "sft"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 2, said
    assert "failed: sft: trackers: wandb is not installed" in ended.stdout
    assert "Traceback" not in said
    [log] = (tmp_path / "store").glob("sft/*.work/log.txt")
    assert said.count(f"(log: {log})") == 1, "another try would find the same"
    [run] = runs(Store(tmp_path / "store"))
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(run["id"]).state_name == "UserError"
