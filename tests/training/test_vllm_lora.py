"""`generation: vllm_lora` against a fake that really samples; test_vllm_cpu.py does the same with the real vLLM."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from pydantic import ValidationError

from sifthinker.config import Config, Grpo
from sifthinker.core import prompts
from sifthinker.core.errors import UserError
from sifthinker.models import loading, miniature, serving
from sifthinker.training import grpo, progress_page, rehearsal, samplers
from sifthinker.training.samplers import adapter_server, agreement, vllm_lora
from tests.training.canned_grpo import Rewarding
from tests.training.fake_vllm_lora import VllmLora

# A trained model: a random one would sample the suppressed tokens as often as others, and differ by that much.
SMALL = {
    "batch": 8,
    "accumulation": 1,
    "generations": 4,
    "max_completion": 24,
    "temperature": 0.7,
    "epochs": 1,
    "max_steps": 2,
    "learning_rate": 0.0005,
    "lora": {"r": 8, "alpha": 16, "dropout": 0.1},
    "judge": {"model": "fake"},
    "generation": "vllm_lora",
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    loading.load_policy(miniature.folder("policy"), "fp32").save_pretrained(folder)
    loading.load_processor(miniature.folder("policy"), 50176).save_pretrained(folder)
    return folder


@pytest.fixture
def vllm(trained: Path) -> Iterator[VllmLora]:
    server = VllmLora(trained)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def program(
    config_file: Callable[..., Path],
    judge: Any,
    trained: Path,
    vllm: VllmLora,
    tmp_path: Path,
    monkeypatch: Any,
) -> Callable[..., Path]:
    """Writes the program's configuration: its name, and what differs."""
    monkeypatch.setattr(grpo, "Trainer", Rewarding)

    def write(name: str, **settings: Any) -> Path:
        top = {
            "model": str(trained),
            "model_settings": {"weights": "miniature", "max_pixels": 50176},
            "judge_base_url": f"http://127.0.0.1:{judge.server_port}/v1",
            "ledger": str(tmp_path / f"{name}.sqlite"),
            "servers": [vllm.url],
        }
        return config_file("grpo", name, {**SMALL, **settings}, **top)

    return write


def history(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "out/history.jsonl").read_text().splitlines()]


@pytest.mark.e2e
def test_each_step_is_sampled_with_its_own_adapter(
    program: Callable[..., Path], vllm: VllmLora, tmp_path: Path
) -> None:
    vllm.adapters["of-a-killed-try"] = vllm.base
    grpo.main(program("run"))
    gaps = [entry[samplers.GAP] for entry in history(tmp_path / "run")]
    # On pictures that the model never saw, suppressed tokens have up to 1e-3 of a probability: that is in the second one.
    assert len(gaps) == 2 and gaps[0] < 1e-5 and gaps[1] < 5e-4, gaps
    loaded = [body["lora_name"] for body in vllm.bodies("/v1/load_lora_adapter")]
    unloaded = [body["lora_name"] for body in vllm.bodies("/v1/unload_lora_adapter")]
    assert len(set(loaded)) == 2
    assert unloaded == ["of-a-killed-try", loaded[0]], "older ones are forgotten"
    asked = vllm.bodies("/v1/chat/completions")
    assert [body["model"] for body in asked] == [loaded[0]] * 2 + [loaded[1]] * 2
    assert {body["n"] for body in asked} == {4}, "a group is one request"
    assert len({body["seed"] for body in asked}) == 4
    assert set(asked[0]["logit_bias"]) == {str(t) for t in loading.picture_tokens(vllm.processor)}
    [left] = (tmp_path / "run/work/sampler").iterdir()
    assert left.name == loaded[1] and adapter_server.digest(left) == loaded[1]
    assert samplers.GAP in progress_page.curves()


@pytest.mark.e2e
def test_a_server_without_the_adapter_stops_the_run(program: Callable[..., Path], vllm: VllmLora) -> None:
    """In the first step the adapter changes nothing yet; in the second the difference is far above the limit."""
    vllm.deaf = True
    with pytest.raises(
        UserError, match=r"^step 2: the log-probabilities .* \(rank 0\), more than 0\.001 \(grpo\.max"
    ):
        grpo.main(program("deaf"))


@pytest.mark.e2e
def test_a_prompt_that_the_server_reads_otherwise_stops_the_run(
    program: Callable[..., Path], vllm: VllmLora
) -> None:
    vllm.more = 7
    with pytest.raises(
        UserError, match=r"vLLM reads a prompt as \d+ tokens and the trainer as \d+; they differ"
    ):
        grpo.main(program("other"))


@pytest.mark.e2e
def test_a_rehearsal_draws_a_server_s_completions_out_and_is_not_stopped_for_that(
    program: Callable[..., Path], vllm: VllmLora, tmp_path: Path
) -> None:
    values = yaml.safe_load(program("usual").read_text())
    fields = {name: values[name] for name in ("model", "dataset", "ledger", "judge_base_url", "servers")}
    told = {"rehearses": "grpo", "sample": "toy/patches/0", "settings": values["settings"], "fields": fields}
    folders = {"work": str(tmp_path / "work"), "out": str(tmp_path / "out")}
    file = tmp_path / "rehearsal.yaml"
    file.write_text(yaml.safe_dump({**told, **folders}))
    rehearsal.main(file)
    (line,) = history(tmp_path)
    assert line["completion_length"] == SMALL["max_completion"]
    assert line[samplers.GAP] > 1e-3, "or there would have been nothing to be stopped for"


@pytest.fixture
def asking(tmp_path: Path, vllm: VllmLora) -> adapter_server.AdapterServer:
    """The ranks' side with a trainer that has nothing but its settings."""
    trainer = SimpleNamespace(
        args=SimpleNamespace(seed=3),
        state=SimpleNamespace(global_step=0),
        temperature=1.0,
        max_completion_length=4,
    )
    made = adapter_server.AdapterServer(trainer, [vllm.url], tmp_path / "sampler", [5])
    made.step = 0  # the base, without an adapter
    return made


def conversation(colour: str) -> list[dict[str, Any]]:
    picture = Image.new("RGB", (56, 56), colour)
    [message] = prompts.policy_messages("What?", False)
    parts = [{**part, "image": picture} if part["type"] == "image" else part for part in message["content"]]
    return [{**message, "content": parts}]


def test_equal_prompts_that_follow_each_other_are_one_request_and_others_are_told_apart(
    asking: adapter_server.AdapterServer, vllm: VllmLora
) -> None:
    red, blue = conversation("red"), conversation("blue")
    shown = [red, conversation("red"), blue, red]
    pictures = [[part["image"] for part in one[0]["content"] if part["type"] == "image"] for one in shown]
    ids = [
        loading.encode(vllm.processor, one, pictures[n])["input_ids"][0].tolist()
        for n, one in enumerate(shown)
    ]
    assert ids[0] == ids[2], "only their pictures differ"
    completions, scores = asking.sample(shown, ids)
    assert [body["n"] for body in sorted(vllm.bodies("/v1/chat/completions"), key=str)].count(2) == 1
    assert len(vllm.bodies("/v1/chat/completions")) == 3
    assert len(completions) == 4 and [len(c) for c in completions] == [len(s) for s in scores]
    again, _ = asking.sample(shown, ids)
    assert again == completions, "a resumed step samples the same"


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ([1, 2, 3], ""),
        ([1, 2], "as 2 tokens and the trainer as 3; they differ from token 2 on"),
        ([1, 9, 3], "they differ from token 1 on"),
        ([1, 2, 3, 3], "as 4 tokens and the trainer as 3; they differ from token 3 on"),
        (None, "does not say how it reads a prompt"),
    ],
)
def test_a_prompt_must_be_the_trainer_s_token_for_token(theirs: list[int] | None, message: str) -> None:
    if not message:
        adapter_server.check_prompt(theirs, [1, 2, 3])
        return
    with pytest.raises(UserError, match=message):
        adapter_server.check_prompt(theirs, [1, 2, 3])


def test_a_server_that_is_gone_is_no_mistake_of_the_user_s(
    asking: adapter_server.AdapterServer, vllm: VllmLora
) -> None:
    asking.adapter = "forgotten"
    red = conversation("red")
    with pytest.raises(adapter_server.SamplerFailed, match=r"status 404: .*`forgotten` does not exist"):
        asking.sample([red], [[1]])
    asking.url = "http://127.0.0.1:9/v1"
    with pytest.raises(adapter_server.SamplerFailed, match=r"does not answer .*sampler-\*\.log"):
        asking.sample([red], [[1]])


def output(
    ours: list[list[float]], theirs: list[list[float]], mask: list[list[int]]
) -> dict[str, torch.Tensor]:
    return {
        "old_per_token_logps": torch.tensor(ours),
        "sampling_per_token_logps": torch.tensor(theirs),
        "completion_mask": torch.tensor(mask),
    }


NAN = float("nan")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (output([[-1.0, -2.0]], [[-1.0, -2.0]], [[1, 1]]), (0.0, 2, 2)),
        (output([[-1.0, -2.0]], [[-1.5, -2.25]], [[1, 1]]), (0.75, 2, 2)),
        (output([[-1.0, -2.0]], [[-1.5, 0.0]], [[1, 0]]), (0.5, 1, 1)),  # padding does not count
        (output([[-1.0, -2.0]], [[-1.5, NAN]], [[1, 1]]), (0.5, 1, 2)),  # nor what vLLM cannot say
        (output([[-1.0]], [[NAN]], [[1]]), (0.0, 0, 1)),
        (output([[-1.0]], [[-1.5]], [[0]]), (0.0, 0, 0)),  # grpo.mask_truncated
    ],
)
def test_the_difference_is_over_sampled_tokens_that_can_be_compared(
    given: dict[str, torch.Tensor], expected: tuple[float, int, int]
) -> None:
    assert agreement.difference(given).tolist() == pytest.approx(expected)


def held_against(settings: Grpo, *differences: float) -> agreement.Agreement:
    """Steps in which the second of two ranks differs by so much over two tokens, and the first by nothing."""
    watched = agreement.Agreement(settings)
    for step, difference in enumerate(differences):
        trainer = SimpleNamespace(
            accelerator=SimpleNamespace(
                gather=lambda mine: torch.cat([torch.tensor([[0.0, 2.0, 2.0]]), mine])
            ),
            state=SimpleNamespace(global_step=step),
        )
        tokens = output([[-1.0, -1.0]], [[-1.0 - difference, -1.0 - difference]], [[1, 1]])
        watched.check(tokens, trainer)
    return watched


BF16, FP32 = Grpo(generation="vllm_lora"), Grpo(generation="vllm_lora", precision="fp32")


@pytest.mark.parametrize(
    ("settings", "differences", "said"),
    [
        (BF16, [0.0] * 4 + [0.3], r"^step 5: .* differ by 0\.3 between .* \(rank 1\), more than 0\.25"),
        (BF16, [0.06] * 10, r"^step 10: .* differ by 0\.06 over 10 steps .* \(rank 1\), more than 0\.05"),
        (BF16, [NAN], r"^step 1: .* differ by inf"),  # no token of the rank can be compared
        (FP32, [0.0, 0.002], r"^step 2: .* differ by 0\.002 between .* more than 0\.001"),
    ],
)
def test_one_rank_whose_server_is_another_model_stops_all(
    settings: Grpo, differences: list[float], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        held_against(settings, *differences)


def test_single_steps_of_bf16_that_differ_by_rounding_are_told_and_end_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    held_against(BF16, *[0.06, 0.03] * 20)
    assert "step 1: the log-probabilities of rank 1 differ by 0.06" in caplog.text
    held_against(Grpo(generation="vllm_lora", max_logprob_gap=0.3), *[0.2] * 20)
    assert agreement.limit(FP32) == 1e-3


def test_a_rank_whose_completions_are_all_left_out_is_no_evidence() -> None:
    """`grpo.mask_truncated`: the completions of a prompt may all be cut off, and a rank may have no other."""
    watched, masked = agreement.Agreement(FP32), output([[-1.0]], [[-1.0]], [[0]])
    for step in range(2 * agreement.STEPS):
        trainer = SimpleNamespace(
            accelerator=SimpleNamespace(gather=lambda mine: mine), state=SimpleNamespace(global_step=step)
        )
        watched.check(masked, trainer)
    with pytest.raises(UserError, match="differ by inf"):
        watched.check(output([[-1.0]], [[NAN]], [[1]]), trainer)


def test_auto_is_vllm_where_it_is_found_and_the_key_holds_what_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate({"scenes": {}})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert samplers.resolved(config).grpo.generation == "transformers"
    assert samplers.why(config.grpo) == "transformers (auto: no vLLM was found)"
    (tmp_path / "vllm").write_text("#!/bin/sh\n")
    (tmp_path / "vllm").chmod(0o755)
    assert samplers.resolved(config).grpo.generation == "vllm_lora"
    assert samplers.why(config.grpo) == "vllm_lora (auto: vLLM was found)"
    assert samplers.why(Grpo(ranks=8, nodes=2)).startswith("transformers (auto: nodes is 2")
    named = Config.model_validate({"scenes": {}, "grpo": {"generation": "transformers"}})
    assert samplers.resolved(named) is named
    elsewhere = {"vllm": {"python": str(tmp_path / "nowhere/python")}}
    assert samplers.named(Grpo.model_validate(elsewhere)) == "transformers"


@pytest.mark.parametrize(
    ("count", "gpus", "expected"),
    [
        (0, ["0", "1", "2"], ["0", "1"]),  # one beside each rank
        (1, ["4", "5", "GPU-7"], ["GPU-7"]),  # on its own, after the ranks
        (0, [], [None, None]),
        (1, [], [None]),
    ],
)
def test_servers_stand_beside_the_ranks_or_on_gpus_of_their_own(
    count: int, gpus: list[str], expected: list[str | None]
) -> None:
    settings = Grpo(ranks=2, vllm={"count": count})
    assert vllm_lora.places(settings, gpus) == expected


def test_a_server_keeps_room_for_the_longest_sample_and_not_for_the_whole_context(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through our program that starts vLLM, to a made-up `vllm` that says how it was started and ends."""
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "vllm").write_text('#!/bin/sh\necho "told: $*"\n')
    (bin / "vllm").chmod(0o755)
    settings = Grpo(ranks=1, generation="vllm_lora", vllm={"python": str(bin / "python")})
    monkeypatch.setenv("PYTHONPATH", str(Path(vllm_lora.__file__).parents[3]))
    with (
        pytest.raises(serving.ServerFailed, match=r"told: serve .*--max-model-len 2345 "),
        samplers.of(settings).serving(base, settings, tmp_path, [], 2345),
    ):
        pass


def test_what_vllm_lora_lacks_is_said_before_anything_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = samplers.SAMPLERS["vllm_lora"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="vLLM is not installed here"):
        sampler.preflight(Grpo(), 0)
    monkeypatch.setattr(serving, "vllm", lambda python: "vllm")
    sampler.preflight(Grpo(ranks=8), 8)
    with pytest.raises(UserError, match=r"ranks 8 and vllm\.count 1 take 9 GPUs, and there are 8"):
        sampler.preflight(Grpo(vllm={"count": 1}), 8)
    several, wide = {"ranks": 8, "nodes": 2}, {"lora": {"r": 600}}
    for fields, message in ((several, "samples on one machine, and nodes is 2"), (wide, "rank 512 at most")):
        with pytest.raises(UserError, match=f"grpo: .*{message}"):
            sampler.preflight(Grpo(**fields), 8)
        with pytest.raises(ValidationError, match=message):
            Grpo(generation="vllm_lora", **fields)
        assert samplers.named(Grpo(**fields), lambda name: name) == "transformers"
        assert samplers.why(Grpo(**fields)).startswith("transformers (auto: ")
    with pytest.raises(UserError, match=r"needs their base URLs"):
        sampler.check(Grpo(), [])
    assert (sampler.share(Grpo()), sampler.share(Grpo(vllm={"count": 2}))) == (0.3, 0.0)


def test_a_sampler_that_is_not_in_the_table_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        ValidationError, match=r"no sampler named 'vllm_lor'; did you mean 'vllm_lora'\? Known: auto, "
    ):
        Grpo(generation="vllm_lor")


def test_a_name_is_the_digest_of_the_weights(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    assert adapter_server.digest(tmp_path) == hashlib.sha256(b"weights").hexdigest()[:20]
