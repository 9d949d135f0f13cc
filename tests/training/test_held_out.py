"""GRPO that asks its policy about held-out rows, and takes the best adapter."""

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from sifthinker.config import Grpo, Model, Sft
from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.models import loading
from sifthinker.training import grpo, held_out, held_out_rows, progress_page, sft
from tests.training.canned_grpo import TEXTS
from tests.training.canned_grpo import sample as canned
from tests.training.conftest import row
from tests.training.fake_judge import SCORES

RIGHT, WRONG = TEXTS[0], TEXTS[-1]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Three held-out rows, whose answer is green, as TEXTS[0] says."""
    path = tmp_path / "held_out.parquet"
    tables.write(path, tables.SIF, [row(index) for index in (9, 13, 17)])
    return path


def policy(right_at: int):
    """A policy that is sampled as the canned one, and that is right, asked greedily, from a step on and for two steps."""

    def sample(self, prompt_ids, *rest):
        if self.generation_config.do_sample:
            return canned(self, prompt_ids, *rest)
        step = self.state.global_step
        text = RIGHT if right_at <= step < right_at + 2 else WRONG
        tokenizer = self.processing_class.tokenizer
        return [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]] * len(prompt_ids), None

    return sample


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def equal(one: Path, two: Path) -> bool:
    left, right = adapter(one), adapter(two)
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.e2e
def test_the_best_adapter_goes_on_and_the_training_is_not_disturbed(grpo_file, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo.Trainer, "_generate_single_turn", policy(right_at=2))
    synced: list[Path] = []
    monkeypatch.setattr(held_out, "sync_tree", synced.append)
    grpo.main(grpo_file("plain", {"max_steps": 4}))
    watched = grpo_file("watched", {"max_steps": 4, "evaluate_steps": 1, "choose": "best"})
    values = yaml.safe_load(watched.read_text()) | {"held_out": str(rows)}
    watched.write_text(yaml.safe_dump(values))
    grpo.main(watched)

    out = tmp_path / "watched/out"
    told, right = json.loads((out / "held_out.json").read_text()), SCORES["green"]
    assert [each["step"] for each in told["evaluations"]] == [0, 1, 2, 3, 4]
    assert [each["held_out/answer"] for each in told["evaluations"]] == [0, 0, right, right, 0]
    assert told["evaluations"][2]["held_out/reward"] > told["evaluations"][1]["held_out/reward"] == 0
    assert told["evaluations"][2]["held_out/rows"] == 3
    assert len(told["evaluations"][2]["held_out/totals"]) == 3
    assert (told["best"], told["adapter"]) == (2, 2), "of equal ones the earliest"
    assert equal(out / "adapter", tmp_path / "watched/work/best/step-2")
    assert [folder.name for folder in synced] == ["step-1", "step-2"], "a checkpoint relies on them"
    assert equal(out / "last", tmp_path / "plain/out/adapter"), "asking changes nothing of the training"
    assert not equal(out / "adapter", out / "last")
    completions = [
        pq.read_table(tmp_path / name / "out/completions.parquet") for name in ("plain", "watched")
    ]
    assert completions[0].equals(completions[1]), "held-out replies are no completions of the training"
    notes = json.loads((out / "summary.json").read_text())["notes"]
    assert (notes["best_step"], notes["adapter_step"], notes["held_out_rows"]) == (2, 2, 3)
    page = progress_page.page(tmp_path / "watched/work")
    assert page and "held_out/reward" in progress_page.curves()


@pytest.mark.e2e
def test_choose_last_keeps_the_papers_rule(grpo_file, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo.Trainer, "_generate_single_turn", policy(right_at=1))
    watched = grpo_file("watched", {"max_steps": 2, "evaluate_steps": 1, "choose": "last"})
    values = yaml.safe_load(watched.read_text()) | {"held_out": str(rows)}
    watched.write_text(yaml.safe_dump(values))
    grpo.main(watched)
    told = json.loads((tmp_path / "watched/out/held_out.json").read_text())
    assert (told["best"], told["adapter"]) == (1, 2)
    assert not (tmp_path / "watched/out/last").exists()


def evaluation(step: int, **totals: float) -> dict[str, Any]:
    """An evaluation in which these rows earned so much."""
    return {"step": step, held_out.REWARD: statistics.fmean(totals.values()), held_out.TOTALS: totals}


def test_evaluations_are_compared_over_the_rows_that_both_have():
    """The judge gives no score for the two hard rows of the third: its mean is the highest, and its rows earn least."""
    first = evaluation(0, easy=0.8, easier=0.9, hard=0.1, harder=0.2)
    second = evaluation(1, easy=0.9, easier=1.0, hard=0.2, harder=0.3)
    third = evaluation(2, easy=0.7, easier=0.8)
    assert third[held_out.REWARD] > second[held_out.REWARD] > first[held_out.REWARD]
    assert held_out.chosen([first, second, third])["step"] == 1
    assert held_out.means(third, second) == (pytest.approx(0.75), pytest.approx(0.95), 2)
    better = evaluation(3, easy=0.95, easier=1.0, hard=0.1)
    assert held_out.chosen([first, third, better])["step"] == 3
    assert held_out.better(second, first) and not held_out.better(third, first)


def test_evaluations_that_share_few_rows_are_not_compared_and_the_earlier_stays(tmp_path, caplog):
    first = evaluation(0, a=0.1, b=0.1, c=0.1, d=0.1)
    second, third = evaluation(1, a=0.2, b=0.2), evaluation(2, c=0.9, d=0.9)
    assert held_out.means(third, second) == (0, 0, 0)
    assert held_out.chosen([first, second, third])["step"] == 1
    last = evaluation(2, a=0.9, e=0.9, f=0.9)
    (tmp_path / "adapter").mkdir()
    callback = SimpleNamespace(
        trainer=SimpleNamespace(state=SimpleNamespace(log_history=[first, last])),
        settings=Grpo(evaluate_steps=1),
        folder=tmp_path / "best",
        examples=[1] * 6,
    )
    notes = held_out.publish(callback, tmp_path)
    assert (notes["adapter_step"], notes["held_out_rows_compared"]) == (2, 0)
    assert "over the 0 rows that have all rewards in both; the last one goes on" in caplog.text


def test_the_rule_takes_the_highest_of_a_trained_policy_and_of_equal_ones_the_earliest():
    def history(*rewards):
        return [evaluation(step, a=reward) for step, reward in enumerate(rewards)] + [
            {"step": 1, "loss": 0.1}
        ]

    assert held_out.chosen(history(0.9)) is None, "the policy before the first step is no choice"
    assert held_out.chosen(history(0.9, 0.1, 0.3, 0.3))["step"] == 2
    assert held_out.chosen(history(0.0, -1.0))["step"] == 1


def test_where_nothing_is_better_than_the_start_the_last_adapter_goes_on(tmp_path, caplog):
    (tmp_path / "adapter").mkdir()
    history = [evaluation(step, a=reward) for step, reward in enumerate((0.5, 0.5, 0.2))]
    callback = SimpleNamespace(
        trainer=SimpleNamespace(state=SimpleNamespace(log_history=history)),
        settings=Grpo(evaluate_steps=1),
        folder=tmp_path / "best",
        examples=[1],
    )
    notes = held_out.publish(callback, tmp_path)
    assert (notes["best_step"], notes["adapter_step"]) == (1, 2)
    assert "no adapter earns more than the 0.5" in caplog.text
    assert not (tmp_path / "last").exists()


def entry(id: str, **rewards):
    return {"id": id, "judge": rewards["answer"], **rewards}


def test_a_row_without_a_score_is_left_out_and_too_many_stop_the_training():
    whole = entry("a", format=1.0, answer=0.5, grounding=1.0, depth=0.0)
    lost = entry("b", format=1.0, answer=None, grounding=1.0, depth=1.0)
    found = held_out.summary([whole, lost], Grpo())
    assert (found["held_out/reward"], found["held_out/rows"], found["held_out/answer"]) == (2.5, 1.0, 0.5)
    assert found["held_out/format"] == 1.0
    assert held_out.by_row([whole, lost], Grpo()) == {"a": 2.5}
    unweighted = Grpo(rewards={"answer": 0.0})
    assert held_out.summary([whole, lost], unweighted)["held_out/rows"] == 2.0, "its weight is 0"
    with pytest.raises(UserError, match=r"2 of 3 have no score, more than rewards\.max_absent = 0\.5"):
        held_out.summary([whole, lost, lost], Grpo())


def test_no_rank_waits_for_the_judge_while_others_sample(tmp_path, monkeypatch):
    examples = [{"sample_id": f"row-{number}"} for number in range(3)]
    callback = held_out.HeldOut(examples, Grpo(batch=1, accumulation=2), None, tmp_path)
    steps = []

    def asked(examples):
        steps.append("sampled")
        return [example["sample_id"].upper() for example in examples]

    def scored(ids, texts):
        steps.append("scored")
        return [{"id": id, "text": text} for id, text in zip(ids, texts, strict=True)]

    monkeypatch.setattr(callback, "_asked", asked)
    monkeypatch.setattr(callback, "_scored", scored)
    assert callback._earned() == [{"id": f"row-{n}", "text": f"ROW-{n}"} for n in range(3)]
    assert steps == ["sampled", "sampled", "scored", "scored"]


def test_rows_that_grpo_trains_on_are_never_drawn_and_the_draw_is_seeded():
    ids = [f"row-{number}" for number in range(50)]
    drawn = held_out_rows.draw(ids, ids[:40], 5, 0)
    assert len(drawn) == 5 and set(drawn) <= set(ids[40:])
    assert drawn == held_out_rows.draw(ids[::-1], ids[:40], 5, 0) != held_out_rows.draw(ids, ids[:40], 5, 1)
    assert len(held_out_rows.draw(ids, ids[:40], 64, 0)) == 10
    with pytest.raises(
        UserError, match=r"no row is left that GRPO does not train on; lower publish\.rl_samples"
    ):
        held_out_rows.draw(ids, ids, 5, 0)


@pytest.mark.parametrize("too_long", ["error", "reject"])
def test_rows_that_sft_holds_out_are_those_that_it_did_not_train_on(
    too_long, base, sif, config_file, tmp_path, monkeypatch
):
    settings = {"held_out": 0.3, "too_long": too_long, "max_length": 4096, "batch": 1, "accumulation": 1}
    seen = []
    monkeypatch.setattr(sft.harness, "fit", lambda trainer, _: seen.append(trainer))
    monkeypatch.setattr(sft.adapters, "save_adapter", lambda *_: None)
    monkeypatch.setattr(sft.progress, "write_history", lambda *_: [])
    monkeypatch.setattr(sft.progress, "notes", lambda *_: {})
    sft.main(config_file("sft", "run", settings))
    (trainer,) = seen
    policy = Model(weights="tiny", max_pixels=3136)
    processor = loading.load_processor(base, policy.max_pixels)
    unseen = held_out_rows.unseen([sif], Sft(**settings), policy, processor)
    trained = {trainer.train_dataset[place]["sample_id"] for place in range(len(trainer.train_dataset))}
    everything = {row["id"] for row in tables.read([sif], ["id"])}
    assert unseen and set(unseen) == everything - trained
    assert set(held_out_rows.unseen([sif], Sft(), policy, processor)) == everything


def test_the_rows_are_written_whole(sif, tmp_path):
    ids = ["toy/patches/5", "toy/patches/2"]
    held_out_rows.write([sif], ids, tmp_path / "rows.parquet")
    found = list(tables.read(tmp_path / "rows.parquet"))
    assert {each["id"] for each in found} == set(ids)
    assert found[0]["image"]["bytes"]


@pytest.mark.slow
def test_two_ranks_of_zero3_ask_a_real_model_and_agree(grpo_file, rows, tmp_path):
    """Three rows on two ranks: an uneven share, real greedy sampling through gathered weights."""
    settings = {"max_steps": 2, "evaluate_steps": 1, "ranks": 2, "batch": 4, "deepspeed": "zero3"}
    file = grpo_file("ranks", settings)
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"held_out": str(rows)}))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    ran = subprocess.run(
        [sys.executable, *torchrun, "-m", "sifthinker.training.grpo", str(file)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not ran.returncode, ran.stderr[-3000:]
    told = json.loads((tmp_path / "ranks/out/held_out.json").read_text())
    assert [each["step"] for each in told["evaluations"]] == [0, 1, 2]
    assert {each["held_out/rows"] for each in told["evaluations"]} == {3.0}
    # An untrained model is never right, so nothing beats the start, and the last adapter goes on.
    assert (told["best"], told["adapter"]) == (1, 2) and not (tmp_path / "ranks/out/last").exists()
    chosen, last = adapter(tmp_path / "ranks/out/adapter"), adapter(tmp_path / "ranks/work/checkpoint-2")
    assert chosen.keys() == last.keys() and all(torch.equal(chosen[name], last[name]) for name in last)


@pytest.mark.e2e
def test_a_resumed_training_remembers_its_evaluations_and_chooses_alike(
    grpo_file, rows, tmp_path, monkeypatch
):
    """The best adapter is of before the checkpoint; what was evaluated after it is evaluated again."""
    monkeypatch.setattr(grpo.Trainer, "_generate_single_turn", policy(right_at=1))
    file = grpo_file("run", {"max_steps": 4, "evaluate_steps": 1, "save_steps": 3})
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"held_out": str(rows)}))
    grpo.main(file)
    out = tmp_path / "run/out"
    told, best = json.loads((out / "held_out.json").read_text()), adapter(out / "adapter")
    shutil.rmtree(out)
    shutil.rmtree(tmp_path / "run/work/checkpoint-4")
    grpo.main(file)
    assert json.loads((out / "summary.json").read_text())["notes"]["resumed_from"] == "checkpoint-3"
    again = json.loads((out / "held_out.json").read_text())
    assert again == told and told["best"] == 1
    assert all(torch.equal(best[name], tensor) for name, tensor in adapter(out / "adapter").items())
