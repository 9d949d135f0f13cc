"""The SFT program on a tiny model: what it trains on, and that a killed run ends like one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from trl import SFTConfig

from sifthinker.core import prompts, tables
from sifthinker.core.errors import UserError
from sifthinker.models import loading
from sifthinker.training import checkpoints, harness, rows, sft

SMALL = {"batch": 2, "accumulation": 1, "epochs": 2, "lora": {"r": 4, "alpha": 8, "dropout": 0.1}}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def batch(task: sft.SftRun, size: int = 2) -> tuple[dict, object, list[dict]]:
    """The first `size` rows as the trainer's collator makes them, the processor, and the rows."""
    task.work.mkdir(parents=True)
    processor = loading.load_processor(task.model, task.settings.model.max_pixels)
    dataset, _ = sft.fitting(task, processor)
    arguments = SFTConfig(**harness.arguments(task.settings.sft, task.work), max_length=None)
    trainer, _ = sft.build(task, arguments, processor, dataset)
    examples = [trainer.train_dataset[i] for i in range(size)]
    return trainer.data_collator(examples), processor, list(tables.read(task.dataset))[:size]


def test_only_the_chain_and_its_end_carry_loss(config_file):
    made, processor, found = batch(harness.load(config_file("sft", "labels", SMALL), sft.SftRun))
    for labels, row in zip(made["labels"], found, strict=True):
        text = processor.tokenizer.decode(labels[labels != -100])
        assert text.removesuffix("\n") == row["chain"] + processor.tokenizer.eos_token


def test_the_prompt_is_the_one_of_evaluation_token_for_token(config_file):
    made, processor, found = batch(harness.load(config_file("sft", "prompt", SMALL), sft.SftRun))
    for ids, labels, mask, row in zip(
        made["input_ids"], made["labels"], made["attention_mask"], found, strict=True
    ):
        pictures = [rows.picture(row[name]["bytes"]) for name in ("image", "depth_image")]
        wanted = loading.encode(processor, prompts.policy_messages(row["question"]), pictures)
        assert ids[(labels == -100) & (mask == 1)].tolist() == wanted["input_ids"][0].tolist()


def test_the_answer_alone_is_learnt_from_the_plain_question(config_file):
    made, processor, found = batch(
        harness.load(config_file("sft", "answer", {**SMALL, "target": "answer"}), sft.SftRun)
    )
    for ids, labels, row in zip(made["input_ids"], made["labels"], found, strict=True):
        text = processor.tokenizer.decode(labels[labels != -100])
        assert text.removesuffix("\n") == row["answer"] + processor.tokenizer.eos_token
        assert "<think>" not in processor.tokenizer.decode(ids)
    assert rows.count_tokens(processor, found, True, "answer") == made["attention_mask"].sum(1).tolist()


def test_without_depth_input_one_picture_is_shown(config_file):
    both, *_ = batch(harness.load(config_file("sft", "both", SMALL), sft.SftRun))
    path = config_file("sft", "one", SMALL, model_settings={"depth_input": False})
    one, *_ = batch(harness.load(path, sft.SftRun))
    assert len(both["image_grid_thw"]) == 2 * len(one["image_grid_thw"]) == 4


def test_tokens_are_counted_without_opening_pictures(config_file):
    made, processor, found = batch(harness.load(config_file("sft", "count", SMALL), sft.SftRun))
    # The template ends the assistant's turn with a line feed, which stands in both.
    assert rows.count_tokens(processor, found, True) == made["attention_mask"].sum(1).tolist()


def test_a_chain_that_does_not_fit_is_an_error_or_a_reject_and_never_cut(config_file, base):
    task = harness.load(config_file("sft", "long", {**SMALL, "max_length": 64}), sft.SftRun)
    processor = loading.load_processor(base, 3136)
    task.work.mkdir(parents=True)
    with pytest.raises(UserError, match=r"8 of 8 chains do not fit.*toy/patches/0: \d+ tokens"):
        sft.fitting(task, processor)
    lengths = rows.count_tokens(processor, list(tables.read(task.dataset)), True)
    limit = sorted(lengths)[3]
    task = harness.load(
        config_file("sft", "long", {**SMALL, "max_length": limit, "too_long": "reject"}), sft.SftRun
    )
    kept, rejects = sft.fitting(task, processor)
    assert len(kept) + len(rejects) == 8
    assert [reject.row for reject in rejects] == [i for i, n in enumerate(lengths) if n > limit]
    assert {reject.reason for reject in rejects} == {"too-long"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**SMALL, "ranks": 2}, "2 are configured and 1 started"),
        ({**SMALL, "lorra": 1}, "lorra: there is no such field; did you mean 'lora'"),
        ({**SMALL, "epochs": 0}, "epochs: must be greater than 0, found 0"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_code_2(config_file, settings, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sft", str(config_file("sft", "wrong", settings))])
    with pytest.raises(SystemExit) as exit:
        harness.main(sft.main)
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert message in error
    assert error.count("\n") == 1


def test_a_process_that_would_cut_its_batch_up_over_several_gpus_is_refused(config_file, monkeypatch):
    """TRL refuses it too, with advice that does not fit here."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"1 process is started and sees 2 GPUs.*set CUDA_VISIBLE_DEVICES=0"):
        sft.main(config_file("sft", "two", SMALL))


def test_a_data_set_that_is_not_there_is_named(config_file):
    path = config_file("sft", "absent", SMALL, dataset=["nowhere.parquet"])
    with pytest.raises(UserError, match=r"nowhere\.parquet: not a readable Parquet file"):
        sft.main(path)


def test_a_killed_run_resumes_from_the_last_complete_checkpoint_and_ends_the_same(config_file, tmp_path):
    """SIGKILL after the first checkpoint, which is left with a younger, incomplete one beside it. CPU and fp32: the
    resumed run computes the same numbers in the same order, so the adapters are equal to the bit."""
    held_out = {**SMALL, "held_out": 0.25, "save_steps": 2}
    straight = config_file("sft", "straight", held_out)
    sft.main(straight)

    killed = config_file("sft", "killed", held_out)
    work = tmp_path / "killed" / "work"
    process = subprocess.Popen(
        [sys.executable, "-m", "sifthinker.training.sft", str(killed)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (work / "checkpoint-2" / checkpoints.COMPLETE).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoints.last_complete(work) is not None
    half = work / "checkpoint-99"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"cut off")

    sft.main(killed)
    assert not half.exists()
    summary = json.loads((tmp_path / "killed/out/summary.json").read_text())
    assert summary["notes"]["resumed_from"] in ("checkpoint-2", "checkpoint-4")
    one, two = (
        load_file(tmp_path / name / "out/adapter/adapter_model.safetensors")
        for name in ("straight", "killed")
    )
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    history = [lines(tmp_path / name / "out/history.jsonl") for name in ("straight", "killed")]
    losses = [[(entry["step"], entry["loss"]) for entry in each if "loss" in entry] for each in history]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == [1, 2, 3, 4, 5, 6]
    assert any("eval_loss" in entry for entry in history[0])


def test_results_are_complete_and_progress_is_live(config_file, tmp_path):
    sft.main(config_file("sft", "whole", {**SMALL, "max_steps": 2}))
    out, work = tmp_path / "whole/out", tmp_path / "whole/work"
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["in"], summary["kept"], summary["rejected"]) == (8, 8, {})
    assert summary["notes"]["parameters_trained"] > 0
    last = lines(work / "progress.jsonl")[-1]
    assert (last["step"], last["total"]) == (2, 2)
    assert last["seconds"] > 0
    assert last["tokens_per_second"] > 0
    assert pq.read_table(out / "rejects.parquet").num_rows == 0
    adapter = load_file(out / "adapter/adapter_model.safetensors")
    assert not [name for name in adapter if "visual" in name], "the vision tower stays frozen"
    assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)
    config = json.loads((out / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None, "no path enters the artifact"


def test_a_work_folder_of_another_configuration_is_refused(config_file):
    path = config_file("sft", "first", {**SMALL, "max_steps": 1})
    sft.main(path)
    config_file("sft", "first", {**SMALL, "max_steps": 1, "learning_rate": 0.5})
    with pytest.raises(UserError, match="another configuration"):
        sft.main(path)
