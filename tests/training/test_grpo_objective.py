"""What GRPO learns is the paper's: the gradient of the made loss, and every argument of TRL's that decides it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl import GRPOConfig

from sifthinker.config import Grpo
from sifthinker.training import grpo, harness

SMALL = {
    "ranks": 1,
    "batch": 2,
    "accumulation": 1,
    "generations": 2,
    "precision": "fp32",
    "deepspeed": "none",
}

# TRL's own arguments that decide nothing of what is learnt, or that act only where an argument of `grpo_arguments` lets them.
OTHERS = {
    # what a step takes, and where it is computed
    *(
        "learning_rate",
        "model_init_kwargs",
        "trust_remote_code",
        "remove_unused_columns",
        "pad_to_multiple_of",
    ),
    *("num_generations_eval", "generation_batch_size", "ds3_gather_for_generation"),
    *("shuffle_dataset",),  # of the sampler that `EpochSampler` replaces
    # set by the sampler, or of vLLM inside TRL
    *("generation_kwargs", "chat_template_kwargs", "vllm_model_impl", "vllm_enable_sleep_mode"),
    *("vllm_structured_outputs_regex", "vllm_server_host", "vllm_server_port", "vllm_server_timeout"),
    *("vllm_group_port", "vllm_gpu_memory_utilization", "vllm_max_model_length", "vllm_tensor_parallel_size"),
    *("use_transformers_continuous_batching", "transformers_continuous_batching_config"),
    *("use_transformers_paged", "vllm_importance_sampling_cap"),  # deprecated names of others
    # of losses that `config.Grpo` does not have, and of what is switched off
    *("sapo_temperature_neg", "sapo_temperature_pos", "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg"),
    *("vespo_lambda_neg", "ref_model_mixup_alpha", "ref_model_sync_steps", "max_tool_calling_iterations"),
    *("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"),
    # what is shown
    *("log_completions", "log_multimodal", "num_completions_to_print", "log_unique_prompts"),
    *("log_completions_hub_repo",),
}

# transformers' arguments that decide an update, which GRPO leaves as they are.
UPDATES = {
    "optim": "adamw_torch_fused",
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "label_smoothing_factor": 0.0,
    "neftune_noise_alpha": None,
}


def made(tmp_path: Path, **settings: Any) -> GRPOConfig:
    """TRL's arguments of a training."""
    of = Grpo(**{**SMALL, **settings})
    return GRPOConfig(**harness.arguments(of, tmp_path), **grpo.grpo_arguments(of))


def gradient(
    arguments: GRPOConfig, policy: torch.Tensor, inputs: dict[str, Any], **more: Any
) -> torch.Tensor:
    """Of TRL's loss, by the log-probabilities of the sampled tokens."""
    log_probabilities = policy.clone().requires_grad_()
    alone = SimpleNamespace(gather=lambda x: x, reduce=lambda x, **_: x, sync_gradients=False)
    trainer: Any = object.__new__(grpo.Trainer)
    trainer.__dict__ |= {
        "args": arguments,
        "model": SimpleNamespace(training=True),
        "accelerator": alone,
        "current_gradient_accumulation_steps": 1,
        "_metrics": {"train": defaultdict(list)},
        "_entropy_bonus_enabled": arguments.entropy_coef != 0.0 or arguments.use_adaptive_entropy,
        "aux_loss_enabled": False,
        "epsilon_low": arguments.epsilon,
        "epsilon_high": arguments.epsilon,
        "use_vllm": False,
        "_get_per_token_logps_and_entropies": lambda *_, **__: (
            log_probabilities,
            torch.zeros_like(policy),
            None,
        ),
        **{
            name: getattr(arguments, name)
            for name in (
                *("beta", "loss_type", "importance_sampling_level", "top_entropy_quantile"),
                *("off_policy_mask_threshold", "vllm_importance_sampling_correction", "entropy_coef"),
                *("use_adaptive_entropy",),
            )
        },
        **more,
    }
    trainer._compute_loss(None, inputs).backward()
    assert log_probabilities.grad is not None
    return log_probabilities.grad


@pytest.fixture
def step() -> dict[str, Any]:
    """Two completions of one prompt, of four and of two tokens, one better than the other."""
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    return {
        "prompt_ids": torch.ones(2, 1, dtype=torch.long),
        "prompt_mask": torch.ones(2, 1, dtype=torch.long),
        "completion_ids": mask,
        "completion_mask": mask,
        "advantages": torch.tensor([0.7, -0.7]),
        "ref_per_token_logps": torch.tensor([[-1.0, -2.0, -0.5, -3.0], [-0.1, -1.5, 0.0, 0.0]]),
    }


POLICY = torch.tensor([[-0.5, -2.5, -0.5, -1.0], [-1.1, -1.0, 0.0, 0.0]])


def wanted(step: dict[str, Any], weight: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Of PAPER.md P6.3 by hand, where the ratio of new and old policy is 1: TRL minimises -J."""
    kl = 1 - torch.exp(step["ref_per_token_logps"] - POLICY)  # of exp(d) - d - 1, d = log pi_ref - log pi
    tokens = -step["advantages"][:, None] * weight + 0.04 * kl
    mask = step["completion_mask"]
    return tokens * mask / mask.sum(1, keepdim=True) / len(mask)


def test_the_gradient_is_that_of_the_papers_formula(tmp_path, step):
    found = gradient(made(tmp_path), POLICY, step)
    assert torch.allclose(found, wanted(step), atol=1e-7)


def test_with_vllm_each_token_is_weighed_by_three_at_most(tmp_path, step):
    """One token of six is far off: the others of its completion keep their weights."""
    arguments = made(tmp_path)
    assert arguments.vllm_importance_sampling_correction
    assert arguments.vllm_importance_sampling_mode == "token_truncate"
    assert (arguments.vllm_importance_sampling_clip_min, arguments.vllm_importance_sampling_clip_max) == (
        None,
        3.0,
    )
    ratio = torch.tensor([[1.0, 3.0, 0.9, 1.0], [1.1, 1.0, 1.0, 1.0]])
    found = gradient(arguments, POLICY, {**step, "importance_sampling_ratio": ratio}, use_vllm=True)
    assert torch.allclose(found, wanted(step, ratio), atol=1e-7)


def test_every_argument_of_trls_that_decides_what_is_learnt_is_given():
    """After an upgrade of TRL: look what a new argument does, and put it into `grpo.OBJECTIVE` or `OTHERS`."""
    own = set(GRPOConfig.__annotations__)
    given = set(grpo.grpo_arguments(Grpo()))
    assert given - own == {"use_liger_kernel"}, "of transformers"
    assert own - given == OTHERS, "given, or known to decide nothing"


def test_what_is_left_to_transformers_is_as_it_was(tmp_path):
    arguments = made(tmp_path)
    assert {name: getattr(arguments, name) for name in UPDATES} == UPDATES


def test_the_completions_of_a_step_are_sampled_at_once(tmp_path):
    arguments = made(tmp_path, accumulation=3, batch=4)
    assert (arguments.steps_per_generation, arguments.generation_batch_size) == (3, 12)
