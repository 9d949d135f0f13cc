"""A reward from outside the package: one entry in REWARDS, and it is trained on, logged, kept and shown."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sifthinker import rewards
from sifthinker.config import Config, Grpo, Scenes, changed
from sifthinker.core.errors import UserError
from sifthinker.reporting import report
from sifthinker.rewards import REWARDS, Column, Reward, Values
from sifthinker.training import grpo, harness, progress_page
from tests.training.canned_grpo import sample as canned

LONGEST = 400  # characters that are worth nothing


def brevity(texts: list[str], references: list[str]) -> Values:
    """1 for an empty text, 0 for a long one; None where the reference is "red", to which it does not apply."""
    return [
        None if reference == "red" else max(0.0, 1 - len(text) / LONGEST)
        for text, reference in zip(texts, references, strict=True)
    ]


def lengths(texts: list[str], references: list[str]) -> list[Values]:
    return [[float(len(text)) for text in texts]]


ENTRY = Reward(
    brevity,
    ("texts", "references"),
    "short texts",
    weight=0.5,
    columns=(Column("characters", mean="brevity/characters", shown=True),),
    details=lengths,
)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REWARDS, "brevity", ENTRY)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_steps_with_a_fifth_reward_train_on_it_keep_it_and_show_it(grpo_file, sif, tmp_path, monkeypatch):
    trainers = []
    fit = harness.fit

    def watched(trainer, resumed):
        trainers.append(trainer)
        return fit(trainer, resumed)

    monkeypatch.setattr(harness, "fit", watched)
    monkeypatch.setattr(grpo.Trainer, "_generate_single_turn", canned)
    grpo.main(grpo_file("run", {"max_steps": 2}))
    out, work = tmp_path / "run/out", tmp_path / "run/work"
    [trainer] = trainers
    assert trainer.reward_func_names == ["format", "answer", "grounding", "depth", "brevity"]
    assert trainer.reward_weights.tolist() == [1.0, 1.0, 1.0, 1.0, 0.5]

    for entry in lines(out / "history.jsonl"):
        logged = {f"rewards/brevity/{what}" for what in ("mean", "std", "absent")}
        assert {*logged, "brevity/characters"} <= entry.keys()
    completions = pq.read_table(out / "completions.parquet").to_pylist()
    assert list(completions[0])[6:] == [
        *("format", "answer", "grounding", "depth", "brevity"),
        *("judge", "previous", "first_hiou", "last_hiou", "characters"),
    ]
    for entry in completions:
        short = max(0.0, 1 - len(entry["text"]) / LONGEST)
        assert entry["brevity"] in (None, short)
        assert entry["characters"] == len(entry["text"])
    assert {entry["brevity"] is None for entry in completions} == {True, False}
    by_epoch = pq.read_table(out / "rewards.parquet").to_pylist()
    assert {"brevity", "characters"} <= {entry["reward"] for entry in by_epoch}

    page = progress_page.page(work, [sif])
    assert page is not None
    assert "| format | answer | grounding | depth | brevity | judge | characters |" in page
    facts = report.Facts(
        [], dataset=[sif], histories={"grpo": out / "history.jsonl"}, completions=out / "completions.parquet"
    )
    report.write(tmp_path / "report.html", facts)
    assert '<span class="chip">brevity <b>' in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_curves_and_the_ablation_have_a_fifth_reward():
    assert {"rewards/brevity/mean", "brevity/characters"} <= set(progress_page.curves())
    rows = {row.name: row.fields for row in Config(scenes=Scenes()).ablation.variants}
    assert rows["no-brevity-reward"] == {"grpo.rewards.brevity": 0.0}


def test_its_weight_is_a_field_and_a_misspelt_one_is_answered_with_the_right_name():
    config = changed(Config(scenes=Scenes()), {"grpo.rewards.brevity": 2}, "test")
    assert config.grpo.rewards.weights() == [1.0, 1.0, 1.0, 1.0, 2.0]
    assert Grpo.model_validate(config.grpo.model_dump(mode="json")) == config.grpo
    with pytest.raises(
        UserError, match=r"grpo\.rewards\.brevty: there is no reward named 'brevty'; did you mean 'brevity'\?"
    ):
        changed(config, {"grpo.rewards.brevty": 2}, "test")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"needs": ("texts", "pictures")}, r"cannot need \['pictures'\]; a batch has \['texts'"),
        ({"needs": ("texts",)}, "missing a required argument: 'references'"),
        ({"details": None}, "give their values"),
    ],
)
def test_an_entry_that_does_not_fit_its_function_is_refused_when_it_is_made(wrong, message):
    right = {"needs": ENTRY.needs, "columns": ENTRY.columns, "details": ENTRY.details}
    with pytest.raises((ValueError, TypeError), match=message):
        rewards.Reward(brevity, **{**right, **wrong})
