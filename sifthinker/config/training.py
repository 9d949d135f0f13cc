"""The sections of the model and its training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic_core import CoreSchema

from sifthinker.config import choices
from sifthinker.config.api import LOCAL, STANDIN, Api
from sifthinker.config.choices import Named
from sifthinker.config.section import Section, added, address, operational


class Model(Section):
    """The policy: base weights and what every stage that feeds it must agree on."""

    weights: str = Field(
        "Qwen/Qwen2.5-VL-7B-Instruct",
        description="'tiny', 'miniature' or 'miniature-looks' (small, trained on rendered scenes), a local folder, or a hub id (paper)",
    )
    revision: str | None = Field(None, description="hub revision, pinned for a reproduction")
    family: Annotated[str, Named("family")] = Field("qwen2_5_vl", description="architecture of the weights")
    max_pixels: int = Field(
        262_144,
        ge=784,
        description="image pixel budget in SFT, GRPO, evaluation and serving (release: SFT's)",
    )
    depth_input: bool = Field(True, description="show the depth picture too; false is the paper's ablation")
    seed: int = Field(0, description="of a tiny model's random weights")


class Lora(Section):
    """The trained adapter."""

    r: int = Field(ge=1, description="rank")
    alpha: int = Field(ge=1, description="scale: the adapter counts alpha / r")
    dropout: float = Field(ge=0, lt=1, description="share of the adapter's inputs left out")


class Train(Section):
    """What SFT and GRPO have in common."""

    learning_rate: float = Field(gt=0, description="at its peak")
    epochs: float = Field(gt=0, description="passes over the data")
    max_steps: int = Field(-1, description="stop after so many optimiser steps; -1 = by epochs")
    batch: int = Field(ge=1, description="samples (SFT) or completions (GRPO) a rank and forward pass")
    accumulation: int = Field(ge=1, description="forward passes an optimiser step")
    ranks: int = Field(8, ge=1, description="processes = GPUs (paper: 8)")
    nodes: int = operational(
        1,
        ge=1,
        description="machines that the ranks are divided over: infra/README.md, More than one machine",
    )
    deepspeed: Literal["none", "zero2", "zero3", "zero2_offload", "zero3_offload"] = Field(
        "zero3", description="what the ranks share out; offload: to the machine's memory"
    )
    precision: Literal["bf16", "fp32"] = Field("bf16", description="of the weights and the computation")
    gradient_checkpointing: bool = Field(True, description="computes activations twice to save memory")
    seed: int = Field(0, description="not given in the paper")
    save_steps: int = operational(50, ge=1, description="optimiser steps between checkpoints")
    python: Path | None = operational(
        None, description="interpreter of the environment that trains, where it is not the flow's"
    )
    rehearse: Literal["gpu", "always", "never"] = operational(
        "gpu",
        description="one step with the longest sample before the training, so that what does not fit ends in minutes: where "
        "there are GPUs, always, or never",
    )
    timeout: float = operational(60 * 60 * 24 * 7, gt=0, description="seconds for the whole stage")
    grace: float = operational(
        240,
        ge=0,
        description="seconds that a training which is told to stop has for its step and a checkpoint: infra/README.md",
    )
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = operational(
        ("tensorboard",),
        description="who is told about the steps besides our own files; may be empty. MLflow and W&B are told of the run's scores "
        "and artifacts, too",
    )
    show_steps: int = operational(
        10, ge=1, description="optimiser steps between two pages of curves and completions in the UI"
    )

    @model_validator(mode="after")
    def _divided(self) -> Self:
        if self.ranks % self.nodes:
            raise ValueError(
                f"ranks: {self.ranks} is no multiple of nodes = {self.nodes}; each node takes as many"
            )
        return self

    @property
    def ranks_a_node(self) -> int:
        """Processes, and GPUs, of each machine."""
        return self.ranks // self.nodes


class Sft(Train):
    """Supervised fine-tuning on the chains."""

    learning_rate: float = Field(1e-4, gt=0, description="at its peak")  # paper, implementation details
    epochs: float = Field(3, gt=0, description="passes over the data")  # paper
    batch: int = Field(2, ge=1, description="samples a rank and forward pass")  # release, train_sft.yaml
    accumulation: int = Field(
        8, ge=1, description="forward passes an optimiser step"
    )  # release, train_sft.yaml
    lora: Lora = Lora(r=8, alpha=16, dropout=0.0)  # r: paper; alpha, dropout: LLaMA-Factory's defaults
    warmup_ratio: float = Field(
        0.1, ge=0, lt=1, description="share of the steps in which the rate rises (release, train_sft.yaml)"
    )
    held_out: float = Field(0.0, ge=0, lt=1, description="share kept for a validation loss (release: 0.1)")
    target: Literal["chain", "answer"] = Field(
        "chain", description="what is learnt; the bare answer to the plain question is the paper's VQA-SFT"
    )
    max_length: int = Field(4096, ge=64, description="tokens; release cut at 2048, silently")
    too_long: Literal["error", "reject"] = Field(
        "error", description="for a chain that does not fit; never cut"
    )


class Rewards(Section):
    """What GRPO rewards: beside these fields, by the name of every reward in `sifthinker.rewards.REWARDS`, its weight."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[Annotated[str, Named("reward")], float] = Field(init=False)

    variant: Literal["paper", "release"] = Field("paper", description="where the two differ")
    progress: bool = Field(
        True, description="r_ans with the last epoch's mean; false is the paper's ablation"
    )
    depth_tolerance: float = Field(0.1, gt=0, description="largest error of a depth (paper, T)")
    max_absent: float = Field(
        0.5, ge=0, le=1, description="share of absent judge scores in a step that stops the run"
    )
    repeats: float = added(
        0.0,
        ge=0,
        description="taken off r_bbox, times the share of the last area's boxes that repeat an earlier one: HIoU does not see "
        "a box that is there twice (ours; 0 = the paper's r_bbox)",
    )
    least_format: float = added(
        0.0,
        ge=0,
        le=1,
        description="share of chains in the completions of the last four steps under which the run stops: what is trained "
        "then loses its form (ours; 0: never)",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_weights(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {**{name: reward.weight for name, reward in choices.table("reward").items()}, **values}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The JSON schema with a property for every weight, as a form shows them."""
        made = super().__get_pydantic_json_schema__(schema, handler)
        for name, reward in choices.table("reward").items():
            handler.resolve_ref_schema(made)["properties"][name] = {
                "type": "number",
                "title": name.capitalize(),
                "default": reward.weight,
                "description": f"weight of {reward.description or name}; 0 = logged, not optimised",
            }
        return made

    def weights(self) -> list[float]:
        """The weights in the order of `sifthinker.rewards.REWARDS`."""
        extra = self.__pydantic_extra__
        return [extra[name] for name in choices.table("reward")]


class SamplingServers(Section):
    """The vLLM servers that sample for GRPO with `generation: vllm_lora`."""

    count: int = operational(
        0, ge=0, description="servers on GPUs of their own, those after the ranks'; 0: one beside each rank"
    )
    memory: float | None = operational(
        None,
        gt=0,
        lt=1,
        description="share of a GPU's memory that a server takes; none: 0.3 beside a rank, 0.9 on its own",
    )
    python: Path | None = operational(
        None, description="interpreter of vLLM's environment; none: the vllm on the PATH"
    )
    timeout: float = operational(1800.0, gt=0, description="seconds until the servers must answer")


class Grpo(Train):
    """GRPO-SIF on the RL subset."""

    learning_rate: float = Field(1e-5, gt=0, description="at its peak")  # paper
    epochs: float = Field(20, gt=0, description="passes over the data")  # paper; release: 1
    batch: int = Field(
        1, ge=1, description="completions a rank and forward pass"
    )  # release, train_grpo_sif.sh
    accumulation: int = Field(2, ge=1, description="forward passes an optimiser step")  # release
    lora: Lora = Lora(r=64, alpha=128, dropout=0.05)  # r: paper; alpha, dropout: release
    generations: int = Field(8, ge=2, description="completions of one prompt, compared (paper, N)")
    beta: float = Field(0.04, ge=0, description="weight of the KL divergence from the SFT model (paper)")
    temperature: float = Field(1.0, gt=0, description="of sampling (release, hard-coded)")
    max_completion: int = Field(2048, ge=16, description="tokens")  # release 2048, paper "2028"
    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = added(
        "grpo",
        description="how token losses are averaged: grpo, over a completion and then over completions (paper); bnpo, over "
        "the tokens of a rank's batch; dr_grpo, by the constant max_completion (Dr. GRPO, arXiv 2503.20783); dapo, over "
        "the tokens of the whole step (DAPO, arXiv 2503.14476)",
    )
    scale_rewards: Literal["group", "batch", "none"] = added(
        "group",
        description="what an advantage is divided by: the spread of its group (paper), of the batch, or nothing (Dr. "
        "GRPO, arXiv 2503.20783)",
    )
    importance: Literal["token", "sequence"] = added(
        "token",
        description="ratio of new and old policy by token (paper), or one a completion (GSPO, arXiv 2507.18071)",
    )
    iterations: int = added(
        1,
        ge=1,
        description="updates by the same completions (release: 1); the ratio is clipped from the second on",
    )
    epsilon: float = added(
        0.2, gt=0, lt=1, description="how far the ratio may fall, and rise (TRL's default)"
    )
    epsilon_high: float | None = added(
        None,
        gt=0,
        description="how far the ratio may rise, where that is another number: clip-higher (DAPO, arXiv 2503.14476: 0.28)",
    )
    mask_truncated: bool = added(
        False,
        description="completions cut off at max_completion take no part in the loss (DAPO, arXiv 2503.14476: overlong "
        "filtering)",
    )
    evaluate_steps: int = added(
        0,
        ge=0,
        description="optimiser steps between two evaluations of the policy on held-out rows (training/held_out.py); 0: none "
        "(paper)",
    )
    evaluate_rows: int = added(64, ge=1, description="held-out rows of such an evaluation")
    choose: Literal["best", "last"] = added(
        "best",
        description="the adapter that goes on, where there are such evaluations: the one with the highest mean reward on the "
        "held-out rows, or the last one",
    )
    rewards: Rewards = Field(default_factory=Rewards)  # when it is asked for: the table imports this module
    judge: Api = Api(model="doubao-1.5-vision-pro")  # paper: same model as the annotator
    judge_patience: float = operational(
        900.0,
        ge=0,
        description="seconds that a step waits for a judge that does not answer, where more than rewards.max_absent of its "
        "scores are missing; then the stage is tried again from its last checkpoint",
    )
    generation: Annotated[str, Named("sampler", also=("auto",))] = Field(
        "auto",
        description="what samples the completions; auto: vllm_lora where vLLM is found, nodes is 1 and "
        "vLLM takes adapters of rank lora.r, else transformers",
    )
    vllm: SamplingServers = operational(SamplingServers())
    vllm_server: str = operational(
        "http://127.0.0.1:8000",
        description="vllm_server only: address of the server of the merged SFT model; how to start it: "
        "training/samplers/trl_samplers.py",
    )
    max_logprob_gap: float | None = operational(
        None,
        gt=0,
        description="mean difference of the sampled tokens' log-probabilities, trainer against vLLM, that stops the run: "
        "in fp32 of one step, in bf16 of ten steps, or of one that has five times as much; "
        "none: 0.001 in fp32, 0.05 in bf16 (not given in the paper)",
    )

    @field_validator("generation")
    @classmethod
    def _can_be_used(cls, generation: str) -> str:
        sampler = choices.table("sampler").get(generation)
        if sampler is not None and sampler.refused:
            raise ValueError(f"{generation} is refused: {sampler.refused}")
        return generation

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.epsilon_high is not None and self.iterations == 1:
            raise ValueError(
                "epsilon_high clips nothing while iterations is 1: completions are used once, and the ratio of new and "
                "old policy is 1. Set iterations to 2 or more, or leave epsilon_high out"
            )
        if self.nodes > 1 and self.judge.base_url in (STANDIN, LOCAL):
            raise ValueError(
                f"judge.base_url: a {self.judge.base_url} judge serves the machine that starts it, and nodes is {self.nodes}; "
                "name an endpoint that all nodes reach, or set nodes to 1"
            )
        return self

    @model_validator(mode="after")
    def _can_sample(self) -> Self:
        sampler = choices.table("sampler").get(self.generation)
        if why := sampler.unfit(self) if sampler is not None else "":
            raise ValueError(why)
        return self

    @field_validator("vllm_server")
    @classmethod
    def _is_address(cls, vllm_server: str) -> str:
        return address(vllm_server)


class Merge(Section):
    """The adapter merged into its base."""

    precision: Literal["bf16", "fp32"] = Field(
        "bf16", description="of the merged weights' files; the merge itself is computed in fp32"
    )
    prompts: int = Field(
        4,
        ge=1,
        description="rows whose answers are compared, adapter against merged: training/merge_check.py",
    )
    unchanged: Literal["error", "note"] = Field(
        "error",
        description="for a merge that changes nothing; 'note' for random models, which earn no reward",
    )
