"""This machine and this checkout in a few words, for reports."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import psutil

_SECONDS = 20  # that a command may take


def describe() -> str:
    """Processor, cores, memory and GPUs."""
    memory = psutil.virtual_memory().total / 2**30
    cores = len(os.sched_getaffinity(0))
    parts = [_processor(), f"{cores} core{'s' if cores > 1 else ''}", f"{memory:.0f} GiB of memory"]
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        parts += [f"{count} x {name}" for name, count in Counter(_lines(query)).items()]
    return ", ".join(parts)


def commit(root: Path) -> str:
    """The commit of a checkout, and whether files differ from it, or that of an image; "" where none is known."""
    found = _lines(["git", "-C", str(root), "rev-parse", "HEAD"])
    if not found:
        return os.environ.get("SIF_COMMIT", "")  # docker/*.Dockerfile
    changed = _lines(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return found[0] + (" with changes" if changed else "")


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _lines(command: list[str]) -> list[str]:
    """What a command prints; nothing where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []
