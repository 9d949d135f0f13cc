"""Completions from a vLLM server, as far as that can be tested without a GPU: TRL's real client and our real program
against a fake server; what needs CUDA, the transfer of weights over NCCL, only notes the weights that would go."""

import json
import threading
from collections.abc import Iterator

import pytest
import torch
from pydantic import ValidationError
from trl.generation import vllm_client, vllm_generation

from sifthinker.config import Grpo
from sifthinker.core.errors import UserError
from sifthinker.models import loading
from sifthinker.training import grpo, samplers
from sifthinker.training.samplers import trl_samplers
from tests.training.canned_grpo import Rewarding
from tests.training.fake_vllm import COMPLETION, Vllm

SMALL = {"batch": 4, "accumulation": 2, "generations": 4, "max_completion": 16, "epochs": 1, "max_steps": 2}
SMALL |= {
    "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
    "judge": {"model": "fake"},
    "generation": "vllm_server",
    "max_logprob_gap": 100.0,  # the fake makes its log-probabilities up
}


@pytest.fixture
def vllm() -> Iterator[Vllm]:
    server = Vllm()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_server_samples_whole_groups_from_both_pictures_with_the_newest_weights(
    config_file, judge, vllm, base, tmp_path, monkeypatch
):
    sent: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(samplers.SAMPLERS["vllm_server"], "check", lambda settings, servers: None)
    for module in (vllm_client, vllm_generation):
        monkeypatch.setattr(module, "is_vllm_available", lambda **_: True)
    monkeypatch.setattr(vllm_client.VLLMClient, "init_communicator", lambda self, device: None)
    monkeypatch.setattr(vllm_client, "_HAS_STATEFUL_TRAINER_ENGINE", True)
    monkeypatch.setattr(vllm_client, "_HAS_RESET_PREFIX_CACHE_SUCCESS", True)
    monkeypatch.setattr(
        vllm_client,
        "packed_nccl_broadcast_producer",
        lambda iterator, **_: sent.append({name: tensor.clone() for name, tensor in iterator}),
        raising=False,
    )
    url = f"http://127.0.0.1:{judge.server_port}/v1"
    settings = {**SMALL, "vllm_server": vllm.url}
    monkeypatch.setattr(grpo, "Trainer", Rewarding)
    grpo.main(config_file("grpo", "run", settings, judge_base_url=url, ledger=str(tmp_path / "l.sqlite")))

    asked = vllm.bodies("/inference/v1/generate")
    assert len(asked) == 4, "two samples a step, one request for each whole group"
    suppressed = loading.picture_tokens(loading.load_processor(base))
    for body in asked:
        sampling = body["sampling_params"]
        assert (sampling["n"], sampling["max_tokens"], sampling["temperature"]) == (4, 16, 1.0)
        assert {int(token): bias for token, bias in sampling["logit_bias"].items()} == dict.fromkeys(
            suppressed, -100.0
        )
        runs = body["features"]["mm_placeholders"]["image"]
        assert len(runs) == 2, "RGB and depth, where they stand in our prompt"
        pad = body["token_ids"][runs[0]["offset"]]
        assert all(
            body["token_ids"][r["offset"] : r["offset"] + r["length"]] == [pad] * r["length"] for r in runs
        )
    for body in vllm.bodies("/v1/chat/completions/render"):
        assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "image_url"]
    history = (tmp_path / "run/out/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["completion_length"] for line in history] == [len(COMPLETION) + 1] * 2
    # The server has the merged weights of the newest step, under the base model's names, before it is asked.
    announced = vllm.bodies("/update_weights")[0]["update_info"]["names"]
    assert announced == list(sent[0])
    assert not [name for name in announced if "lora" in name or "base_layer" in name]
    assert len(sent) == 2
    assert any(not torch.equal(sent[0][name], sent[1][name]) for name in announced), (
        "the second step's differ"
    )
    paths = [path for path, _ in vllm.asked]
    assert paths.index("/update_weights") < paths.index("/inference/v1/generate")


def test_completions_of_another_model_stop_the_run(config_file, judge, vllm, tmp_path, monkeypatch):
    """The fake's log-probabilities are not the trainer's: what TRL alone would train on without a word."""
    for module in (vllm_client, vllm_generation):
        monkeypatch.setattr(module, "is_vllm_available", lambda **_: True)
    monkeypatch.setattr(samplers.SAMPLERS["vllm_server"], "check", lambda settings, servers: None)
    monkeypatch.setattr(vllm_client.VLLMClient, "init_communicator", lambda self, device: None)
    monkeypatch.setattr(vllm_generation.VLLMGeneration, "sync_weights", lambda self: None)
    url = f"http://127.0.0.1:{judge.server_port}/v1"
    settings = {**SMALL, "vllm_server": vllm.url, "max_logprob_gap": None}
    with pytest.raises(UserError, match=r"step 1: the log-probabilities .* differ by .* more than 0\.001"):
        grpo.main(config_file("grpo", "run", settings, judge_base_url=url, ledger=str(tmp_path / "l.sqlite")))


def test_without_vllm_here_the_run_is_refused_before_anything_loads(
    config_file, judge, tmp_path, monkeypatch
):
    monkeypatch.setattr(loading, "load_policy", lambda *_: pytest.fail("the model was loaded"))
    config = config_file("grpo", "run", SMALL, judge_base_url="http://x", ledger=str(tmp_path / "l.sqlite"))
    with pytest.raises(UserError, match=r"grpo\.generation: vllm_server: vLLM is not installed"):
        grpo.main(config)


def test_a_server_that_cannot_serve_a_training_is_refused_with_what_it_lacks(vllm):
    trl_samplers.ask_generation_server(vllm.url)
    good = vllm.info
    for info, message in (
        ({**good, "weight_transfer_config": None}, "takes no weights"),
        ({**good, "model_config": {"logprobs_mode": "raw_logprobs"}}, "gives raw_logprobs instead of"),
        (None, "has no development endpoints"),
    ):
        vllm.info = info
        with pytest.raises(UserError, match=message):
            trl_samplers.ask_generation_server(vllm.url)
    with pytest.raises(UserError, match="does not answer"):
        trl_samplers.ask_generation_server("http://127.0.0.1:9")


def test_colocated_vllm_is_refused_with_the_reason():
    with pytest.raises(
        ValidationError, match=r"vllm_colocate is refused: .*expands them again.*TRL issue 6294"
    ):
        Grpo(generation="vllm_colocate")


def test_weights_go_over_nccl_so_a_server_is_refused_without_cuda(vllm):
    settings = Grpo(generation="vllm_server", vllm_server=vllm.url)
    with pytest.raises(UserError, match=r"no CUDA GPU here.*set grpo\.generation: vllm_lora"):
        samplers.of(settings).preflight(settings, 0)
    samplers.of(settings).preflight(settings, 1)
