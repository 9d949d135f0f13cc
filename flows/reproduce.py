"""The reproduction, from annotation files to a table against the paper."""

from __future__ import annotations

from typing import Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.task_runners import ThreadPoolTaskRunner

from flows import form, run_names, shown, tracked
from flows.form import BEGINNING, END, ConfigText, First, Last, Settings
from flows.labels import Label
from sifthinker.config import changed
from sifthinker.store.manifest import Ref
from tasks.runtime.flow_run import final_state, run_flow
from tasks.runtime.pipeline import Partial, Pending, Run
from tasks.stages.annotate import annotate
from tasks.stages.depth import depth
from tasks.stages.evaluate import evaluate
from tasks.stages.expand import expand
from tasks.stages.grpo import grpo
from tasks.stages.ingest import ingest
from tasks.stages.merge import merge
from tasks.stages.publish import publish, subset
from tasks.stages.report import report
from tasks.stages.retry import retry
from tasks.stages.scenes import scenes
from tasks.stages.sft import sft
from tasks.stages.weights import depth_weights, policy_weights

AS_BASE = {"evaluate.think": False, "evaluate.box_frame": "family"}  # how a base model is asked and read
Until = Literal["no", "sft", "grpo"]  # how far the model is trained


def model_made(run: Run, until: Until = "grpo") -> dict[str, Ref | Pending]:
    """What happens before the evaluation, in order; the artifacts by the names that the report knows them by."""
    if run.config.scenes:
        run.provide(run(scenes))
    estimator = run(depth_weights)
    base = run(policy_weights)
    made = {"estimator": estimator, "base": base}
    if until == "no":
        return made | {"model": base}

    samples = run(ingest)
    focus = run(expand, samples=samples)
    maps = run(depth, samples=samples, weights=estimator)
    brought = {"given": samples} if run.config.taken else {}
    chains = run(annotate, samples=samples, focus=focus, maps=maps, **brought)
    if run.config.retry.passes:
        chains = run(retry, samples=samples, focus=focus, maps=maps, chains=chains)
    dataset = run(publish, samples=samples, chains=chains, maps=maps)
    chosen = run(subset, sif=dataset)
    made |= {
        "samples": samples,
        "focus": focus,
        "maps": maps,
        "chains": chains,
        "sif": dataset,
        "subset": chosen,
    }

    warm = run(sft, base=base, sif=dataset)
    warm_model = run(merge, "merge-sft", base=base, adapter=warm, subset=chosen)
    if until == "sft":
        return made | {"sft": warm, "model": warm_model}

    held_out = {"sif": dataset} if run.config.grpo.evaluate_steps else {}
    policy = run(grpo, base=warm_model, subset=chosen, **held_out)
    model = run(merge, "merge-grpo", base=warm_model, adapter=policy, subset=chosen)
    return made | {"sft": warm, "warm": warm_model, "grpo": policy, "model": model}


def reproduction(run: Run) -> None:
    """What happens, in order."""
    made = model_made(run)
    weights = made["estimator"]
    scores = {"evaluate": run(evaluate, model=made["model"], weights=weights)}
    if "base" in run.config.evaluate.also:
        base = changed(run.config, AS_BASE, "evaluate-base")
        scores["evaluate_base"] = run(evaluate, "evaluate-base", base, model=made["base"], weights=weights)
    if "sft" in run.config.evaluate.also:
        scores["evaluate_sft"] = run(evaluate, "evaluate-sft", model=made["warm"], weights=weights)
    run(report, **made, **scores)


@flow(name="reproduce", task_runner=ThreadPoolTaskRunner(max_workers=8))  # type: ignore[arg-type]
def reproduce(
    config: ConfigText = "demo",
    set: Settings = "",
    start_at: First = BEGINNING,
    stop_after: Last = END,
    refresh: list[Label] = [],  # noqa: B006 (never changed; a form shows an empty list)
    reuse_run: str = "",
) -> State[dict[str, str]]:
    """Reproduces SIFThinker: data set, SFT, GRPO-SIF, evaluation, report.

    Args:
        config: the name of a configuration (demo, paper, ...), or YAML
        set: settings on top of it, one a line: grpo.learning_rate=2e-5
        start_at: first stage that may run; earlier ones are taken from the store, and the run is refused if they are not there
        stop_after: last stage that runs
        refresh: stages to make again although they are in the store
        reuse_run: take the stages before start_at from this earlier run (its name or id)
    """
    partial = form.part(start_at, stop_after, refresh, reuse_run)
    return final_state(lambda: _reproduce(config, set, partial))


def _reproduce(given: str, settings: str, partial: Partial) -> State[dict[str, str]]:
    config = form.configuration(given, settings)
    run_names.call(run_names.of_part(config, form.lines(settings), partial))
    state = run_flow(reproduction, config, partial)
    shown.end(config, state)
    tracked.end(config, state)
    return state
