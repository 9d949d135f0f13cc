"""What `make demo` shows: a trained miniature, whose chains are chains and whose boxes lie on things."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from sifthinker.core import chain, tables
from sifthinker.core.boxes import iou
from sifthinker.pretraining.held_out import _best_constant
from sifthinker.store.artifacts import Store
from sifthinker.store.runs import runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_the_demo_looks_where_it_should(prefect_server: str, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("sif")), "run", "--config", "demo"]
    done = subprocess.run(
        [*command, "--set", f"store={tmp_path}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    store = Store(tmp_path)
    found = runs(store)[0]["stages"]["evaluate"]
    folder = tmp_path / found["stage"] / found["key"]
    rows = list(tables.read(folder / "predictions.parquet"))
    valid = statistics.fmean(chain.is_valid(row["reply"]) for row in rows)
    asked = [row for row in rows if row["benchmark"] == "refcoco"]
    truth = [json.loads(row["reference"]) for row in asked]
    overlaps = [
        iou(row["boxes"][-1], box) if row["boxes"] else 0.0 for row, box in zip(asked, truth, strict=True)
    ]
    blind = _best_constant(truth)
    print(f"valid {valid:.3f}, mean IoU {statistics.fmean(overlaps):.3f}, blind {blind:.3f}")
    assert valid > 0.95
    assert statistics.fmean(overlaps) > 2 * blind
