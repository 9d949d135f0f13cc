"""A whole data run with a model of this machine as the annotator: it ends clearly, and leaves no process behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sifthinker.core.tables import read
from tests.flows.test_end_to_end import line

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
NO_VLLM = pytest.mark.skipif(shutil.which("vllm") is None, reason="there is no vllm on the PATH")
SHARED_MEMORY = Path("/dev/shm")
ROOT = Path(__file__).resolve().parents[2]
ROWS = 4


def shared_memory() -> set[str]:
    """What programs keep in memory files, but PostgreSQL's, whose tests may run beside these."""
    return {path.name for path in SHARED_MEMORY.iterdir() if not path.name.startswith("PostgreSQL")}


def left_in(folder: Path) -> list[str]:
    """Processes that work in a folder: whatever a command that was started there has started."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:  # it has ended, or is another user's
            continue
    return found


def soon(empty: Callable[[], object], seconds: float = 30) -> object:
    """What is left after a while: nothing, as soon as there is nothing."""
    deadline = time.monotonic() + seconds
    while (found := empty()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


@pytest.mark.parametrize(
    "served_by",
    ["transformers", pytest.param("vllm", marks=[pytest.mark.slow, pytest.mark.timeout(3600), NO_VLLM])],
)
def test_a_run_whose_local_annotator_writes_no_chain_ends_with_the_reason_and_leaves_nothing(
    tmp_path: Path, prefect_server: str, served_by: str
) -> None:
    model = tmp_path / "annotator"
    shutil.copytree(ROOT / "sifthinker" / "models" / "miniature" / "policy", model)
    settings = [
        f"scenes.rows={ROWS}",
        "ingest.shards=1",
        "annotate.api.base_url=local",
        f"annotate.api.model={model}",
        f"annotate.api.local_server={served_by}",
        "annotate.attempts=1",
        "annotate.max_tokens=64",
        "evaluate.benchmarks=[]",
    ]
    asked = line(tmp_path / "store", "run", ("--stop-after", "publish"), settings)
    before = shared_memory()
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(asked, cwd=home, capture_output=True, text=True, timeout=3000, env=os.environ)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert "Traceback" not in said
    words = " ".join(said.split())
    assert f"no row was kept of {ROWS}: " in words, said
    assert "For example " in words and "Mend the cause" in words, said
    (rejects,) = (tmp_path / "store").glob("annotate/*.work/rejects.parquet")
    rows = list(read(rejects))
    assert len(rows) == ROWS and {row["stage"] for row in rows} == {"annotate"}
    assert not list((tmp_path / "store").glob("annotate/*/manifest.json"))
    assert not (tmp_path / "store" / "publish").exists()
    assert soon(lambda: left_in(home)) == []
    assert soon(lambda: shared_memory() - before) == set()
