"""`grpo.generation: vllm_lora`: vLLM servers sample, and are given each step's adapter at run time over HTTP.

The stage starts the servers from vLLM's own environment: one beside each rank on its GPU, or `grpo.vllm.count` of them on
the GPUs after the ranks'. Rank r of a machine asks server r (modulo their number). Trainer and server share neither an
environment nor NCCL, so any version of vLLM goes that has these endpoints. `adapter_server` is the ranks' side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sifthinker.config import Grpo
from sifthinker.core.errors import UserError
from sifthinker.models import serving, vllm_command
from sifthinker.training.samplers.sampler import Sampler

BESIDE = 0.3  # share of a GPU's memory beside a rank: what TRL gives vLLM in colocate mode
ALONE = 0.9  # on a GPU of its own: vLLM's default


class VllmLora(Sampler):
    """vLLM servers that the stage starts sample, each with the adapter of the step."""

    libraries = ("vllm",)
    modules = ("training/samplers/lora", "serve/vllm")
    scored = True

    def unfit(self, settings: Grpo) -> str:
        """Several machines, and a rank that vLLM has no kernels for."""
        if settings.nodes > 1:
            return (
                f"generation: vllm_lora samples on one machine, and nodes is {settings.nodes}; set generation to transformers, "
                "or nodes to 1"
            )
        if settings.lora.r > vllm_command.RANKS[-1]:
            return (
                f"lora.r: {settings.lora.r}: vLLM takes adapters of rank {vllm_command.RANKS[-1]} at most; lower it, or set "
                "generation to transformers"
            )
        return ""

    def preflight(self, settings: Grpo, gpus: int) -> None:
        """Whether vLLM is there, and there are GPUs for its servers."""
        self._check(settings)
        serving.vllm(settings.vllm.python)
        needed = settings.ranks + settings.vllm.count
        if gpus and settings.vllm.count and needed > gpus:
            raise UserError(
                f"grpo: ranks {settings.ranks} and vllm.count {settings.vllm.count} take {needed} GPUs, and there are "
                f"{gpus}; lower one of them, or set vllm.count: 0 for servers beside the ranks"
            )

    def check(self, settings: Grpo, servers: Sequence[str]) -> None:
        """Whether there are servers to ask."""
        self._check(settings)
        if not servers:
            raise UserError(
                "servers: grpo.generation: vllm_lora is sampled by vLLM servers that the stage starts; a program that is "
                "started by hand needs their base URLs here (python -m sifthinker.models.serving FOLDER --server vllm "
                f"--lora-rank {settings.lora.r})"
            )

    def _check(self, settings: Grpo) -> None:
        if why := self.unfit(settings):
            raise UserError(f"grpo: {why}")

    def share(self, settings: Grpo) -> float:
        """That of a server beside a rank."""
        return 0.0 if settings.vllm.count else _memory(settings)

    @contextmanager
    def serving(
        self, folder: Path, settings: Grpo, work: Path, gpus: Sequence[str], context: int | None = None
    ) -> Iterator[tuple[str, ...]]:
        """The servers, started together."""
        wanted = [
            serving.Wanted(
                folder,
                "vllm",
                work / f"sampler-{number}.log",
                python=settings.vllm.python,
                lora_rank=settings.lora.r,
                memory=_memory(settings),
                gpus=gpu,
                context=context,
            )
            for number, gpu in enumerate(places(settings, gpus))
        ]
        with serving.several(wanted, settings.vllm.timeout) as urls:
            yield urls

    def attach(self, trainer: Any, servers: Sequence[str], work: Path, tokens: Sequence[int]) -> None:
        """Makes the trainer ask the servers."""
        from sifthinker.training.samplers.adapter_server import AdapterServer  # imports torch

        trainer.source = AdapterServer(trainer, servers, work / "sampler", tokens)
        # TRL's importance correction wants the log-probabilities that come with the completions. All else that this
        # switches in TRL lies in what `Trainer` replaces, or concerns tools.
        trainer.use_vllm = True


def places(settings: Grpo, gpus: Sequence[str]) -> list[str | None]:
    """The GPU of each server; None on a machine without."""
    count = settings.vllm.count
    if not gpus:
        return [None] * (count or settings.ranks)
    chosen = gpus[settings.ranks : settings.ranks + count] if count else gpus[: settings.ranks]
    return list(chosen)


def _memory(settings: Grpo) -> float:
    return settings.vllm.memory or (ALONE if settings.vllm.count else BESIDE)
