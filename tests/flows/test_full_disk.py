"""The flow on a disk that is full: the run fails with what to do, and the next one, with room, finishes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sifthinker.store.artifacts import Store

pytestmark = pytest.mark.e2e
SIF = [sys.executable, "-c", "from flows.commands.main import main; main()"]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "sif-test", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a file system, and not in every container")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_run_on_a_full_disk_says_so_and_finishes_with_room(prefect_server: str, small: Path) -> None:
    fields = [f"store={small / 'store'}", "scenes.rows=24", "scenes.benchmark_rows=8"]
    options = [word for field in fields for word in ("--set", field)]

    def run() -> subprocess.CompletedProcess[str]:
        command = [*SIF, "run", "--config", "smoke", *options, "--stop-after", "scenes"]
        return subprocess.run(command, capture_output=True, text=True, timeout=250)

    failed = run()
    assert failed.returncode == 2, "something for the user to mend"
    assert "scenes: " in failed.stdout and "the disk is full; make room" in failed.stdout.replace("\n", " ")
    assert "Traceback" not in failed.stdout + failed.stderr
    assert not Store(small / "store").manifests("scenes"), "nothing half-written is taken for whole"
    subprocess.run(["mount", "-o", "remount,size=100m", str(small)], check=True)
    finished = run()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (made,) = Store(small / "store").manifests("scenes")
    assert Store(small / "store").find("scenes", made["key"])
