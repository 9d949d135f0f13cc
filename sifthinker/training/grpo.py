"""GRPO-SIF (PAPER.md P6.2 and P6.3), by TRL's GRPOTrainer with the rewards of `sifthinker.rewards`.

    python -m sifthinker.training.grpo CONFIG.yaml

    model: <folder of the merged SFT model>
    dataset: [<the RL subset, SIF Parquet>]
    work: <folder of checkpoints, and of progress.jsonl>
    out: <folder of the results: adapter/, history.jsonl, completions.parquet, rewards.parquet,
         book.json, summary.json>
    ledger: <file of the judge's calls, or `shared`: the database of SIF_LEDGER>
    judge_base_url: <the judge's endpoint; without it settings.grpo.judge.base_url>
    held_out: <SIF Parquet of the rows that the policy is evaluated on; only with evaluate_steps>
    servers: [<base URLs of the vLLM servers that sample, generation vllm_lora>]
    settings: {model: <config.Model>, grpo: <config.Grpo>}

Departures from TRL's defaults:

1. `loss_type="grpo"`: the mean over the tokens of each completion, then over completions (the paper's 1/N sum 1/|o|);
   TRL's default is a mean over all tokens of the batch. Advantage = (r - mean) / (std + 1e-4), one iteration, clip
   0.2: TRL's defaults already, written out here. `config.Grpo` has other variants by field. `OBJECTIVE` holds what has
   none: TRL's defaults of it may be others tomorrow.
2. `beta` 0.04 (paper; TRL 0): the reference is the same model with its adapter off, so no second copy is loaded.
3. Dropout of the LoRA layers is off while completions are sampled, and on in the loss. TRL and the release sample
   with dropout (PAPER.md R6.7).
4. Tokens that stand for pictures are never sampled: a text with one no longer fits its images.
5. A score the judge could not give takes no part in the advantage: in the sum it stands for the mean of its group.
   TRL would sum it as 0 (PAPER.md R5.3). A share above `rewards.max_absent` in a step stops the run.
6. The order of samples is a function of seed and epoch alone; TRL's sampler starts again with the first epoch's order
   when a run is resumed.
7. The KL term is exp(d) - d - 1, and so is its gradient (paper, release). TRL multiplies it by the ratio of new and old
   policy (`use_bias_correction_kl`), which is 1 but not its gradient.
8. With vLLM, TRL weighs each completion by what the probabilities of the sampler and of the trainer differ in, and leaves
   it out above 3. Here each token is weighed, by 3 at most (`token_truncate`): over hundreds of tokens rounding adds up.
9. With vLLM, TRL compares the sampler's log-probabilities with the trainer's under dropout, and takes the ratio of the
   clipped objective against those. Here they are compared without dropout, and the ratio is 1, as with transformers.

What samples is an entry of `sifthinker.training.samplers` (`generation`). A difference between its probabilities and the
trainer's that no rounding explains ends the training (`samplers.agreement`).

Departures from the release: RGB and depth picture are both shown, in the SFT's prompt (R1.2); 20 epochs; the rewards
(see sifthinker.rewards).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from sifthinker.config import Grpo, Model, Section
from sifthinker.core.errors import UserError
from sifthinker.llm.bookkeeping import Place
from sifthinker.models import loading
from sifthinker.training import adapters, checkpoints, harness, held_out, progress, ranks, rows, samplers
from sifthinker.training.json_files import write_json
from sifthinker.training.row_check import name_row
from sifthinker.training.samplers import agreement
from sifthinker.training.scoring import Scorer, epoch_of

logger = logging.getLogger(__name__)

COLUMNS = [
    *("id", "dataset", "question", "answer", "boxes"),
    *("image", "width", "height", "depth_image", "depth_map"),
]

OBJECTIVE: dict[str, Any] = {  # arguments of `GRPOConfig` that decide what is learnt, and that no field sets
    "use_bias_correction_kl": False,
    "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_mode": "token_truncate",
    "vllm_importance_sampling_clip_max": 3.0,
    "vllm_importance_sampling_clip_min": None,
    "multi_objective_aggregation": "sum_then_normalize",
    "delta": None,
    "top_entropy_quantile": 1.0,
    "off_policy_mask_threshold": None,
    "entropy_coef": 0.0,
    "use_adaptive_entropy": False,
    "router_aux_loss_coef": 0.0,
    "sync_ref_model": False,
    "disable_dropout": False,
    "cast_lm_head_to_fp32": False,
    "use_liger_kernel": False,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": None,
    "repetition_penalty": 1.0,
}


class Settings(Section):
    """The sections of the configuration that decide the result."""

    model: Model
    grpo: Grpo


class GrpoRun(Section):
    """What the program is told; see the module."""

    model: Path
    dataset: tuple[Path, ...]
    work: Path
    out: Path
    ledger: Place
    judge_base_url: str | None = None
    held_out: Path | None = None
    servers: tuple[str, ...] = ()
    settings: Settings


def main(path: Path) -> None:
    """Trains the LoRA adapter of the GRPO stage."""
    train(harness.load(path, GrpoRun))


def train(
    task: GrpoRun, scored: Callable[..., Any] = Scorer, trained: Callable[..., Any] | None = None
) -> None:
    """Trains, or goes on training, and writes the results.

    Args:
        task: what is trained.
        scored: makes the scorer; a rehearsal has another.
        trained: makes the trainer; None: `Trainer`.

    Raises:
        UserError: see `check_groups`, `samplers.Sampler.check`, `ranks.check_world`, `checkpoints.check_identity`,
            `rows.open_parquet`, `samplers.agreement.check`; or the judge left too many completions without a score.
    """
    started = time.monotonic()
    settings = task.settings.grpo
    ranks.check_world(settings)
    check_groups(settings)
    sampler = samplers.of(settings)
    sampler.check(settings, task.servers)
    task.work.mkdir(parents=True, exist_ok=True)
    task.out.mkdir(parents=True, exist_ok=True)
    arguments = GRPOConfig(**harness.arguments(settings, task.work), **grpo_arguments(settings))
    harness.start_deepspeed(settings)
    checkpoints.check_identity(task.work, task.settings)
    dataset = rows.open_parquet(task.dataset, COLUMNS, task.work)
    check_size(settings, len(dataset))
    processor = left_padding(task)
    suppressed = loading.picture_tokens(processor)
    arguments.generation_kwargs = sampler.suppression(suppressed)
    resumed = checkpoints.last_complete(task.work)
    ranks.barrier()
    with (
        scored(dataset, settings, task.work, task.ledger, task.judge_base_url) as scorer,
        watching(task) as watchers,
    ):
        trainer = (trained or Trainer)(
            model=loading.load_policy(task.model, settings.precision),
            reward_funcs=scorer.functions,
            args=arguments,
            train_dataset=examples(dataset, task.settings.model.depth_input),
            processing_class=processor,
            peft_config=adapters.lora(settings.lora),
            callbacks=[progress.Progress(task.work), *watchers, checkpoints.Checkpoints(scorer.save)],
        )
        for watcher in watchers:
            watcher.trainer = trainer
        trainer.settings = settings
        sampler.attach(trainer, task.servers, task.work, suppressed)
        scorer.restore(resumed)
        harness.fit(trainer, resumed)
        adapters.save_adapter(trainer, task.out / "adapter")
        if ranks.rank() == 0:
            history = progress.write_history(trainer, task.out)
            completions = scorer.write_results(task.out)
            notes = {**progress.notes(trainer, history, resumed, started), "completions": completions}
            for watcher in watchers:
                notes |= held_out.publish(watcher, task.out)
            summary = {"in": len(dataset), "kept": len(dataset), "rejected": {}, "notes": notes}
            write_json(task.out / "summary.json", summary)


def left_padding(task: GrpoRun) -> Any:
    """The model's processor, which pads on the left.

    TRL pads prompts on the left, but takes the places of their pictures from the processor: padded on the right, the
    pictures of all but the longest prompt of a batch would lie beside their places.
    """
    processor = loading.load_processor(task.model, task.settings.model.max_pixels)
    processor.tokenizer.padding_side = "left"
    return processor


@contextmanager
def watching(task: GrpoRun) -> Iterator[list[held_out.HeldOut]]:
    """What asks the policy about held-out rows while it trains; nothing without `evaluate_steps`.

    Raises:
        UserError: there are no such rows.
    """
    settings = task.settings.grpo
    if not settings.evaluate_steps:
        yield []
        return
    if task.held_out is None:
        raise UserError("held_out: grpo.evaluate_steps wants a file of held-out rows; name it, or set 0")
    work = task.work / "held_out"
    work.mkdir(exist_ok=True)
    data = rows.open_parquet((task.held_out,), COLUMNS, work)
    shown = examples(data, task.settings.model.depth_input)
    with Scorer(data, settings, work, task.ledger, task.judge_base_url) as scorer:
        yield [held_out.HeldOut(shown, settings, scorer, task.work)]


def grpo_arguments(settings: Grpo) -> dict[str, Any]:
    """Arguments of TRL's `GRPOConfig` beside those of every training (`harness.arguments`)."""
    return {
        "num_generations": settings.generations,
        "max_completion_length": settings.max_completion,
        "temperature": settings.temperature,
        "beta": settings.beta,
        "loss_type": settings.loss,
        "scale_rewards": settings.scale_rewards,
        "importance_sampling_level": settings.importance,
        "num_iterations": settings.iterations,
        "steps_per_generation": settings.accumulation,
        "epsilon": settings.epsilon,
        "epsilon_high": settings.epsilon_high,
        "mask_truncated_completions": settings.mask_truncated,
        "reward_weights": settings.rewards.weights(),
        # Of transformers' generation. A cache that grows is copied at every token, which nearly doubles the time of long
        # replies on a processor; on a GPU a static one would be compiled.
        "cache_implementation": None if torch.cuda.is_available() else "static",
        **OBJECTIVE,
        **samplers.of(settings).arguments(settings),
    }


def check_groups(settings: Grpo) -> None:
    """Before anything is loaded: whole groups in each step.

    Raises:
        UserError: ranks x batch x accumulation is no multiple of the group size.
    """
    completions = settings.ranks * settings.batch * settings.accumulation
    if completions % settings.generations:
        raise UserError(
            f"grpo: ranks {settings.ranks} x batch {settings.batch} x accumulation {settings.accumulation} = "
            f"{completions} completions a step is no multiple of generations = {settings.generations}"
        )


def check_size(settings: Grpo, samples: int) -> None:
    """Before anything is loaded: samples for a step.

    Raises:
        UserError: there are fewer samples than one step takes.
    """
    prompts = settings.ranks * settings.batch * settings.accumulation // settings.generations
    if samples < prompts:
        raise UserError(
            f"grpo: a step takes {prompts} different samples (ranks x batch x accumulation / generations) and the "
            f"data set has {samples}; lower batch or accumulation"
        )
    if samples % prompts:
        logger.warning(
            "%d of %d samples are left out of each epoch, another choice each", samples % prompts, samples
        )


def examples(dataset: Dataset, depth_input: bool) -> Dataset:
    """Rows as the trainer takes them: prompt, images, sample_id; made when a batch is made."""

    def transform(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        named = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        made = [{**rows.conversation(row, depth_input), "sample_id": row["id"]} for row in named]
        return {name: [example[name] for example in made] for name in ("prompt", "images", "sample_id")}

    return dataset.select_columns(["id", "question", *rows.image_columns(depth_input)]).with_transform(
        transform
    )


class EpochSampler(RepeatSampler):
    """TRL's sampler of repeated prompts with an order that depends on the epoch, not on how often it was asked."""

    def __init__(self, *args: Any, state: Any, **kwargs: Any) -> None:
        """Takes TRL's arguments, and `state`, which gives the trainer's state when it is called."""
        super().__init__(*args, **kwargs)
        self.state = state

    def __iter__(self) -> Iterator[int]:
        """Indices of samples, those of one group together."""
        self.generator.manual_seed(self.seed * 1_000_003 + epoch_of(self.state()))
        return super().__iter__()


class Trainer(GRPOTrainer):
    """TRL's trainer with departures 3, 6 and 9; a prompt that cannot be processed is named.

    Attributes:
        source: What samples in the place of TRL: `sample(conversations, prompts)`; None: TRL does.
        settings: Of the training; None: log-probabilities are not compared.
    """

    source: Any = None
    settings: Grpo | None = None
    agreement: agreement.Agreement | None = None

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        try:
            output = super()._generate_and_score_completions(inputs)
        except ValueError:
            name_row(self.processing_class, inputs)
            raise
        if self._scored:
            assert self.settings is not None
            self.agreement = self.agreement or agreement.Agreement(self.settings)
            self.agreement.check(output, self)
            if (
                self.args.gradient_accumulation_steps % (self.args.steps_per_generation * self.num_iterations)
                == 0
            ):
                del output["old_per_token_logps"]  # the loss then takes its own, as with transformers
        return output

    @property
    def _scored(self) -> bool:
        return self.settings is not None and samplers.of(self.settings).scored

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._scored or torch.is_grad_enabled():
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        trains = model.training
        model.eval()  # the sampler has no dropout
        try:
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        finally:
            model.train(trains)

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        self._asked = prompts
        return super()._tokenize_prompts(prompts)

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        if self.source is not None:
            return self.source.sample(self._asked, prompt_ids)
        self.model.eval()
        try:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        finally:
            self.model.train()

    def _get_train_sampler(self, dataset: Dataset | None = None) -> EpochSampler:
        return EpochSampler(
            dataset if dataset is not None else self.train_dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            seed=self.args.seed,
            state=lambda: self.state,
        )


if __name__ == "__main__":
    harness.main(main)
