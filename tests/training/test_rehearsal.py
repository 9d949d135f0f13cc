"""One step with the longest sample before a training."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from sifthinker.config import Grpo, Sft
from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.training import memory, rehearsal
from tasks.runtime import rehearsal as stage
from tasks.runtime.stage import Job, Order


def rehearsed(file: Path, which: str) -> Path:
    """The configuration of the rehearsal of a training's configuration."""
    values = yaml.safe_load(file.read_text())
    own = {name: values[name] for name in values if name not in ("work", "out", "settings")}
    changed = {name: values[name] for name in ("work", "out", "settings")}
    path = file.with_name("rehearsal.yaml")
    path.write_text(yaml.safe_dump({**changed, "rehearses": which, "sample": "toy/patches/3", "fields": own}))
    return path


@pytest.mark.e2e
def test_grpo_is_rehearsed_with_completions_as_long_as_they_may_get(grpo_file, judge, tmp_path):
    rehearsal.main(rehearsed(grpo_file("run", {"max_completion": 24, "evaluate_steps": 5}), "grpo"))
    (step,) = [json.loads(line) for line in (tmp_path / "run/out/history.jsonl").read_text().splitlines()]
    assert step["completions/min_length"] == step["completions/max_length"] == 24
    assert step["loss"] is not None and step["reward"] == pytest.approx(0.5 * 4), (
        "every second earns all four"
    )
    assert json.loads((tmp_path / "run/out/summary.json").read_text())["notes"]["steps"] == 1
    assert not judge.asked, "the judge is not paid for a rehearsal"


@pytest.mark.e2e
def test_sft_is_rehearsed_in_one_step(config_file, tmp_path):
    settings = {"batch": 2, "accumulation": 4, "held_out": 0.5, "epochs": 3}
    rehearsal.main(rehearsed(config_file("sft", "run", settings), "sft"))
    notes = json.loads((tmp_path / "run/out/summary.json").read_text())["notes"]
    assert (notes["steps"], notes["held_out"]) == (1, 0)


def test_what_does_not_fit_says_which_sample_and_what_to_do(config_file, monkeypatch):
    def full(task):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(rehearsal.sft, "train", full)
    with pytest.raises(
        UserError, match=r"longest sample \(toy/patches/3\) does not fit.*Nothing was trained yet; lower"
    ):
        rehearsal.main(rehearsed(config_file("sft", "run", {}), "sft"))


@pytest.mark.parametrize(
    ("when", "gpus", "module", "checkpoint", "wanted"),
    [
        ("gpu", 8, "sft", False, True),
        ("gpu", 0, "sft", False, False),  # nobody waits for it on processors
        ("always", 0, "grpo", False, True),
        ("never", 8, "grpo", False, False),
        ("gpu", 8, "grpo", True, False),  # it has shown that it fits
        ("always", 8, "merge", False, False),
        ("always", 8, "rehearsal", False, False),
    ],
)
def test_a_training_is_rehearsed_where_memory_may_end_it(
    when, gpus, module, checkpoint, wanted, tmp_path, monkeypatch
):
    monkeypatch.setattr(memory, "free_gpus", lambda: [(1.0, 1.0)] * gpus)
    if checkpoint:
        (tmp_path / "checkpoint-50").mkdir()
    job = SimpleNamespace(work=tmp_path)
    assert stage.wanted(job, module, Sft(rehearse=when)) == wanted
    assert not stage.wanted(job, module, Sft(rehearse=when, nodes=2)), "the other node waits for one program"


def test_the_stage_rehearses_in_folders_of_its_own_and_notes_what_it_took(sif, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    seen = {}

    def train(job, module, settings, options):
        seen.update(module=module, label=job.order.label, **settings)
        assert job.work == work / "rehearsal" and job.out.is_dir()
        rows = list(tables.read([Path(settings["fields"]["dataset"][0])]))
        seen["rows"] = [row["id"] for row in rows]
        notes = {"seconds": 1.5, "peak_memory_bytes": 7, "steps": 1}
        (job.out / "summary.json").write_text(json.dumps({"notes": notes}))

    options = Grpo(ranks=2, batch=4, accumulation=2, generations=8)
    order = Order(SimpleNamespace(name="grpo"), "grpo", None, {}, {}, "key")
    draft = SimpleNamespace(notes={"preflight": {"longest_id": "toy/patches/3"}})
    log = SimpleNamespace(info=lambda *_: None)
    job = Job(order, SimpleNamespace(work=lambda *_: work), {}, draft, None, log, None)
    settings = {
        "model": "m",
        "dataset": [str(sif)],
        "held_out": "h",
        "servers": ["u"],
        "settings": {"grpo": {}},
    }
    stage.rehearse(job, "grpo", settings, options, train)
    assert seen["rows"] == ["toy/patches/3"] * 2, "2 x 4 x 2 completions are two prompts of 8"
    assert (seen["module"], seen["label"], seen["rehearses"]) == ("rehearsal", "grpo-rehearsal", "grpo")
    assert seen["fields"]["servers"] == ["u"] and "held_out" not in seen["fields"]
    assert draft.notes["rehearsal"] == {"seconds": 1.5, "peak_memory_bytes": 7}
    assert not (work / "rehearsal").exists()
