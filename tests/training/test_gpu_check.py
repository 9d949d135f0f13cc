"""The program for a GPU, as far as it can be tested without one."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sifthinker.core.errors import UserError
from sifthinker.training import gpu_check


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured_and_the_way_out_is_named():
    with pytest.raises(UserError, match=r"no CUDA GPU .* `--cpu-smoke` tests this program"):
        gpu_check.check(smoke=False, steps=2, pairs=1)


def test_the_table_compares_each_stage_with_trls_own_trainer():
    measured = {"seconds": [1.0, 1.2, 1.1], "tokens_per_second": 500.0, "peak_memory_bytes": 2_000_000_000}
    slower = {**measured, "seconds": [2.2, 2.2, 2.2], "peak_memory_bytes": None}
    kinds = {"ours": gpu_check.summarise([slower]), "trl": gpu_check.summarise([measured, measured])}
    found = {"device": "a chip", "parameters": 100, "versions": {}, "sft": kinds, "grpo": kinds}
    lines = gpu_check.table(found).splitlines()
    assert "| sft, ours | 2.200 (2.200 to 2.200) | 500 | - | +100.0% |" in lines
    assert "| grpo, trl | 1.100 (1.000 to 1.200) | 500 | 2.00 | +0.0% |" in lines
    vllm = {"version": "0.31.0", "start_seconds": 61.2, "logp_difference": 0.0123}
    assert gpu_check.table({**found, "vllm": vllm}).endswith(
        "vllm_lora: vLLM 0.31.0 started in 61 s; log-probabilities differ by at most 0.012 in a step's mean"
    )


def test_without_vllm_the_other_samplers_are_measured_and_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = gpu_check.with_vllm(tmp_path, True, 2, 1, "http://127.0.0.1:9/v1")
    assert found["measured"] == [] and "vLLM is not installed here" in found["why"]


def test_its_vllm_is_on_the_gpu_of_the_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Seen(Exception):
        pass

    def serving(*given: object) -> None:
        raise Seen(given[-1])

    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (
        ("vllm", ""),
        ("nvidia-smi", "echo 1000, 2000; echo 1000, 2000; echo 1000, 2000; echo 1000, 2000"),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr(gpu_check.samplers, "of", lambda _: SimpleNamespace(serving=serving))
    with pytest.raises(Seen, match=r"\['3'\]"):
        gpu_check.with_vllm(tmp_path, False, 2, 1, "http://127.0.0.1:9/v1")


def test_the_mid_sized_model_has_about_a_hundred_million_parameters(tmp_path):
    assert 9e7 < gpu_check.build(tmp_path, smoke=False) < 1.2e8


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_smoke_run_measures_both_stages_and_both_trainers(tmp_path: Path):
    command = ["--cpu-smoke", "--steps", "2", "--pairs", "1", "--json", str(tmp_path / "found.json")]
    subprocess.run(
        [sys.executable, "-m", "sifthinker.training.gpu_check", *command], check=True, capture_output=True
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["device"].startswith("cpu (smoke")
    for stage in ("sft", "grpo"):
        for kind in ("ours", "trl"):
            assert found[stage][kind]["step_seconds"] > 0
            assert found[stage][kind]["tokens_per_second"] > 0
