"""A published file of 2,000 rows, damaged in more than twenty ways: kept + rejected, reasons, the page, and SFT from it.

The rows are the project's own: rendered scenes, the stand-in's chains, `sif export`. Nothing is asked when they are read
back: the annotator's address is one where nobody listens.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from sifthinker.core import tables
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Artifact, Ref
from tests.published_rows import WAYS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
ROWS, EACH = 2_000, 20  # in all, and of each way to damage one
NOBODY = {"base_url": "http://127.0.0.1:9/v1", "model": "nobody", "api_key_env": "NOT_SET"}


def sif(*arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flows", *map(str, arguments)], capture_output=True, text=True, timeout=6000
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def configured(folder: Path, name: str, **values: Any) -> Path:
    file = folder / f"{name}.yaml"
    store = str(folder / name)
    file.write_text(yaml.safe_dump({"name": name, "extends": "smoke", "store": store, **values}))
    return file


def stages(store: Store) -> dict[str, Artifact]:
    refs = {label: ref for record in reversed(runs.runs(store)) for label, ref in record["stages"].items()}
    return {label: store.open(Ref(**ref)) for label, ref in refs.items()}


def damaged(out: Path) -> dict[int, str]:
    """Damages `EACH` rows in each way, and repeats as many; the reason that each must be rejected with, "" = it is kept."""
    rows = json.loads((out / "SIF-50K.json").read_text("utf-8"))
    assert len(rows) == ROWS
    (out / "broken.jpg").write_bytes((out / rows[0]["image"]).read_bytes()[:300])
    expected = {}
    for number, way in enumerate(way for way in WAYS for _ in range(EACH)):
        expected[number] = way.reason
        rows[number] = way.damage(rows[number])
    last = len(WAYS) * EACH
    for number in range(last, last + EACH):
        rows[number] = rows[number + EACH]
        expected[number + EACH] = "duplicate-id"  # the later of the two
    (out / "SIF-50K.json").write_text(json.dumps(rows), encoding="utf-8")
    return expected


def test_a_damaged_file_is_read_row_by_row_and_trained_on_without_a_call(
    tmp_path: Path, prefect_server: str
) -> None:
    scenes = {"rows": ROWS, "benchmark_rows": 2, "benchmarks": [], "width": 96, "height": 72}
    depth = {"weights": "miniature", "size": 112}
    sif(
        "run",
        "--config",
        configured(tmp_path, "bought", scenes=scenes, depth=depth),
        "--stop-after",
        "subset",
    )
    out = tmp_path / "out"
    sif("export", out, "--store", tmp_path / "bought")
    expected = damaged(out)

    taken = configured(
        tmp_path,
        "taken",
        scenes=None,
        sources=[
            {
                "name": "sif",
                "format": "published",
                "path": str(out / "SIF-50K.json"),
                "images": str(out),
                "frame": "fractions",
            }
        ],
        published={"depths": "check"},
        depth=depth,
        annotate={"api": NOBODY},
        publish={"rl_file": str(out / "SIF-50K-sampled-200.json")},
        sft={"max_steps": 2, "epochs": 1, "ranks": 1, "deepspeed": "none", "precision": "fp32", "gradient_checkpointing": False},
        max_rejected=0.6,
    )  # fmt: skip
    assert "no call" in sif("plan", "--config", taken, "--stop-after", "sft")
    for last in ("subset", "sft"):  # neither is made for the other
        sif("run", "--config", taken, "--stop-after", last)
    made = stages(Store(tmp_path / "taken"))

    rejects = [row for name in ("ingest", "annotate") for row in tables.read(made[name].rejects())]
    found = {row["row"]: row["reason"] for row in rejects}
    assert len(found) == len(rejects)
    assert {row: found.get(row, "") for row in expected} == expected
    assert set(found) == {row for row, reason in expected.items() if reason}  # and no other
    assert made["publish"].manifest["rows"]["kept"] + len(rejects) == ROWS
    assert all(row["file"] == "SIF-50K.json" and row["detail"] for row in rejects)
    assert len(Counter(found.values())) >= 18

    notes = made["annotate"].manifest["notes"]
    assert "calls" not in notes and notes["published_chains"] == made["annotate"].manifest["rows"]["in"]
    assert made["sft"].manifest["rows"]["kept"] > 0
    subset = made["subset"].manifest["rows"]
    named = json.loads((out / "SIF-50K-sampled-200.json").read_text("utf-8"))
    assert subset["in"] == len(named) == subset["kept"] + sum(subset["rejected"].values())

    page = tmp_path / "page.html"
    shown = sif("chains", "--store", tmp_path / "taken", "--out", page)
    assert "| sif of taken" in shown and ", taken |" in shown
    text = page.read_text("utf-8")
    assert all(f">{reason}<" in text for reason in set(found.values()))
    assert f">{ROWS:,}<" in text
