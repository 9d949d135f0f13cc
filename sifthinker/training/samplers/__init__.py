"""What samples the completions of GRPO: one entry of `SAMPLERS` each. A new back end is one file and one entry here.

`grpo.generation` names an entry, or is `auto`, which `resolved` replaces where the plan is made. The table imports no
torch, because a configuration is checked against it on any machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from sifthinker.config import Config, Grpo
from sifthinker.training.samplers.sampler import Sampler
from sifthinker.training.samplers.trl_samplers import Transformers, VllmColocate, VllmServer
from sifthinker.training.samplers.vllm_lora import VllmLora

__all__ = ["AUTO", "GAP", "SAMPLERS", "Sampler", "of", "resolved", "why"]

AUTO = "auto"
GAP = "sampling/sampling_logp_difference/mean"  # TRL's metric of how far trainer and sampler are apart

SAMPLERS: dict[str, Sampler] = {
    "transformers": Transformers(),
    "vllm_lora": VllmLora(),
    "vllm_server": VllmServer(),
    "vllm_colocate": VllmColocate(),
}


def of(settings: Grpo) -> Sampler:
    """The entry that a configuration names, or that `auto` stands for here."""
    return SAMPLERS[named(settings)]


def named(settings: Grpo, which: Callable[[str], str | None] = shutil.which) -> str:
    """The name of the entry: that of the configuration; for `auto` vLLM with adapters where vLLM is found."""
    if settings.generation != AUTO:
        return settings.generation
    if SAMPLERS["vllm_lora"].unfit(settings):
        return "transformers"
    python = settings.vllm.python
    found = Path(python).with_name("vllm").is_file() if python else which("vllm")
    return "vllm_lora" if found else "transformers"


def resolved(config: Config) -> Config:
    """The configuration with the entry that `grpo.generation: auto` stands for on this machine.

    It is called once, where it is decided which stages run. So the key holds the back end that was used, and a stage
    that runs in a pool takes the same one.
    """
    if config.grpo.generation != AUTO:
        return config
    grpo = config.grpo.model_copy(update={"generation": named(config.grpo)})
    return config.model_copy(update={"grpo": grpo})


def why(settings: Grpo) -> str:
    """What samples, in words, and why where nobody named it."""
    name = named(settings)
    if settings.generation != AUTO:
        return name
    if settings.nodes > 1:
        return f"{name} (auto: nodes is {settings.nodes}, and vLLM samples on one machine)"
    if SAMPLERS["vllm_lora"].unfit(settings):
        return f"{name} (auto: vLLM takes no adapter of rank {settings.lora.r})"
    return f"{name} (auto: {'vLLM was found' if name != 'transformers' else 'no vLLM was found'})"
