"""The programs under torchrun: ranks and ZeRO stages are a matter of configuration, not of results."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from sifthinker.training import checkpoints, merge
from tests.training.fake_judge import Judge

LORA = {"r": 4, "alpha": 8, "dropout": 0.0}
SFT = {"epochs": 1, "lora": LORA, "save_steps": 2}
GRPO = {
    "epochs": 1,
    "lora": LORA,
    "judge": {"model": "fake"},
    "batch": 2,
    "accumulation": 2,
    "generations": 4,
}


def torchrun(
    ranks: int, module: str, config: Path, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", module, str(config)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert not check or done.returncode == 0, done.stderr[-5000:]
    return done


@pytest.fixture
def judged(judge: Judge, tmp_path: Path) -> dict[str, str]:
    """What a GRPO program is told about its judge."""
    url = f"http://127.0.0.1:{judge.server_port}/v1"
    return {"judge_base_url": url, "ledger": str(tmp_path / "ledger.sqlite")}


def result(tmp_path: Path, name: str) -> tuple[dict[str, torch.Tensor], list[float]]:
    out = tmp_path / name / "out"
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return load_file(out / "adapter/adapter_model.safetensors"), [entry["loss"] for entry in history]


def difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.slow
def test_one_rank_and_two_with_zero_2_or_3_train_the_same_adapter(config_file, tmp_path):
    """The same global batch of 4. fp32 on CPU: sums in another order, nothing else; AdamW makes of a rounding error
    in a tiny gradient up to a step of the learning rate (1e-3), hence 1e-5 against one rank."""
    single = config_file("sft", "single", {**SFT, "batch": 2, "accumulation": 2})
    subprocess.run(
        [sys.executable, "-m", "sifthinker.training.sft", str(single)], check=True, capture_output=True
    )
    stages = ("zero2", "zero3", "zero2_offload", "zero3_offload")
    for stage in stages:
        config = config_file(
            "sft", stage, {**SFT, "ranks": 2, "batch": 2, "accumulation": 1, "deepspeed": stage}
        )
        torchrun(2, "sifthinker.training.sft", config)
        assert checkpoints.last_complete(tmp_path / stage / "work") is not None
    one, two, *others = (result(tmp_path, name) for name in ("single", *stages))
    for other in others:
        assert difference(two[0], other[0]) < 1e-6
        assert two[1] == pytest.approx(other[1], abs=1e-6)
    assert difference(one[0], two[0]) < 1e-5
    assert one[1] == pytest.approx(two[1], abs=1e-5)


@pytest.mark.slow
def test_an_error_on_the_ranks_is_named_and_ends_all_of_them(config_file):
    config = config_file(
        "sft", "wrong", {**SFT, "ranks": 4, "batch": 2, "accumulation": 1, "deepspeed": "zero3"}
    )
    done = torchrun(2, "sifthinker.training.sft", config, check=False)
    assert done.returncode != 0
    assert "error: ranks: 4 are configured and 2 started" in done.stderr


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_grpo_on_two_ranks_with_zero_3_gathers_groups_book_and_completions(config_file, judged, tmp_path):
    """Each rank holds half of every group."""
    settings = {**GRPO, "max_steps": 2, "ranks": 2, "deepspeed": "zero3"}
    torchrun(2, "tests.training.canned_grpo", config_file("grpo", "grpo", settings, **judged))
    out = tmp_path / "grpo/out"
    completions = pq.read_table(out / "completions.parquet").to_pylist()
    assert [entry["step"] for entry in completions] == [1] * 8 + [2] * 8
    groups = Counter((entry["step"], entry["id"]) for entry in completions)
    assert set(groups.values()) == {4}
    book = json.loads((out / "book.json").read_text())
    for sample_id, epochs in book.items():
        assert epochs["0"] == sorted(entry["judge"] for entry in completions if entry["id"] == sample_id)
    adapter, _ = result(tmp_path, "grpo")
    assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_eight_ranks_with_zero_3_train_sft_and_grpo_with_groups_of_eight_end_to_end(
    config_file, judged, tmp_path
):
    """The paper's ranks and group size: SFT, merge, GRPO from the merged model, which really samples too."""
    eight = {"ranks": 8, "deepspeed": "zero3", "max_steps": 2, "lora": LORA, "epochs": 4}
    torchrun(
        8, "sifthinker.training.sft", config_file("sft", "sft", {**eight, "batch": 1, "accumulation": 1})
    )
    adapter, losses = result(tmp_path, "sft")
    assert len(losses) == 2
    assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)
    merging = config_file("merge", "merge", {}, adapter=str(tmp_path / "sft/out/adapter"))
    values = yaml.safe_load(merging.read_text())
    values["settings"]["merge"] = {"precision": "fp32"}
    merging.write_text(yaml.safe_dump(values))
    merge.main(merging)

    settings = {**GRPO, **eight, "batch": 1, "accumulation": 1, "generations": 8, "max_completion": 16}
    config = config_file("grpo", "grpo", settings, model=str(tmp_path / "merge/out"), **judged)
    torchrun(8, "tests.training.canned_grpo", config, REALLY_SAMPLE="1")
    completions = pq.read_table(tmp_path / "grpo/out/completions.parquet").to_pylist()
    groups = Counter((entry["step"], entry["id"]) for entry in completions)
    assert sorted(groups.values()) == [8, 8]
    adapter, _ = result(tmp_path, "grpo")
    assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)
    assert checkpoints.last_complete(tmp_path / "grpo/work").name == "checkpoint-2"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_grpo_on_one_rank_and_on_two_with_zero_2_or_3_trains_the_same_adapter(config_file, judged, tmp_path):
    """Two groups of four a step, dealt so that every division of them over ranks sees the same; tolerances as for
    SFT."""
    shares = {"single": (1, "none", 2), "zero2": (2, "zero2", 1), "zero3": (2, "zero3", 1)}
    for name, (ranks, deepspeed, accumulation) in shares.items():
        settings = {**GRPO, "max_steps": 2, "ranks": ranks, "deepspeed": deepspeed, "batch": 4}
        config = config_file("grpo", name, {**settings, "accumulation": accumulation}, **judged)
        torchrun(ranks, "tests.training.canned_grpo", config, DEALT="1")
    one, two, three = (result(tmp_path, name) for name in shares)
    tables = [pq.read_table(tmp_path / name / "out/completions.parquet") for name in shares]
    first, *others = (
        sorted(table.to_pylist(), key=lambda e: (e["step"], e["id"], e["text"])) for table in tables
    )
    assert all(first == other for other in others)
    assert difference(two[0], three[0]) < 1e-6
    assert two[1] == pytest.approx(three[1], abs=1e-6)
    assert difference(one[0], two[0]) < 1e-5
    assert one[1] == pytest.approx(two[1], abs=1e-5)
