"""The paper's configuration as it is shipped, through every stage, on toys: what 8 GPUs would do for days."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest
import yaml

from flows.labels import Label
from sifthinker import config as configuration
from sifthinker import scenes
from sifthinker.config import Config, Grpo, Merge, Scenes, Sft
from sifthinker.config.layers import CONFIGS
from sifthinker.evaluation.benchmarks import BENCHMARKS
from sifthinker.models import miniature
from sifthinker.store.artifacts import Store
from sifthinker.store.runs import runs
from tests.evaluation.benchmarks import published_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

# What a machine without GPUs, network and published data sets has to have otherwise, ...
PLACES = {
    "annotate.api.base_url": "standin",
    "grpo.judge.base_url": "standin",
    "evaluate.judge.base_url": "standin",
    "depth.weights": "miniature",
    "model.weights": "miniature",  # see `taught`
    "evaluate.server": "transformers",
}
# ... and the sizes that end in minutes.
SIZES = {
    "ingest.shards": 2,
    "sft.ranks": 2,
    "sft.max_steps": 2,
    "grpo.ranks": 2,
    "grpo.max_steps": 4,  # each step is one prompt, and few completions earn anything
    "grpo.generation": "transformers",
    "grpo.generations": 4,  # ranks x batch x accumulation completions a step
    "grpo.max_completion": 160,
    "evaluate.max_tokens": 160,
}


def test_the_papers_configuration_runs_to_the_report(prefect_server: str, tmp_path: Path) -> None:
    file = tmp_path / "paper.yaml"
    file.write_text(yaml.safe_dump(on_toys(tmp_path / "data")))
    changes = {**PLACES, **SIZES, "store": str(tmp_path / "store")}
    sif_run(file, changes, "--stop-after", "subset")
    [subset] = (tmp_path / "store").glob("subset/*/rl.parquet")
    changes["model.weights"] = str(taught(subset, tmp_path / "toy"))
    check_that_only_places_and_sizes_differ(configuration.load(file, changes))
    sif_run(file, changes)

    found = {
        label: tmp_path / "store" / ref["stage"] / ref["key"]
        for label, ref in runs(Store(tmp_path / "store"))[0]["stages"].items()
    }
    assert set(found) == set(get_args(Label)) - {"scenes", "retry", "evaluate-base", "evaluate-sft"}
    notes = {
        label: json.loads((path / "manifest.json").read_text())["notes"] for label, path in found.items()
    }
    for label in ("sft", "grpo"):
        assert (notes[label]["steps"], notes[label]["world"]) == (SIZES[f"{label}.max_steps"], 2)
    for label in ("merge-sft", "merge-grpo"):
        assert notes[label]["precision"] == "bf16"
        assert notes[label]["kl_fold"] < 1e-5 * notes[label]["kl_cast"]
        assert notes[label]["changed"] > 0
    rewards = [json.loads(line)["reward"] for line in (found["grpo"] / "history.jsonl").open()]
    assert max(rewards) > 0
    asked = pq.read_table(found["evaluate"] / "predictions.parquet").to_pylist()
    assert {row["benchmark"] for row in asked} == set(BENCHMARKS) - {"sif"}
    assert (found["report"] / "report.html").stat().st_size > 0


def sif_run(file: Path, changes: dict[str, Any], *options: str) -> None:
    settings = [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
    command = [str(Path(sys.executable).with_name("sif")), "run", "--config", str(file), *settings, *options]
    environment = {**os.environ, "ARK_API_KEY": "unused"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def taught(rows: Path, folder: Path) -> Path:
    """The miniature after enough training that it writes chains: as it is shipped it writes none, so that no completion
    would earn a reward, and GRPO would learn nothing."""
    base, model = str(miniature.folder("policy")), {"max_pixels": 12544}
    common = {"dataset": [str(rows)], "work": str(folder / "work")}
    training = {"learning_rate": 4e-3, "max_steps": 120, "batch": 8, "accumulation": 1, "ranks": 1}
    training |= {"deepspeed": "none", "precision": "fp32", "gradient_checkpointing": False}
    training |= {"lora": {"r": 32, "alpha": 64, "dropout": 0.0}, "trackers": []}
    programs = {
        "sft": {"model": base, "settings": {"model": model, "sft": training}},
        "merge": {
            "model": base,
            "adapter": str(folder / "sft" / "adapter"),
            "settings": {"model": model, "merge": {}},
        },
    }
    folder.mkdir()
    for name, values in programs.items():
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**common, **values, "out": str(folder / name)}))
        done = subprocess.run([sys.executable, "-m", f"sifthinker.training.{name}", str(file)])
        assert done.returncode == 0
    return folder / "merge"


def on_toys(folder: Path) -> dict[str, Any]:
    """paper.yaml with rendered scenes and small files in the place of the published ones, and nothing else changed."""
    scenes.write(folder, Scenes(rows=24, benchmark_rows=4, benchmarks=("vstar",)))
    values = yaml.safe_load((CONFIGS / "paper.yaml").read_text())
    rendered = {source.format: source for source in scenes.sources(folder)}
    for source in values["sources"]:
        made = rendered[source["format"]]
        source.update(path=str(made.path), images=str(made.images))
    for benchmark in values["evaluate"]["benchmarks"]:
        name, place = benchmark["name"], folder / f"{benchmark['name']}-{benchmark.get('split', '')}"
        made = published_files.written(place, name, "")
        benchmark.update(path=str(made.path), images=str(made.images))
        if name == "vqav2":
            hidden(place)
    return values


def hidden(folder: Path) -> None:
    """VQAv2's files of val2014 by the names of its splits without answers."""
    for split in ("test-dev2015", "test2015"):
        old, new = (folder / f"v2_OpenEnded_mscoco_{name}_questions.json" for name in ("val2014", split))
        new.write_bytes(old.read_bytes())
    for picture in folder.glob("COCO_val2014_*"):
        picture.rename(folder / picture.name.replace("val2014", "test2015"))


def check_that_only_places_and_sizes_differ(config: Config) -> None:
    """From the resolved configuration: what runs is paper.yaml, and its training sections are the defaults."""
    paper = configuration.load(CONFIGS / "paper.yaml")
    for section, default in (("sft", Sft()), ("merge", Merge()), ("grpo", Grpo())):
        expected = {n for n in {**PLACES, **SIZES} if n.startswith(f"{section}.")}
        assert differing(getattr(config, section), default, f"{section}.") - ENDPOINT == expected - ENDPOINT
    files = {f"sources.{i}.{field}" for i in range(2) for field in ("path", "images")}
    files |= {f"evaluate.benchmarks.{i}.{field}" for i in range(13) for field in ("path", "images")}
    assert differing(config, paper) == {*PLACES, *SIZES, *files, "store"}


ENDPOINT = {f"grpo.judge.{name}" for name in ("base_url", "api_key_env")}  # paper.yaml sets these itself


def differing(left: Any, right: Any, prefix: str = "") -> set[str]:
    """The dotted names of the fields whose values differ."""
    one, other = dict(leaves(left.model_dump(), prefix)), dict(leaves(right.model_dump(), prefix))
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, Mapping | tuple | list) and inner:
            yield from leaves(inner, f"{name}{key}.")
        else:
            yield f"{name}{key}", inner
