"""The samplers that TRL has itself: transformers' generation, and vLLM in two forms.

`vllm_server`: a server of the model that the training starts from samples, on GPUs of its own. It is given the merged
weights after every step, over NCCL, which needs CUDA. Its development endpoints take weights from whoever asks: keep it
on a private address. The data type is that of the folder (sifthinker/models/vllm_command.py).

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --host 127.0.0.1 --port 8000 --weight-transfer-config '{"backend": "nccl"}' \
        --logprobs-mode processed_logprobs --enable-scale-out --generation-config vllm --limit-mm-per-prompt '{"image": 2}' \
        --dtype DTYPE

TRL wants vLLM in the training's own environment then, and takes a window of its versions only (constraints-vllm.txt).

`vllm_colocate` holds vLLM in each rank. It is refused: TRL 1.16 gives it prompts whose picture tokens are expanded, and
vLLM expands them again (TRL issue 6294). The trainer's prompt had 194 tokens where vLLM answered one of 288, and nothing
raised.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import httpx

from sifthinker.config import Grpo
from sifthinker.core.errors import UserError
from sifthinker.training.samplers.sampler import Sampler


class Transformers(Sampler):
    """The trainer's own model samples, with transformers' `generate`."""


class _TrlVllm(Sampler):
    """What both of TRL's forms of vLLM have in common."""

    libraries = ("vllm",)
    modules = ("training/samplers/trl",)
    scored = True
    mode = ""

    def arguments(self, settings: Grpo) -> dict[str, Any]:
        """As every sampler."""
        return {"use_vllm": True, "vllm_mode": self.mode, "vllm_server_base_url": None}

    def suppression(self, tokens: Sequence[int]) -> dict[str, Any]:
        """As vLLM's SamplingParams name it."""
        return {"logit_bias": dict.fromkeys(tokens, -100.0)}


class VllmServer(_TrlVllm):
    """A server that the user starts samples, and is sent the weights."""

    mode = "server"

    def arguments(self, settings: Grpo) -> dict[str, Any]:
        """As every sampler."""
        return {**super().arguments(settings), "vllm_server_base_url": settings.vllm_server}

    def preflight(self, settings: Grpo, gpus: int) -> None:
        """Whether there is CUDA, and the server can sample for a training."""
        if not gpus:
            raise UserError(
                "grpo.generation: vllm_server: there is no CUDA GPU here, and TRL sends the weights over NCCL, which "
                "needs one; set grpo.generation: vllm_lora, which gives a server its adapters over HTTP"
            )
        ask_generation_server(settings.vllm_server)

    def check(self, settings: Grpo, servers: Sequence[str]) -> None:
        """Whether vLLM is in this environment, where TRL's client looks for it, and there is CUDA."""
        if importlib.util.find_spec("vllm") is None:
            raise UserError(
                "grpo.generation: vllm_server: vLLM is not installed in this environment, where TRL's client looks for "
                "it; name an interpreter that has both in grpo.python (constraints-vllm.txt), or set "
                "grpo.generation: vllm_lora"
            )
        import torch

        if not torch.cuda.is_available():
            raise UserError("grpo.generation: vllm_server: there is no CUDA GPU, which NCCL needs")


class VllmColocate(_TrlVllm):
    """vLLM in each rank's process."""

    mode = "colocate"
    refused = (
        "TRL gives vLLM prompts whose picture tokens are expanded, vLLM expands them again, and the policy is trained on "
        "other prompts than it is shown, without an error (TRL issue 6294). All models here see pictures. Set it to "
        "vllm_lora or transformers"
    )


def ask_generation_server(url: str) -> None:
    """Whether a vLLM server can sample for a training: TRL itself would find out on the ranks.

    Raises:
        UserError: it does not answer, or was started without what a training needs of it.
    """
    start = f"grpo.vllm_server: {url}"
    how = "start it as the head of sifthinker/training/samplers/trl_samplers.py says"
    try:
        reply = httpx.get(f"{url}/server_info", params={"config_format": "json"}, timeout=10.0)
    except httpx.HTTPError as error:
        raise UserError(f"{start} does not answer ({error}); {how}") from error
    if reply.status_code == httpx.codes.NOT_FOUND:
        raise UserError(f"{start} has no development endpoints (VLLM_SERVER_DEV_MODE=1); {how}")
    if reply.is_error:
        raise UserError(f"{start} answers /server_info with status {reply.status_code}; {how}")
    found = reply.json()["vllm_config"]
    if found["weight_transfer_config"] is None:
        raise UserError(f"{start} takes no weights (--weight-transfer-config); {how}")
    if (mode := found["model_config"]["logprobs_mode"]) != "processed_logprobs":
        raise UserError(f"{start} gives {mode} instead of processed_logprobs (--logprobs-mode); {how}")
