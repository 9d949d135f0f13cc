"""Environments of other software: made once below `SIF_OTHER_SOFTWARE` (build/other-software), from the Python index alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The pin of constraints.txt; without one, pip takes the newest that the packages allow.
TORCH = "torch==2.13.0"
READERS = ("pandas==3.1.1", "duckdb==2.0.1", "polars==2.1.0", "pillow")
# name: what is installed, and what is installed without its dependencies
PACKAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "llama-factory": ((TORCH, "llamafactory==0.9.5"), ("torchvision==0.28.0",)),
    # msgspec: its own metadata forgets it. The other three: what its template of Qwen2.5-VL imports.
    "ms-swift": (
        (TORCH, "ms-swift==4.6.0", "msgspec==0.23.0"),
        ("torchvision==0.28.0", "qwen-vl-utils==0.0.14", "av==16.0.0"),
    ),
    "datasets-3": (("datasets==3.5.0", "pillow"), ()),
    "datasets-4": (("datasets==4.0.0", "pillow"), ()),
    "datasets-5": (("datasets==5.2.0", *READERS), ()),
}
# A torchvision that was built for CUDA does not load beside torch's build for processors, and torchaudio neither. Two
# operators that no model here uses are declared, and torchaudio, which is imported and not used, becomes an empty module.
_MEND = """
import importlib.util, shutil, sysconfig
from pathlib import Path

lib = Path(sysconfig.get_path("purelib"))
file = lib / "torchvision" / "_meta_registrations.py"
text = file.read_text()
declared = (
    '_declared = torch.library.Library("torchvision", "FRAGMENT")\\n'
    '_declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")\\n'
    '_declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")\\n'
)
if declared not in text:
    begin = text.index("\\n\\n", text.rindex("\\nimport ")) + 1
    file.write_text(text[:begin] + declared + text[begin:])
if (lib / "torchaudio").is_dir():
    shutil.rmtree(lib / "torchaudio")
    (lib / "torchaudio.py").touch()
"""


def folder() -> Path:
    """Where they are kept."""
    return Path(os.environ.get("SIF_OTHER_SOFTWARE", ROOT / "build" / "other-software"))


def binaries(name: str) -> Path:
    """The commands of an environment, which is made if it is not there; a broken-off one is made again."""
    place = folder() / name
    if not (place / "ready").exists():
        _run(sys.executable, "-m", "venv", "--clear", str(place))
        pip = (
            str(place / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        )
        needed, alone = PACKAGES[name]
        _run(*pip, *needed)
        if alone:
            _run(*pip, "--no-deps", *alone)
            _run(str(place / "bin" / "python"), "-c", _MEND)
        (place / "ready").touch()
    return place / "bin"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
