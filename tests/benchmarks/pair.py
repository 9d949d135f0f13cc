"""What a speed benchmark is: one piece of work done in two ways, ours and what people use today."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Work = Callable[[], Any]  # what is timed; gives plain values (JSON), which `same` compares
Side = Callable[[Path, int], Work]  # opens what `prepare` wrote in the folder


@dataclass(frozen=True)
class Pair:
    """One row of the table. `ours` and `other` run in processes of their own, which `prepare` does not touch."""

    name: str
    against: str  # what the other way is
    aim: float  # how many times as fast ours is to be
    size: int  # of the work, in `unit`
    smallest: int  # the size that the tests run
    unit: str
    prepare: Callable[[Path, int], None]  # writes the input of both ways into the folder
    ours: Side
    other: Side
    same: Callable[[Any, Any], None]  # raises AssertionError where the two did not compute the same
    installs: str = ""  # what of `others` the other way needs, which takes a while to install
    rounds: int = 7  # timed calls of each way
    other_part: int = 1  # the other way does 1 / other_part of the work and its time is scaled up


def equal(ours: Any, other: Any) -> None:
    """`same` for results that are to be equal."""
    assert ours == other, f"{str(ours)[:200]} is not {str(other)[:200]}"


def close(tolerance: float) -> Callable[[Any, Any], None]:
    """`same` for lists of numbers that are to agree to `tolerance`."""

    def same(ours: list[float], other: list[float]) -> None:
        worst = max(abs(a - b) for a, b in zip(ours, other, strict=True))
        assert worst <= tolerance, f"they differ by {worst:.3g}, more than {tolerance:g}"

    return same


def peak() -> int:
    """Most memory that this process ever held, bytes. (getrusage would begin with its parent's.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
