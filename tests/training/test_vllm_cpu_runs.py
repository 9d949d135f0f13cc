"""vLLM itself in the programs that start it: `sif doctor`, the check for a GPU, and a whole `sif run` with it and without it."""

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest

from sifthinker import config as configuration
from sifthinker.core import tables
from sifthinker.llm import standin
from sifthinker.system import commands
from sifthinker.training import gpu_check, samplers
from sifthinker.upkeep import machine_checks
from tests.machine import carries
from tests.training import test_vllm_cpu
from tests.training.test_vllm_cpu import PYTHON, ROOT

pytestmark = test_vllm_cpu.pytestmark


def test_the_installation_is_one_that_doctor_calls_good(tmp_path: Path) -> None:
    values = {"scenes": {}, "evaluate": {"server": "vllm", "python": str(PYTHON)}}
    values["grpo"] = {"vllm": {"python": str(PYTHON)}}
    [found] = machine_checks.vllm(configuration.parse(values, "test"))
    assert found.verdict == "ok" and "sampled by vllm_lora (auto: vLLM was found)" in found.found
    assert commands.version(str(Path(str(PYTHON)).with_name("vllm")), "vllm").startswith("0.31.")


def test_the_check_for_a_gpu_measures_vllm_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make gpu-check --cpu-smoke` in small: its figures mean nothing."""
    (tmp_path / "vllm").symlink_to(Path(str(PYTHON)).with_name("vllm"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    gpu_check.build(tmp_path / "base", smoke=True)
    tables.write(tmp_path / "rows.parquet", tables.SIF, gpu_check.made_up(gpu_check.SIZES["cpu"]))
    with standin.running(tmp_path / "standin.log") as judge:
        found = gpu_check.with_vllm(tmp_path, True, 2, 1, judge)
    print("gpu_check, smoke:", {name: value for name, value in found.items() if name != "measured"})
    [measured] = found["measured"]
    assert measured["tokens_per_second"] > 0 and found["start_seconds"] > 0
    assert 0 < found["logp_difference"] < 0.1, "a random model: suppressed tokens have a share"


# The demo in small: the miniature, a short SFT, three steps of GRPO on two ranks with one server between them.
WHOLE = {
    "scenes.rows": 160,
    "scenes.benchmark_rows": 8,
    "publish.rl_samples": 8,
    "sft.epochs": 1,
    "sft.ranks": 1,
    "grpo.max_steps": 3,
    "grpo.batch": 4,
    "grpo.generations": 4,
    "grpo.generation": "auto",
    "grpo.vllm.count": 1,
    "evaluate.also": "[]",
    "evaluate.server": "vllm",
}
MARK = "SIF_TEST_RUN"  # in the environment of a run and, inherited, of all that it starts


def whole(store: Path, path: str, *arguments: str, **fields: Any) -> str:
    """What a whole `sif run` prints, with a PATH of its own. It ends with 0, and leaves no process."""
    options = [f"{name}={value}" for name, value in {**WHOLE, **fields, "store": store}.items()]
    options = [word for option in options for word in ("--set", option)]
    mark = uuid.uuid4().hex
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "flows", "run", "--config", "demo", *options, *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": path, MARK: mark},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    print(f"whole run {' '.join(arguments)}: {time.monotonic() - began:.0f} s")
    assert not [process.pid for process in psutil.process_iter() if carries(process, MARK, mark)]
    return done.stdout


def test_a_whole_run_is_sampled_and_evaluated_by_vllm_where_it_is_found_and_sampled_without_it_where_it_is_not(
    prefect_server: str, shared_memory: None, tmp_path: Path
) -> None:
    """`sif run` from rendered scenes to the report, with vLLM's bin folder on the PATH; then the training without it."""
    beside = str(Path(str(PYTHON)).parent)
    without = os.pathsep.join(
        folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / "vllm").exists()
    )
    store = tmp_path / "store"
    said = whole(store, os.pathsep.join((beside, without)))
    assert "report.html" in said
    [report] = store.glob("report/*/report.html")
    assert report.stat().st_size > 10_000
    [trained] = [json.loads(file.read_text()) for file in store.glob("grpo/*/manifest.json")]
    [folder] = [file.parent for file in store.glob("grpo/*/manifest.json")]
    found = [json.loads(line)[samplers.GAP] for line in (folder / "history.jsonl").read_text().splitlines()]
    print("whole run: difference of log-probabilities by step:", found)
    assert len(found) == 3 and max(found) < 1e-4
    assert "vllm" in json.dumps(trained["identity"]["libraries"])
    [evaluated] = [json.loads(file.read_text()) for file in store.glob("evaluate/*/manifest.json")]
    assert evaluated["rows"]["kept"] > 0

    whole(store, without, "--stop-after", "grpo", **{"evaluate.server": "transformers"})
    [other] = [file.parent for file in store.glob("grpo/*/manifest.json") if file.parent != folder]
    entries = [json.loads(line) for line in (other / "history.jsonl").read_text().splitlines()]
    assert len(entries) == 3 and not any(samplers.GAP in entry for entry in entries)
    made = json.loads((other / "manifest.json").read_text())
    assert "vllm" not in json.dumps(made["identity"]["libraries"])
