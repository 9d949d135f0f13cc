"""Other software reads what this project writes, each in an environment of its own (environments.py).

It takes about an hour on two cores the first time, most of it for installing, and minutes later.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sifthinker.models import miniature
from sifthinker.store.artifacts import Store
from sifthinker.store.runs import runs
from tests.other_software.environments import binaries

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PIXELS = 50_176
ROWS = 16
pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(7200)]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What a program of an environment prints; no hub is asked."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HOME": str(cwd / "hf"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def published(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of `sif run --stop-after subset`; its store is three folders above."""
    store = tmp_path_factory.mktemp("published") / "store"
    fields = (f"store={store}", "scenes.rows=24", "scenes.benchmark_rows=2", "publish.rl_samples=4")
    sets = [word for field in fields for word in ("--set", field)]
    run(sys.executable, "-m", "flows", "run", "--config", "smoke", "--stop-after", "subset", *sets, cwd=ROOT)
    ref = runs(Store(store))[0]["stages"]["publish"]
    return store / ref["stage"] / ref["key"]


@pytest.fixture(scope="module")
def exported(published: Path) -> Path:
    out = published.parents[2] / "release"
    run(sys.executable, "-m", "flows", "export", out, "--store", published.parents[1], cwd=ROOT)
    return out


@pytest.mark.parametrize("name", ["datasets-3", "datasets-4", "datasets-5"])
def test_datasets_opens_the_folder_as_it_is(name: str, published: Path, tmp_path: Path) -> None:
    text = f"""
import json
from datasets import load_dataset
rows = load_dataset({str(published)!r}, split="train", cache_dir={str(tmp_path / "cache")!r})
first = rows[0]
print("FOUND", json.dumps([
    len(rows), first["image"].size, first["depth_image"].mode, first["boxes"], first["steps"], first["width"]
]))
"""
    said = run(binaries(name) / "python", "-c", text, cwd=tmp_path)
    rows, size, mode, boxes, steps, width = json.loads(re.findall("FOUND (.*)", said)[0])
    assert (rows, size[0], mode) == (24, width, "RGB")
    assert all(len(box) == 4 for box in boxes)
    assert steps[0][0]["box"] == [0.0, 0.0, 1.0, 1.0]


def test_the_one_liners_of_the_readme_read_the_folder(published: Path, tmp_path: Path) -> None:
    readme = (ROOT / "sifthinker/data/README.md").read_text(encoding="utf-8")
    [block] = [b for b in re.findall(r"^```python\n(.*?)^```$", readme, re.M | re.S) if "load_dataset" in b]
    lines = [line.partition("  #")[0] for line in block.splitlines() if line.strip()]
    assert [line.partition(".")[0] for line in lines] == ["datasets", "pandas", "duckdb", "polars"]
    count = {
        "datasets": "len(r)",
        "pandas": "len(r)",
        "duckdb": "sum(x[1] for x in r.fetchall())",
        "polars": "r.item()",
    }
    for line in lines:
        library = line.partition(".")[0]
        text = f"import {library}\nP = {str(published)!r}\nr = {line}\nprint('ROWS', {count[library]})"
        said = run(binaries("datasets-5") / "python", "-c", text, cwd=tmp_path)
        assert "ROWS 24" in said, (line, said)


def _settings(exported: Path, out: Path) -> dict[str, Any]:
    return {
        "model_name_or_path": str(miniature.folder("policy")),
        "image_max_pixels": PIXELS,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": 8,
        "lora_target": "all",
        "dataset": "SIF-50K",
        "dataset_dir": str(exported),
        "template": "qwen2_vl",
        "cutoff_len": 4096,
        "preprocessing_num_workers": 1,
        "output_dir": str(out),
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "per_device_train_batch_size": 2,
        "max_steps": 1,
        "learning_rate": 1e-4,
    }


def test_llama_factory_takes_a_step_on_the_export(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(_settings(exported, tmp_path / "saved")))
    said = run(
        binaries("llama-factory") / "llamafactory-cli",
        "train",
        "train.yaml",
        cwd=tmp_path,
        OMP_NUM_THREADS="1",
    )
    loss = float(re.findall(r"'loss': '?([\d.]+)", said)[0])
    assert 0 < loss < 10
    assert "Num examples = 24" in said


def test_llama_factory_trains_on_the_chain_with_our_token_ids(exported: Path, tmp_path: Path) -> None:
    from PIL import Image

    from sifthinker.models import loading

    (tmp_path / "train.yaml").write_text(yaml.safe_dump(_settings(exported, tmp_path / "saved")))
    python = binaries("llama-factory") / "python"
    run(python, HERE / "llama_factory_tokens.py", "train.yaml", str(ROWS), "out.json", cwd=tmp_path)
    theirs = json.loads((tmp_path / "out.json").read_text())
    assert theirs["rows"] == 24
    processor = loading.load_processor(miniature.folder("policy"), PIXELS)
    records = json.loads((exported / "SIF-50K.json").read_text(encoding="utf-8"))
    for record, found in zip(records, theirs["found"], strict=False):
        user, chain = (turn["content"] for turn in record["messages"])
        assert found["trained"].removesuffix("\n") == f"{chain}<|im_end|>"
        assert found["pictures"] == 2
        texts = user.split("<image>")
        content: list[dict[str, str]] = []
        for number, text in enumerate(texts):
            content += [{"type": "text", "text": text}] if text else []
            content += [{"type": "image"}] if number < len(texts) - 1 else []
        turns = [
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": chain}]},
        ]
        pictures = [Image.open(exported / name).convert("RGB") for name in record["images"]]
        text = processor.apply_chat_template(turns, tokenize=False)
        ours = processor(text=[text], images=[pictures])["input_ids"][0]
        assert list(ours) == found["ids"], record["image"]


def test_ms_swift_takes_a_step_of_grpo_on_the_export(exported: Path, tmp_path: Path) -> None:
    policy, seen = miniature.folder("policy"), tmp_path / "seen.json"
    options = {
        "rlhf_type": "grpo",
        "model": policy,
        "model_type": "qwen2_5_vl",
        "template": "qwen2_5_vl",
        "dataset": exported / "SIF-50K-sampled-200.json",
        "external_plugins": HERE / "grpo_plugin.py",
        "reward_funcs": "seen",
        "tuner_type": "lora",
        "lora_rank": 8,
        "torch_dtype": "float32",
        "max_steps": 1,
        "num_generations": 2,
        "per_device_train_batch_size": 2,
        "max_completion_length": 16,
        "output_dir": tmp_path / "saved",
        "report_to": "none",
        "load_from_cache_file": "false",
        "dataset_num_proc": 1,
        "save_strategy": "no",
        "use_vllm": "false",
        "logging_steps": 1,
        "split_dataset_ratio": 0,
    }
    said = run(
        binaries("ms-swift") / "swift",
        "rlhf",
        *(str(word) for name, value in options.items() for word in (f"--{name}", value)),
        cwd=tmp_path,
        POLICY=str(policy),
        SEEN=str(seen),
        ROOT_IMAGE_DIR=str(exported),
        MAX_PIXELS=str(PIXELS),
        MODELSCOPE_CACHE=str(tmp_path / "modelscope"),
        OMP_NUM_THREADS="1",
    )
    assert re.search(r"'reward': '?[\d.]+", said)
    given = json.loads(seen.read_text())
    records = json.loads((exported / "SIF-50K-sampled-200.json").read_text(encoding="utf-8"))
    answers = {record["problem"]: str(record["response"]) for record in records}
    assert given["pictures"] == [2] * given["completions"]
    assert [answers[problem] for problem in given["problem"]] == [str(r) for r in given["response"]]
