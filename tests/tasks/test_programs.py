"""Programs in their own process group: followed, ended with the run, reaped after a kill."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from sifthinker.system import processes
from tasks.runtime import programs

# A child that starts a grandchild, and says both ids.
FAMILY = (
    "import subprocess, sys, time; "
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    "print(child.pid, flush=True); time.sleep(60)"
)


def job(work: Path) -> Any:
    seen: list[tuple[float, str]] = []
    progress = SimpleNamespace(total=None, at=lambda done, note: seen.append((done, note)), seen=seen)
    return SimpleNamespace(
        work=work, log=logging.getLogger("test"), order=SimpleNamespace(label="sft"), progress=progress
    )


def running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_progress_is_passed_on_line_by_line(tmp_path: Path) -> None:
    lines = [json.dumps({"step": n, "total": 3, "loss": 1 / n}) for n in (1, 2, 3)]
    file = tmp_path / "progress.jsonl"
    program = f"import time, pathlib\nfor l in {lines!r}:\n  open({str(file)!r}, 'a').write(l + chr(10)); time.sleep(0.7)"
    j = job(tmp_path)
    programs.follow(j, [sys.executable, "-c", program], file, None)
    assert j.progress.total == 3
    assert j.progress.seen[-1][0] == 3
    assert "loss 0.333" in j.progress.seen[-1][1]


def test_a_failed_program_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(programs.ProgramFailed, match=r"(?s)status 3.*the reason"):
        programs.follow(
            job(tmp_path),
            [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"],
            tmp_path / "p",
            None,
        )
    assert not (tmp_path / "pid.json").exists()


def test_a_time_limit_ends_the_whole_group(tmp_path: Path) -> None:
    with pytest.raises(programs.ProgramFailed, match="time limit"):
        programs.follow(job(tmp_path), [sys.executable, "-c", FAMILY], tmp_path / "p", 1.5)
    grandchild = int((tmp_path / "log.txt").read_text().split()[0])
    assert not running(grandchild)


def test_an_orphan_of_a_killed_run_is_ended_before_the_next_start(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        orphan = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=log, start_new_session=True)
    (tmp_path / "pid.json").write_text(json.dumps(processes.here(orphan.pid)))
    while not (tmp_path / "log").read_text().strip():
        time.sleep(0.05)
    grandchild = int((tmp_path / "log").read_text())
    programs.reap(tmp_path / "pid.json")
    orphan.wait(5)
    assert not running(grandchild)
    assert not (tmp_path / "pid.json").exists()


def test_a_reused_process_id_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pid.json").write_text(json.dumps({**processes.here(os.getpid()), "started": 1.0}))
    programs.reap(tmp_path / "pid.json")  # would end this very test
    assert not (tmp_path / "pid.json").exists()
