"""The policy on held-out rows while GRPO trains, and the choice of the adapter that goes on.

`grpo.evaluate_steps: k` asks the policy every k steps, before the first and after the last, greedily, about the same rows of
the data set, which GRPO does not train on. What samples the completions of the training samples these. They are scored by
the rewards of the training without the progress of r_ans, whose place the judge's score takes. The answers go through the
ledger: an equal one is not paid twice.

The rule: the highest mean of the weighted rewards; of equal ones the earliest. Where none is higher than before the first step,
there is nothing to choose by, and the last adapter goes on. The judge may have left rows of an evaluation without a score, and
rows are not equally hard. So two evaluations are compared over the rows that have all rewards in both, and where these are
fewer than half, the earlier one stays. A set of some dozen rows tells a collapse or a clear peak from the end of the training.
It does not tell neighbours apart: see the standard error beside each mean, which is over the rows of that evaluation.

Nothing of the training depends on it: greedy sampling draws no random numbers, and the weights are only read.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset
from transformers import GenerationConfig, Trainer, TrainerCallback

from sifthinker.config import Grpo
from sifthinker.core.errors import UserError
from sifthinker.rewards import REWARDS, Batch
from sifthinker.system.files import sync_tree
from sifthinker.training import adapters, json_files, ranks
from sifthinker.training.scoring import Scorer

logger = logging.getLogger(__name__)

REWARD, ERROR, ANSWER, ROWS = (
    f"held_out/{name}" for name in ("reward", "standard_error", "answer", "rows")
)  # of the logged entries
TOTALS = "held_out/totals"  # beside them in the history: the weighted rewards of each row, by id
LEAST_SHARED = 0.5  # of the rows of two evaluations, or they are not compared
RULE = (
    "highest mean of the weighted rewards on held-out rows, of equal ones the earliest; the last one where none is higher than "
    "before the first step; two are compared over the rows that have all rewards in both"
)


class HeldOut(TrainerCallback):
    """Asks the policy about held-out rows, logs what it earned, and keeps the adapters that were the best so far."""

    def __init__(self, examples: Dataset, settings: Grpo, scorer: Scorer, work: Path) -> None:
        """Takes the rows and their scorer.

        Args:
            examples: the rows as the trainer takes them: prompt, images, sample_id.
            settings: how often, and what samples.
            scorer: of these rows.
            work: folder of the training; adapters are kept below it.
        """
        self.examples, self.settings, self.scorer = examples, settings, scorer
        self.folder = work / "best"
        self.trainer: Any = None  # who makes the callback makes the trainer afterwards

    def on_train_begin(self, args, state, control, **kwargs):
        """Asks the policy that the training starts from."""
        if state.global_step == 0:
            self.evaluate(0)

    def on_step_end(self, args, state, control, **kwargs):
        """Asks every so many steps, and after the last one."""
        if state.global_step % self.settings.evaluate_steps == 0 or state.global_step == state.max_steps:
            self.evaluate(state.global_step)

    def evaluate(self, step: int) -> None:
        """Asks, logs, and keeps the adapter if no earlier one was as good.

        Raises:
            UserError: the judge left more than `rewards.max_absent` of the completions without a score.
            JudgeAway: it did not answer for longer than `judge_patience`.
        """
        history = self.trainer.state.log_history
        best, entries = chosen(history), self._earned()
        Trainer.log(self.trainer, summary(entries, self.settings))  # TRL's would empty the step's metrics
        found = history[-1]
        found[TOTALS] = by_row(entries, self.settings)  # not logged: trackers take numbers
        if step and best:
            logger.info(
                "held-out rows: step %d earns %.4g and step %d, the best before, %.4g, over the %d rows that have all rewards "
                "in both",
                *(step, means(found, best)[0], best["step"], *means(found, best)[1:]),
            )
        if step and (best is None or better(found, best)):
            kept = self.folder / f"step-{step}"
            adapters.save_adapter(self.trainer, kept)
            if ranks.rank() == 0:
                sync_tree(kept)  # the next checkpoint relies on it

    def _earned(self) -> list[dict[str, Any]]:
        """What every row earned, gathered over the ranks, each of which asks about its share."""
        share = range(ranks.rank(), len(self.examples), ranks.world())
        most = -(-len(self.examples) // ranks.world())
        mine = [*share] + [0] * (most - len(share))  # as many passes on every rank, as ZeRO-3 wants
        size = self.settings.batch * self.settings.accumulation
        ids: list[str] = []
        texts: list[str] = []
        for start in range(0, len(mine), size):
            examples = [self.examples[index] for index in mine[start : start + size]]
            ids += [example["sample_id"] for example in examples]
            texts += self._asked(examples)
        # Afterwards: while one rank waited for the judge, the others would wait for it in ZeRO-3's own groups, whose
        # time-out is minutes.
        entries: list[dict[str, Any]] = []
        for start in range(0, len(mine), size):
            entries += self._scored(ids[start : start + size], texts[start : start + size])
        everyone: dict[str, dict[str, Any]] = {entry["id"]: entry for entry in gather_object(entries)}
        return [everyone[id] for id in sorted(everyone)]

    def _asked(self, examples: Sequence[dict[str, Any]]) -> list[str]:
        """The completions of some examples, by what samples those of the training."""
        from trl.data_utils import prepare_multimodal_messages

        prompts = [prepare_multimodal_messages(each["prompt"], images=each["images"]) for each in examples]
        ids, images, fields = self.trainer._tokenize_prompts(prompts)
        with greedily(self.trainer):
            completions, _ = self.trainer._generate_single_turn(ids, images, fields, 1)
        texts: list[str] = self.trainer.processing_class.batch_decode(completions, skip_special_tokens=True)
        return texts

    def _scored(self, ids: Sequence[str], texts: Sequence[str]) -> list[dict[str, Any]]:
        subjects = [self.scorer.subject(id) for id in ids]
        scores = self.scorer.ask(texts, subjects)
        batch = Batch(
            texts=texts,
            questions=[subject.question for subject in subjects],
            references=[subject.answer for subject in subjects],
            truths=[subject.boxes for subject in subjects],
            maps=[subject.depth for subject in subjects],
            scores=scores,
            previous=[None] * len(texts),
            settings=self.settings.rewards.model_copy(update={"progress": False}),
        )
        values = {name: reward.values(batch) for name, reward in REWARDS.items()}
        return [
            {"id": subject.id, "judge": scores[place], **{name: values[name][place] for name in REWARDS}}
            for place, subject in enumerate(subjects)
        ]


def summary(entries: Sequence[dict[str, Any]], settings: Grpo) -> dict[str, float]:
    """What is logged of one evaluation.

    Args:
        entries: of every row: its rewards and the judge's score; None where there is none.
        settings: the weights of the rewards, and how many scores may be absent.

    Raises:
        UserError: more of them are.
    """
    totals = [*by_row(entries, settings).values()]
    absent = len(entries) - len(totals)
    if not totals or absent > settings.rewards.max_absent * len(entries):
        raise UserError(
            f"held-out rows: {absent} of {len(entries)} have no score, more than rewards.max_absent = "
            f"{settings.rewards.max_absent}. See the warnings above; start again to go on from the last checkpoint"
        )
    found = {
        REWARD: statistics.fmean(totals),
        ERROR: statistics.stdev(totals) / len(totals) ** 0.5 if len(totals) > 1 else 0.0,
        ROWS: float(len(totals)),
    }
    judged = [entry["judge"] for entry in entries if entry["judge"] is not None]
    if judged:
        found[ANSWER] = statistics.fmean(judged)
    for name in REWARDS:
        if present := [entry[name] for entry in entries if entry[name] is not None]:
            found[f"held_out/{name}"] = statistics.fmean(present)
    return found


def by_row(entries: Sequence[dict[str, Any]], settings: Grpo) -> dict[str, float]:
    """The weighted rewards of each row that has all of them, by its id."""
    weights = dict(zip(REWARDS, settings.rewards.weights(), strict=True))
    counted = [name for name in REWARDS if weights[name]]
    whole = [entry for entry in entries if all(entry[name] is not None for name in counted)]
    return {entry["id"]: sum(weights[name] * entry[name] for name in counted) for entry in whole}


def means(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float, int]:
    """What two evaluations earned over the rows that have all rewards in both, and how many these are.

    They are 0 where they are too few: then the two cannot be compared.
    """
    rows = [id for id in one[TOTALS] if id in other[TOTALS]]
    if len(rows) < LEAST_SHARED * max(len(one[TOTALS]), len(other[TOTALS])):
        return 0.0, 0.0, 0
    mine, others = (statistics.fmean(each[TOTALS][id] for id in rows) for each in (one, other))
    return mine, others, len(rows)


def better(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether an evaluation has earned more than an earlier one; not where the two cannot be compared."""
    mine, others, _ = means(one, other)
    return mine > others


def evaluations(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The evaluations of a training's history, in order."""
    return [entry for entry in history if REWARD in entry]


def chosen(history: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The evaluation of the adapter that the rule chooses; None before the first one."""
    best: dict[str, Any] | None = None
    for entry in evaluations(history):
        if entry["step"] and (best is None or better(entry, best)):
            best = entry
    return best


def publish(callback: HeldOut, out: Path) -> dict[str, Any]:
    """Puts the best adapter into the place of the last one, which lies in `last/`; returns notes for the summary.

    Nothing is moved with `choose: last`, or where no adapter earns more than the policy that the training started from. Only
    rank 0 calls it, when the training is over.
    """
    history = callback.trainer.state.log_history
    best, found = chosen(history), evaluations(history)
    assert best is not None, "the last step is always evaluated"
    first, last = found[0], found[-1]
    kept = last["step"]
    _, start, compared = means(best, first)
    if not better(best, first):
        logger.warning(
            "held-out rows: no adapter earns more than the %.4g of the policy that the training started from, over the %d rows "
            "that have all rewards in both; the last one goes on",
            *(start, compared),
        )
    elif callback.settings.choose == "best":
        kept = best["step"]
        (out / "adapter").rename(out / "last")
        shutil.copytree(callback.folder / f"step-{kept}", out / "adapter")
    notes = {"rule": RULE, "best": best["step"], "adapter": kept, "rows": len(callback.examples)}
    json_files.write_json(out / "held_out.json", {**notes, "evaluations": found})
    return {
        "held_out_rows": len(callback.examples),
        "held_out_first": first[REWARD],
        "held_out_best": best[REWARD],
        "held_out_last": last[REWARD],
        "held_out_rows_compared": compared,
        "best_step": best["step"],
        "adapter_step": kept,
    }


@contextlib.contextmanager
def greedily(trainer: Any) -> Iterator[None]:
    """While it lasts, what samples the trainer's completions takes the most probable token."""
    if trainer.use_vllm:
        owner = trainer.vllm_generation if trainer.source is None else trainer  # who tells vLLM
        before, owner.temperature = owner.temperature, 0.0
        try:
            yield
        finally:
            owner.temperature = before
        return
    sampling = ("do_sample", "temperature", "top_p", "top_k", "min_p")
    kept = trainer.generation_config, trainer.generation_kwargs
    plain = {name: value for name, value in trainer.generation_kwargs.items() if name not in sampling}
    trainer.generation_kwargs = {**plain, "do_sample": False}
    trainer.generation_config = GenerationConfig(**trainer.generation_kwargs, disable_compile=True)
    try:
        yield
    finally:
        trainer.generation_config, trainer.generation_kwargs = kept
