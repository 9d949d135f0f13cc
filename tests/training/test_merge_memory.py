"""What a merge takes in memory: one fp32 copy of the model and a shard of its files, and not two copies."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from peft import get_peft_model

from sifthinker.config import Lora
from sifthinker.models import loading
from sifthinker.training import adapters, gpu_check

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PROGRAM = """\
import resource, sys
from pathlib import Path
from sifthinker.training import merge
merge.SHARD = "30MB"
merge.main(Path(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak(folder: Path, base: Path, sif: Path, precision: str) -> int:
    """Bytes that the merge of a new adapter takes at its most, in a process of its own."""
    adapter, file = folder / f"adapter-{base.name}", folder / f"{base.name}-{precision}.yaml"
    if not adapter.exists():
        model = get_peft_model(
            loading.load_policy(base, "bf16"), adapters.lora(Lora(r=8, alpha=16, dropout=0.0))
        )
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.01)
        model.save_pretrained(adapter, save_embedding_layers=False)
    values = {
        "model": str(base),
        "adapter": str(adapter),
        "out": str(folder / f"out-{base.name}-{precision}"),
        "dataset": [str(sif)],
        "settings": {"model": {"max_pixels": 3136}, "merge": {"precision": precision}},
    }
    file.write_text(yaml.safe_dump(values))
    # Matrices of a 7B model are above glibc's highest threshold, 32 MB, and given back as soon as they are freed. With
    # a threshold of 1 MB so are this model's, which would else leave holes in the heap.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    command = [sys.executable, "-c", PROGRAM, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def test_a_merge_holds_one_fp32_copy_of_the_model(tmp_path: Path, base: Path, sif: Path) -> None:
    """More parameters than a tiny model has, in bf16 shards as the published ones are."""
    parameters = gpu_check.build(tmp_path / "fp32", smoke=False)
    loading.load_policy(tmp_path / "fp32", "bf16").save_pretrained(tmp_path / "large", max_shard_size="30MB")
    loading.load_processor(tmp_path / "fp32").save_pretrained(tmp_path / "large")
    assert len(list((tmp_path / "large").glob("*.safetensors"))) > 5
    copy = 4 * parameters
    for precision in ("bf16", "fp32"):
        without = peak(tmp_path, base, sif, precision)
        more = peak(tmp_path, tmp_path / "large", sif, precision) - without
        print(f"{precision}: {more / copy:.2f} of an fp32 copy ({copy / 1e6:.0f} MB)")
        assert more < 1.25 * copy
