"""What is refused before ranks are started, and how many steps are promised."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from peft import get_peft_model

from sifthinker import config
from sifthinker.config import Api, Grpo, Lora, Model, Sft
from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.models import loading
from sifthinker.models.families import FAMILIES
from sifthinker.training import adapters, grpo, memory, outages, preflight, sft
from tests.training.fake_judge import Judge

ROOT = Path(__file__).parents[2]
POLICY = Model(weights="tiny", max_pixels=3136)
SMALL = {"ranks": 1, "deepspeed": "none", "precision": "fp32", "gradient_checkpointing": False}


def url(judge: Judge) -> str:
    return f"http://127.0.0.1:{judge.server_port}/v1"


@pytest.mark.parametrize(
    ("settings", "rows", "wanted"),
    [
        (Grpo(), 200, 2000),  # paper: 8 x 1 x 2 completions = 2 samples a step, 20 epochs (PAPER.md R6.5)
        (Grpo(), 201, 2000),  # half a step is left out of each epoch
        (Grpo(max_steps=7), 200, 7),
        (Grpo(iterations=3), 201, 6000),  # three steps by the same completions
        (Sft(), 50_000, 3 * 391),  # 8 x 2 x 8 = 128 a step; the last step of an epoch is a small one
        (Sft(held_out=0.1), 50_000, 3 * 352),
        (Sft(epochs=0.5), 50_000, 196),
        (Grpo(), 1, 0),
    ],
)
def test_steps_are_counted_as_the_trainers_count_them(settings, rows, wanted):
    assert preflight.steps(settings, rows) == wanted


@pytest.mark.parametrize(
    "shares",
    [{"batch": 2, "accumulation": 1}, {"batch": 1, "accumulation": 3}, {"batch": 3, "held_out": 0.3}],
)
def test_an_sft_takes_the_promised_steps(shares, config_file, sif, tmp_path, monkeypatch):
    settings = {**SMALL, "epochs": 1.5, "accumulation": 1, **shares}
    counted = []
    monkeypatch.setattr(sft.harness, "fit", lambda trainer, _: counted.append(trainer))
    monkeypatch.setattr(sft.adapters, "save_adapter", lambda *_: None)
    monkeypatch.setattr(sft.progress, "write_history", lambda *_: [])
    monkeypatch.setattr(sft.progress, "notes", lambda *_: {})
    sft.main(config_file("sft", "steps", settings))
    (trainer,) = counted
    batches = trainer.get_train_dataloader()
    total = trainer.set_initial_training_values(trainer.args, batches)[-1]
    assert preflight.steps(Sft(**settings), 8) == total


def test_a_training_that_fits_is_estimated(base, sif, tmp_path, judge):
    found = preflight.check(base, [sif], tmp_path / "work", POLICY, Grpo(**SMALL, batch=8), url(judge))
    assert found["steps"] == 80
    assert 2048 < found["longest_tokens"] < 2400
    assert found["longest_id"].startswith("toy/patches/")
    assert found["memory_bytes_a_rank"] > 5e8
    sizes = memory.read_shape(base)
    assert 1e6 < sizes.parameters < 2e6
    assert (sizes.layers, sizes.hidden, sizes.context) == (4, 128, 8192)


def test_what_samples_has_to_hold_the_longest_of_all_rows_and_pictures_of_the_whole_budget(
    base, sif, tmp_path, judge
):
    settings = Grpo(**SMALL, batch=8)
    alone = preflight.check(base, [sif], tmp_path / "work", POLICY, settings, url(judge))
    patches = 2 * 16  # of 14 pixels a side in 3,136
    assert alone["context"] == alone["longest_tokens"] + patches
    wordy = next(iter(tables.read([sif])))
    wordy["question"] += " Look again." * 20
    tables.write(tmp_path / "held_out.parquet", tables.SIF, [wordy])
    found = preflight.check(
        base, [sif], tmp_path / "work", POLICY, settings, url(judge), tmp_path / "held_out.parquet"
    )
    assert found["context"] >= alone["context"] + 20
    assert found["longest_id"] == alone["longest_id"], "the rehearsal's sample is one of the training's"
    assert preflight.sampled(8190, memory.read_shape(base), POLICY) == 8192, "no more than the model takes"


def test_the_adapter_of_the_estimate_is_the_adapter_that_is_trained(base, config_file, tmp_path):
    sft.main(config_file("sft", "one", {**SMALL, "max_steps": 1, "lora": {"r": 4, "alpha": 8, "dropout": 0}}))
    trained = json.loads((tmp_path / "one/out/summary.json").read_text())["notes"]["parameters_trained"]
    assert memory.read_shape(base).adapted * 4 == trained


@pytest.mark.parametrize("family", FAMILIES)
def test_the_adapter_of_the_estimate_is_what_peft_makes_of_each_family(family, tmp_path):
    """Qwen3.5's linear attention, whose layers have other names than attention's, included."""
    loading.build_tiny(family, 0, tmp_path)
    wrapped = get_peft_model(
        loading.load_policy(tmp_path, "fp32"), adapters.lora(Lora(r=4, alpha=8, dropout=0.0))
    )
    trained, _ = wrapped.get_nb_trainable_parameters()
    assert memory.read_shape(tmp_path).adapted * 4 == trained > 0


def test_chains_that_are_too_long_are_counted_before_a_rehearsal_sees_the_longest_alone(base, sif, tmp_path):
    *others, last = tables.read([sif])
    last["chain"] = last["chain"].replace("<text>", "<text>" + "Look again. " * 40, 1)
    long = tmp_path / "long.parquet"
    tables.write(long, tables.SIF, [*others, last])
    limit = preflight.check(base, [sif], tmp_path / "work", POLICY, Sft(**SMALL))["longest_tokens"]

    def check(**fields):
        return preflight.check(
            base, [long], tmp_path / "work", POLICY, Sft(**SMALL, max_length=limit, **fields)
        )

    message = (
        rf"^1 of 8 chains do not fit and are never cut; the first is {last['id']}: \d+ tokens .* is {limit}"
    )
    with pytest.raises(UserError, match=message):
        check()
    assert check(too_long="reject")["longest_tokens"] <= limit
    with pytest.raises(UserError, match=r"none of 8 chains fits 64 tokens"):
        preflight.check(base, [sif], tmp_path, POLICY, Sft(**SMALL, max_length=64, too_long="reject"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        # Prompt and the longest completion are more than the model's 8,192 tokens.
        (Grpo(**SMALL, batch=8, max_completion=8190), r"toy/patches/\d: \d+ tokens with grpo.max_completion"),
        (Grpo(**SMALL, batch=128), "8 samples are fewer than one step takes"),
        (Grpo(**SMALL, batch=128, max_steps=2), "8 samples are fewer than one step takes"),
    ],
)
def test_what_cannot_be_trained_is_refused(settings, message, base, sif, tmp_path, judge):
    with pytest.raises(UserError, match=message):
        preflight.check(base, [sif], tmp_path / "work", POLICY, settings, url(judge))


def test_too_little_memory_is_refused_with_the_parts_of_the_estimate(base, sif, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_gpus", lambda: [(2e9, 96e9)] * 8)
    with pytest.raises(
        UserError, match=r"needed on each GPU and 2.0 GB are free \(a rank: weights .*process"
    ):
        preflight.check(base, [sif], tmp_path, POLICY, Sft(batch=1, accumulation=1))
    monkeypatch.setattr(memory, "free_gpus", lambda: [(96e9, 96e9)] * 4)
    with pytest.raises(UserError, match="8 are configured for this machine and there are 4 GPUs"):
        preflight.check(base, [sif], tmp_path, POLICY, Sft(batch=1, accumulation=1))
    monkeypatch.setattr(memory, "free_gpus", list)
    free = type("", (), {"available": 1e9})()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(UserError, match=r"needed on 8 processes and 1\.0 GB are free"):
        preflight.check(base, [sif], tmp_path, POLICY, Sft(batch=1, accumulation=1))


SEVEN = memory.PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"]
CARDS = {  # (free, total) bytes as nvidia-smi gives them: a little of each is taken
    "24 GB": (24_110 * 2**20, 24_564 * 2**20),
    "96 GB": (97_280 * 2**20, 97_871 * 2**20),
}


@pytest.mark.parametrize(
    ("settings", "low", "high"),
    [
        (Grpo(), 20, 30),  # ZeRO-3 on 8 ranks: 2 GB of weights each, and the whole 17 GB while it samples
        (Grpo(generation="vllm_server"), 6, 15),  # nothing is gathered: the server samples
        (Grpo(deepspeed="zero2"), 20, 40),  # 17 GB of weights each
        (Sft(), 6, 40),
        (
            Sft(gradient_checkpointing=False),
            30,
            60,
        ),  # 27 GB of activations (34 bytes a hidden value and layer)
    ],
)
def test_the_estimate_for_the_papers_model_is_of_the_right_order(settings, low, high):
    assert low < sum(memory.estimate(settings, SEVEN, 2800, Model()).values()) / 1e9 < high


@pytest.mark.parametrize(
    ("card", "settings", "refused"),
    [
        ("24 GB", Grpo(), r"the whole model to sample.*grpo\.generation"),
        ("24 GB", Grpo(deepspeed="zero3_offload", batch=4), "the whole model to sample"),
        ("24 GB", Grpo(deepspeed="none"), "lower batch"),
        ("24 GB", Sft(gradient_checkpointing=False), "gradient_checkpointing: true"),
        ("24 GB", Sft(batch=1, accumulation=16), None),
        ("96 GB", Grpo(), None),
        ("96 GB", Grpo(deepspeed="zero2"), None),
        ("96 GB", Sft(), None),
    ],
)
def test_eight_gpus_are_refused_where_the_papers_model_cannot_fit(card, settings, refused, monkeypatch):
    monkeypatch.setattr(memory, "free_gpus", lambda: [CARDS[card]] * 8)
    if refused is None:
        memory.check(settings, SEVEN, 3000, Model())
        return
    with pytest.raises(UserError, match=refused):
        memory.check(settings, SEVEN, 3000, Model())


def test_what_generation_holds_grows_with_what_is_sampled_at_once():
    def held(part, **fields):
        return memory.estimate(Grpo(**fields), SEVEN, 3000, Model())[part]

    assert held("gathered weights") == 2 * SEVEN.parameters
    # Two completions of 3,000 tokens, 28 layers of 1,024 numbers of 2 bytes, and a layer's copy.
    assert held("keys and values") == pytest.approx(2 * 3000 * (28 + 2) * 1024 * 2)
    assert held("keys and values", accumulation=8) == 4 * held("keys and values")
    assert held("vision tower", accumulation=8) == 4 * held("vision tower")
    assert memory.patches(SEVEN, Model()) == 2 * memory.patches(SEVEN, Model(depth_input=False)) == 2 * 1338


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_sizes_of_every_familys_vision_tower_are_found(family, tmp_path):
    loading.build_tiny(family, 0, tmp_path)
    tower = memory.read_shape(tmp_path).vision
    assert min(tower.layers, tower.hidden, tower.inner) > 0
    assert tower.patch > 1
    assert bool(tower.square) == (FAMILIES[family].pictures != "budget")


def test_a_picture_in_tiles_has_as_many_as_the_budget_holds_and_one_of_the_whole():
    shape = replace(SEVEN, vision=memory.Vision(layers=2, hidden=96, inner=192, patch=14, square=448))
    tiled = Model(family="internvl", max_pixels=2 * 448 * 448, depth_input=False)
    assert memory.patches(shape, tiled) == 3 * 32 * 32
    assert memory.patches(shape, Model(family="llava", depth_input=False)) == 32 * 32


def test_a_full_disk_is_refused(base, sif, tmp_path, monkeypatch):
    nearly_full = type("", (), {"free": 1000})()
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: nearly_full)
    with pytest.raises(UserError, match=r"0\.0 GB are free; checkpoints take about"):
        preflight.check(base, [sif], tmp_path / "work", POLICY, Sft(**SMALL))


def test_a_training_that_is_resumed_needs_room_for_the_rest_alone(tmp_path, monkeypatch):
    """Three checkpoints of a gigabyte each, and five adapters of an eighth; what is there is made of holes."""
    shape = replace(SEVEN, adapted=1_000_000)
    settings = Grpo(lora={"r": 64, "alpha": 64, "dropout": 0.0}, precision="fp32", evaluate_steps=10)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=1.7e9))

    def check() -> None:
        preflight.check_disk(tmp_path, [], settings, shape, 50)

    needed = 3 * 64e6 * 16 + 5 * 64e6 * 4
    with pytest.raises(UserError, match=rf"checkpoints take about {needed / 1e9:.1f} GB"):
        check()
    for name, size in (
        ("checkpoint-10/optimizer.pt", 64 * 16),
        ("checkpoint-20/a/b", 64 * 16),
        ("best/step-10/x", 640),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        with (tmp_path / name).open("wb") as file:
            file.truncate(size * 10**6)
    check()
    (tmp_path / "checkpoint-20/a/b").unlink()
    with pytest.raises(UserError, match=r"checkpoints take about 2\.7 GB"):
        check()


def test_a_judge_that_is_away_or_gives_no_score_is_refused(judge, tmp_path):
    api = Api(model="fake", retries=0, timeout=5)
    with pytest.raises(UserError, match="does not answer"):
        preflight.ask_judge(api, "http://127.0.0.1:9/v1", patience=0.0)
    judge.broken = True
    with pytest.raises(UserError, match="answered without a score: 'I would rather not say'"):
        preflight.ask_judge(api, url(judge))


def test_a_judge_that_is_away_for_a_moment_is_waited_for_and_longer_where_a_training_resumes(
    judge, base, sif, tmp_path, monkeypatch
):
    monkeypatch.setattr(outages, "PAUSES", (0.0,))
    judge.troubles = [503] * 12  # more than the client gives an endpoint up after
    preflight.ask_judge(Api(model="fake", retries=0, timeout=5), url(judge))
    assert len(judge.asked) == 13

    given = []
    monkeypatch.setattr(preflight, "ask_judge", lambda api, url, patience: given.append(patience))
    settings = Grpo(**SMALL, batch=8, judge_patience=500.0)
    for folder in ("work", "work/checkpoint-7"):
        (tmp_path / folder).mkdir()
        preflight.check(base, [sif], tmp_path / "work", POLICY, settings, url(judge))
    assert given == [preflight.PATIENCE, 500.0]


def test_the_gpus_are_those_that_the_ranks_will_see(tmp_path: Path, monkeypatch):
    """A made-up nvidia-smi: two GPUs, of which the variable names one."""
    fake = tmp_path / "nvidia-smi"
    fake.write_text('#!/bin/sh\necho "1000, 2000"\ncase "$*" in *--id=1*) ;; *) echo "500, 2000";; esac\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert memory.free_gpus() == [(1000 * 2**20, 2000 * 2**20), (500 * 2**20, 2000 * 2**20)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert len(memory.free_gpus()) == 1


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """A made-up one with so many GPUs, which refuses an id that it does not know."""
    ids = ",".join(map(str, range(count)))
    fake = folder / "nvidia-smi"
    fake.write_text(
        f'#!/bin/sh\nids={ids}\nfor word in "$@"; do case "$word" in --id=*) ids=${{word#--id=}};; esac; done\n'
        f'for id in $(echo "$ids" | tr , " "); do case ",{ids}," in *,$id,*) echo "9000, 9000";; *) exit 6;; esac; done\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (None, ["0", "1"]),
        ("1,0", ["1", "0"]),
        ("", []),  # the usual ways to hide all of them
        ("-1", []),
        ("1,-1,0", ["1"]),  # what stands behind an invalid one is hidden
        ("NoDevFiles", []),  # a batch system's
    ],
)
def test_hidden_gpus_are_none(value: str | None, seen: list[str], tmp_path: Path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, 2)
    if value is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert memory.visible_gpus() == seen
    assert len(memory.free_gpus()) == len(seen)


def test_the_demo_is_for_processors_on_a_machine_with_one_gpu_too(base, tmp_path: Path, monkeypatch):
    """Its two ranks are for two cores. `make demo` hides the GPU."""
    nvidia_smi(tmp_path, monkeypatch, 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    demo, shape = config.load(ROOT / "flows/configs/demo.yaml"), memory.read_shape(base)
    with pytest.raises(UserError, match="ranks: 2 are configured for this machine and there are 1 GPUs"):
        memory.check(demo.sft, shape, 400, demo.model)
    (hidden,) = re.findall(
        r"^\t(\w+)=(\S*) \$\(BIN\)/sif run --config demo", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    monkeypatch.setenv(*hidden)
    for settings in (demo.sft, demo.grpo):
        assert memory.check(settings, shape, 400, demo.model)["process"] == memory.PROCESS["cpu"]


def test_grpo_counts_its_steps_the_same_way(base, sif, judge, config_file, tmp_path):
    """See `grpo.check_size`: whole steps only."""
    settings = Grpo(**SMALL, batch=8, accumulation=3, generations=8)
    grpo.check_size(settings, 8)
    assert preflight.steps(settings, 8) == 20 * 2
