"""The GRPO program on a tiny model, with a judge of a few lines behind real HTTP."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import TrainerState

from sifthinker import config, rewards
from sifthinker.config import Grpo, identity
from sifthinker.core import prompts, tables
from sifthinker.core.errors import UserError
from sifthinker.models import loading
from sifthinker.system import program_files
from sifthinker.training import checkpoints, grpo, harness, preflight, rows, scoring
from sifthinker.training.samplers import adapter_server
from tests.training.canned_grpo import TEXTS
from tests.training.canned_grpo import sample as canned
from tests.training.fake_judge import SCORES

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_steps_log_every_reward_and_keep_every_completion(grpo_file, judge, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo.Trainer, "_generate_single_turn", canned)
    grpo.main(grpo_file("run", {"max_steps": 2}))
    out = tmp_path / "run/out"
    history = lines(out / "history.jsonl")
    assert [entry["step"] for entry in history] == [1, 2]
    for entry in history:
        for name in rewards.REWARDS:
            assert {f"rewards/{name}/{what}" for what in ("mean", "std", "absent")} <= entry.keys()
        assert {
            "kl",
            "completion_length",
            "tokens_per_second",
            "learning_rate",
            "judge/score",
        } <= entry.keys()
    completions = pq.read_table(out / "completions.parquet").to_pylist()
    assert len(completions) == 16
    assert {entry["text"] for entry in completions} <= set(TEXTS)
    for entry in completions:
        answered = "<answer>" in entry["text"]
        assert entry["judge"] == (
            SCORES[entry["text"].split("<answer>")[1].split("<")[0].strip()] if answered else 0
        )
        assert entry["answer"] == entry["judge"], "the first epoch has no progress"
        assert entry["format"] == float("<think>" in entry["text"])
    assert {entry["depth"] for entry in completions} == {0.0, 1.0}
    by_epoch = pq.read_table(out / "rewards.parquet").to_pylist()
    assert {(entry["epoch"], entry["dataset"]) for entry in by_epoch} == {(0, ""), (0, "patches")}
    means = {entry["reward"]: entry["mean"] for entry in by_epoch if not entry["dataset"]}
    assert means["format"] == pytest.approx(sum(entry["format"] for entry in completions) / 16)
    assert means.keys() == {*rewards.REWARDS, "judge"}
    assert list((tmp_path / "run" / "work" / "tensorboard").glob("events.*")), "on by default"
    # The judge saw the photograph and the whole question, first letter included (PAPER.md R1.4).
    picture, text = judge.asked[0]["messages"][1]["content"]
    assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert text["text"].startswith("Question: What color is patch")
    adapter = load_file(out / "adapter/adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name), "it learned something"
    assert not [name for name in adapter if "visual" in name]


def test_a_real_sampled_step_writes_no_picture_tokens_and_samples_without_dropout(
    grpo_file, tmp_path, monkeypatch
):
    seen = []
    generate = grpo.GRPOTrainer._generate_single_turn

    def watched(self, *args, **kwargs):
        assert not self.model.training
        ids, _ = made = generate(self, *args, **kwargs)
        seen.extend(ids)
        return made

    monkeypatch.setattr(grpo.GRPOTrainer, "_generate_single_turn", watched)
    grpo.main(grpo_file("real", {"max_steps": 1}))
    processor = loading.load_processor(harness.load(tmp_path / "real.yaml", grpo.GrpoRun).model)
    assert len(seen) == 8
    assert not {token for ids in seen for token in ids} & set(loading.picture_tokens(processor))


def test_prompts_of_different_lengths_keep_their_pictures_in_their_places(
    grpo_file, sif, tmp_path, monkeypatch
):
    varied = [dict(row) for row in tables.read(sif)]
    for index, one in enumerate(varied):  # pictures and questions of all sizes in one batch
        one["question"] += " Look again." * index
        for name in ("image", "depth_image"):
            with Image.open(io.BytesIO(one[name]["bytes"])) as picture:
                larger = picture.resize((56 + 28 * index, 42))
            buffer = io.BytesIO()
            larger.save(buffer, "PNG")
            one[name] = {"bytes": buffer.getvalue(), "path": one[name]["path"]}
    tables.write(sif.with_name("varied.parquet"), tables.SIF, varied)
    file = grpo_file("varied", {"max_steps": 2})
    settings = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**settings, "dataset": [str(sif.with_name("varied.parquet"))]}))
    seen = []
    original = grpo.GRPOTrainer._get_per_token_logps_and_entropies

    def watched(self, model, ids, *args, **kwargs):
        pad = self.processing_class.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        seen.append(torch.equal(ids == pad, kwargs["mm_token_type_ids"] == 1))
        return original(self, model, ids, *args, **kwargs)

    monkeypatch.setattr(grpo.Trainer, "_generate_single_turn", canned)
    monkeypatch.setattr(grpo.GRPOTrainer, "_get_per_token_logps_and_entropies", watched)
    grpo.main(file)
    assert seen and all(seen)


def test_the_prompt_is_the_one_of_evaluation_token_for_token(config_file, grpo_file, base):
    task = harness.load(grpo_file("prompt", {}), grpo.GrpoRun)
    processor = loading.load_processor(base, 3136)
    task.work.mkdir(parents=True)
    dataset = rows.open_parquet(task.dataset, ["id", "question", "image", "depth_image"], task.work)
    example = grpo.examples(dataset, True)[0]
    row = next(iter(tables.read(task.dataset)))
    fake = type(
        "", (), {"_is_vlm": True, "processing_class": processor, "tools": None, "chat_template": None}
    )()
    fake.environment_factories, fake.chat_template_kwargs = None, {}
    prompt = grpo.GRPOTrainer._generate_and_score_completions.__globals__["prepare_multimodal_messages"](
        example["prompt"], images=example["images"]
    )
    ids, _, fields = grpo.GRPOTrainer._tokenize_prompts(fake, [prompt])
    pictures = [rows.picture(row[name]["bytes"]) for name in ("image", "depth_image")]
    wanted = loading.encode(processor, prompts.policy_messages(row["question"]), pictures)
    assert list(ids[0]) == wanted["input_ids"][0].tolist()
    assert torch.equal(torch.as_tensor(fields["pixel_values"]), wanted["pixel_values"])


def test_a_killed_run_resumes_with_the_same_samples_scores_book_and_adapter(grpo_file, tmp_path, monkeypatch):
    """SIGKILL in the second epoch. CPU and fp32: sampling continues from the checkpoint's random state and the judge's
    replies are the same, so everything is equal to the bit."""
    settings = {"epochs": 2, "save_steps": 2}
    program = str(Path(__file__).with_name("canned_grpo.py"))
    monkeypatch.setattr(grpo.Trainer, "_generate_single_turn", canned)
    grpo.main(grpo_file("straight", settings))

    killed = grpo_file("killed", settings)
    process = subprocess.Popen(
        [sys.executable, program, str(killed)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    marker = tmp_path / "killed" / "work" / "checkpoint-6" / checkpoints.COMPLETE
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed/out/summary.json").exists(), "killed too late to show anything"
    grpo.main(killed)

    one, two = (tmp_path / name / "out" for name in ("straight", "killed"))
    assert json.loads((two / "summary.json").read_text())["notes"]["resumed_from"] == "checkpoint-6"
    assert (one / "book.json").read_bytes() == (two / "book.json").read_bytes()
    completions = pq.read_table(one / "completions.parquet").to_pylist()
    assert completions == pq.read_table(two / "completions.parquet").to_pylist()
    left, right = (load_file(out / "adapter/adapter_model.safetensors") for out in (one, two))
    assert all(torch.equal(left[name], right[name]) for name in left)
    # And the second epoch's progress is against the first epoch's mean score of the same sample.
    book = json.loads((one / "book.json").read_text())
    second = [entry for entry in completions if entry["epoch"] == 1]
    assert len(second) == 32
    for entry in second:
        mean = sum(book[entry["id"]]["0"]) / 4
        assert entry["answer"] == pytest.approx(2 * entry["judge"] - mean)
    orders = [list(dict.fromkeys(e["id"] for e in completions if e["epoch"] == epoch)) for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1], "each epoch has an order of its own"


def test_a_stop_between_two_updates_by_the_same_completions_waits_and_nothing_is_scored_twice(
    grpo_file, tmp_path, monkeypatch
):
    """TRL keeps the completions in memory: a training that went on after step 3 would sample others for step 4."""
    settings = {"epochs": 1, "iterations": 2, "save_steps": 3}
    monkeypatch.setattr(grpo.Trainer, "_generate_single_turn", canned)
    grpo.main(grpo_file("straight", settings))
    steps = iter(range(1, 9))
    with monkeypatch.context() as told, pytest.raises(program_files.Stopped, match="after step 4 of 8"):
        told.setattr(checkpoints.stopping, "agreed", lambda _: next(steps) >= 3)
        grpo.main(grpo_file("stopped", settings))
    work = tmp_path / "stopped/work"
    assert [folder.name for folder in work.glob("checkpoint-*")] == ["checkpoint-4"], "save_steps waits too"
    grpo.main(tmp_path / "stopped.yaml")
    one, two = (tmp_path / name / "out" for name in ("straight", "stopped"))
    assert json.loads((two / "summary.json").read_text())["notes"]["resumed_from"] == "checkpoint-4"
    assert (one / "book.json").read_bytes() == (two / "book.json").read_bytes()
    completions = pq.read_table(one / "completions.parquet").to_pylist()
    assert completions == pq.read_table(two / "completions.parquet").to_pylist() and len(completions) == 32
    left, right = (load_file(out / "adapter/adapter_model.safetensors") for out in (one, two))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_checkpoint_between_two_updates_by_the_same_completions_is_refused(tmp_path):
    intervals = {"logging_steps": 1, "eval_steps": None, "save_steps": 3}
    args = SimpleNamespace(num_iterations=2, output_dir=str(tmp_path), **intervals)
    begin = checkpoints.Checkpoints().on_train_begin
    for step, most in ((0, 9), (4, 9), (9, 9)):
        begin(args, TrainerState(global_step=step, max_steps=most), None)
    with pytest.raises(UserError, match=r"checkpoint-3: it lies within the 2 steps .* remove this folder"):
        begin(args, TrainerState(global_step=3, max_steps=9), None)


def test_a_judge_without_scores_stops_the_run_before_it_poisons_the_policy(grpo_file, judge, monkeypatch):
    judge.broken = True
    monkeypatch.setattr(grpo.Trainer, "_generate_single_turn", canned)
    with pytest.raises(
        UserError, match=r"step 1: the judge gave no score for \d of 8 completions, more than"
    ):
        grpo.main(grpo_file("broken", {"rewards": {"max_absent": 0.1}}))


def test_a_policy_that_loses_its_form_stops_the_run_and_by_default_nothing_does(grpo_file, monkeypatch):
    """Canned completions: three of five are chains, a share that no four steps of 8 can hold above 0.99 for long."""
    monkeypatch.setattr(grpo.Trainer, "_generate_single_turn", canned)
    settings = {"epochs": 2, "learning_rate": 1e-6}
    with pytest.raises(UserError, match=r"step 4: 0\.\d\d of the completions of the last 4 steps are chains"):
        grpo.main(grpo_file("formless", {**settings, "rewards": {"least_format": 0.99}}))
    assert config.Rewards().least_format == 0.0


def test_an_absent_score_is_neutral_in_its_group():
    everyone = [{"id": "a", "answer": 1.0}, {"id": "a", "answer": 0.0}, {"id": "a", "answer": None}]
    everyone += [{"id": "b", "answer": None}]
    assert scoring.neutral("answer", everyone, everyone) == [1.0, 0.0, 0.5, None]


def test_rewards_are_summed_up_by_epoch_and_source_data_set():
    """An absent score counts in the share of None and nowhere else."""
    rows = [("cub", 1.0), ("cub", None), ("vsr", 0.0), ("vsr", 0.5)]
    entries = [
        {"epoch": 0, "dataset": dataset, **dict.fromkeys(rewards.REWARDS, score), "judge": score}
        for dataset, score in rows
    ]
    found = {(e["dataset"], e["reward"]): e for e in scoring.by_epoch(entries)}
    everything, cub = found["", "answer"], found["cub", "answer"]
    assert (everything["completions"], everything["mean"], everything["absent"]) == (4, 0.5, 0.25)
    assert everything["spread"] == pytest.approx((1 / 6) ** 0.5)
    assert (cub["completions"], cub["mean"], cub["spread"], cub["absent"]) == (2, 1.0, 0.0, 0.5)


def test_a_tracker_that_is_not_installed_is_named(grpo_file, monkeypatch):
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="trackers: mlflow is not installed; `pip install mlflow`"):
        grpo.main(grpo_file("tracked", {"trackers": ["mlflow"]}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 3}, "3 completions a step is no multiple of generations = 4"),
        ({"batch": 40}, "takes 10 different samples .* the data set has 8"),
    ],
)
def test_batches_that_do_not_fit_the_groups_are_refused_before_anything_loads(
    grpo_file, settings, message, monkeypatch
):
    monkeypatch.setattr(loading, "load_policy", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(UserError, match=message):
        grpo.main(grpo_file("wrong", settings))


def test_the_paper_is_the_default():
    """PAPER.md P6.2, P6.3 and R6.6; the numbers that decide the loss."""
    made = grpo.grpo_arguments(Grpo())
    assert (
        made
        | {
            "num_generations": 8,
            "beta": 0.04,
            "loss_type": "grpo",
            "scale_rewards": "group",
            "importance_sampling_level": "token",
            "num_iterations": 1,
            "epsilon": 0.2,
            "epsilon_high": None,
            "mask_truncated_completions": False,
            "temperature": 1.0,
            "reward_weights": [1.0, 1.0, 1.0, 1.0],
        }
        == made
    )
    assert list(rewards.REWARDS) == ["format", "answer", "grounding", "depth"], "the order of the weights"


VARIANTS = {  # fields as training/README.md has them, and TRL's arguments
    "DAPO": (
        {"loss": "dapo", "epsilon_high": 0.28, "iterations": 2, "mask_truncated": True, "beta": 0},
        {
            "loss_type": "dapo",
            "epsilon_high": 0.28,
            "num_iterations": 2,
            "mask_truncated_completions": True,
            "beta": 0,
        },
    ),
    "Dr. GRPO": (
        {"loss": "dr_grpo", "scale_rewards": "none", "beta": 0},
        {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0},
    ),
    "GSPO": (
        {"importance": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4, "iterations": 2},
        {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4, "num_iterations": 2},
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_published_variant_is_a_few_fields_and_the_paper_keeps_its_key(name):
    fields, wanted = VARIANTS[name]
    made = grpo.grpo_arguments(Grpo(**fields))
    assert {argument: made[argument] for argument in wanted} == wanted
    for field in (
        "loss",
        "scale_rewards",
        "importance",
        "iterations",
        "epsilon",
        "epsilon_high",
        "mask_truncated",
    ):
        assert field not in identity(Grpo())
    assert identity(Grpo(**fields)) == identity(Grpo(beta=fields.get("beta", 0.04))) | fields


def test_clip_higher_is_refused_where_nothing_would_be_clipped():
    with pytest.raises(ValidationError, match="epsilon_high clips nothing while iterations is 1"):
        Grpo(epsilon_high=0.28)


@pytest.mark.parametrize("url", ["standin", "local"])
def test_a_judge_of_one_machine_is_refused_for_several_nodes(url):
    with pytest.raises(
        ValidationError, match=rf"a {url} judge serves the machine that starts it, and nodes is 2"
    ):
        Grpo(nodes=2, judge={"base_url": url})
    assert Grpo(judge={"base_url": url}).nodes == 1
    assert Grpo(nodes=2, judge={"base_url": "https://api.example.org/v1", "model": "m"}).nodes == 2


def test_ranks_wait_longer_for_each_other_than_one_of_them_for_the_judge(tmp_path):
    told = {
        stage: harness.arguments(stage(deepspeed="none"), tmp_path)["ddp_timeout"]
        for stage in (Grpo, config.Sft)
    }
    judge = Grpo().judge
    assert told[Grpo] > (judge.retries + 1) * judge.max_pause
    assert told[Grpo] > adapter_server.PATIENCE.read
    assert told[config.Sft] == harness.COLLECTIVE
    patient = Grpo(judge={"max_pause": 7200.0, "retries": 8})
    assert harness.collective_timeout(patient) > 9 * 7200.0


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_trains_and_takes_the_promised_steps(name, grpo_file, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo.Trainer, "_generate_single_turn", canned)
    fields, _ = VARIANTS[name]
    for run, more in (("paper", {}), ("variant", fields)):
        grpo.main(grpo_file(run, {"max_completion": 64, **more}))
    adapters = [
        load_file(tmp_path / run / "out/adapter/adapter_model.safetensors") for run in ("paper", "variant")
    ]
    assert any(not torch.equal(adapters[0][key], adapters[1][key]) for key in adapters[0])
    settings = Grpo(**{"ranks": 1, "batch": 8, "accumulation": 1, "generations": 4, "epochs": 1, **fields})
    steps = json.loads((tmp_path / "variant/out/summary.json").read_text())["notes"]["steps"]
    assert steps == preflight.steps(settings, 8) == 4 * fields.get("iterations", 1)
