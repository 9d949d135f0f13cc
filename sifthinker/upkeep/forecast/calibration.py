"""What was measured on a machine, in files of its own cache folder, named with machine and date.

A measurement counts for one device, one precision, and one size of layers. Another machine, GPU or model wants its own.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs

from sifthinker.system.files import write_json
from sifthinker.training.memory import Shape


@dataclass(frozen=True)
class Calibration:
    """Rates of this machine.

    Attributes:
        host: Of the machine.
        date: ISO date and time, UTC.
        device: What computed: a GPU's name, or the processor with its cores.
        precision: Of weights and computation.
        hidden: Sizes of the measured layers, as the following three.
        inner: See `hidden`.
        cached: See `hidden`.
        r: Rank of the adapter.
        layer_token: Seconds of a forward and backward pass, a layer and token.
        head_token: Seconds of one product with the head, a token and a thousand columns of the vocabulary.
        decode_layer: Seconds of a layer for one more token of each sequence.
        sequences: How many are decoded side by side in that.
        depth_image: Seconds for the depth map of a picture of 500 x 375 pixels; None: not measured, no weights are here.
        write: Bytes a second to the store's disk.
        read: The same from it; what the machine has cached counts as read.
        versions: Of the libraries.
        extrapolated: What was not measured because it takes too long, and what it was computed from.
    """

    host: str
    date: str
    device: str
    precision: str
    hidden: int
    inner: int
    cached: int
    r: int
    layer_token: float
    head_token: float
    decode_layer: float
    sequences: int
    depth_image: float | None
    write: float
    read: float
    versions: dict[str, str]
    extrapolated: str = ""

    @property
    def name(self) -> str:
        """How tables name it."""
        return f"{self.host}, {self.device}, {self.date[:10]}"


def device() -> str:
    """What computes here, in words: the first GPU that nvidia-smi lists, else the processor and its cores."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    except (FileNotFoundError, subprocess.CalledProcessError):
        listed = []
    if listed:
        return listed[0].strip()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores of {models[0] if models else platform.machine()}"


def folder() -> Path:
    """Where measurements of this machine lie."""
    return platformdirs.user_cache_path("sifthinker") / "calibration"


def save(found: Calibration, into: Path | None = None) -> Path:
    """Writes a measurement; returns its file."""
    stamp = found.date.replace(":", "").replace("+0000", "")
    file = (into or folder()) / f"{found.host}-{stamp}.json"
    write_json(file, asdict(found))
    return file


def latest(
    shape: Shape | None, precision: str, host: str, device: str, where: Path | None = None
) -> Calibration | None:
    """The newest measurement of this machine for layers of these sizes; None where there is none.

    A file of another version of this code is passed over.
    """
    if shape is None:
        return None
    wanted = (host, device, precision, shape.hidden, shape.inner, shape.cached)
    known = [found for file in (where or folder()).glob("*.json") if (found := _read(file))]
    fitting = [c for c in known if (c.host, c.device, c.precision, c.hidden, c.inner, c.cached) == wanted]
    return max(fitting, key=lambda found: found.date, default=None)


def _read(file: Path) -> Calibration | None:
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return Calibration(**values)
    except (ValueError, TypeError):
        return None
