"""grpo: GRPO-SIF on the reinforcement-learning samples."""

from pathlib import Path

from sifthinker.config import Config, identity
from sifthinker.core.tables import read
from sifthinker.training import memory, preflight, samplers
from tasks.runtime.endpoint import endpoint, unready, weights, without_vllm
from tasks.runtime.programs import train, training_outcome
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import RESULTS


def _held_out(job: Job, subset: list[Path]) -> Path:
    """Writes the rows that the policy is evaluated on while it trains."""
    from sifthinker.models import loading  # imports torch
    from sifthinker.training import held_out_rows

    settings, config, parts = job.config.grpo, job.config, job.table("sif")
    processor = loading.load_processor(job.inputs["base"].path, config.model.max_pixels)
    unseen = held_out_rows.unseen(parts, config.sft, config.model, processor)
    trained_on = {row["id"] for row in read(subset, ["id"])}
    ids = held_out_rows.draw(unseen, trained_on, settings.evaluate_rows, settings.seed)
    out = job.work / "held_out.parquet"
    held_out_rows.write(parts, ids, out)
    return out


def _lacks(config: Config) -> list[str]:
    """A judge that cannot be asked, vLLM where it is to sample, and samples for a step."""
    wanted = samplers.named(config.grpo) == "vllm_lora"
    python = config.grpo.vllm.python
    return [
        *unready(config, "grpo", "grpo.judge", config.grpo.judge),
        *(without_vllm(config, "grpo", "grpo.generation", python) if wanted else ()),
        *preflight.too_few(config),
    ]


@stage(
    config=lambda c: {"model": identity(c.model), "grpo": identity(c.grpo), **weights(c.grpo.judge)},
    results=RESULTS["grpo"],
    around=endpoint(lambda c: c.grpo.judge),
    lineage=True,
    lacks=_lacks,
    retries=2,  # resumes from its last checkpoint
    expects=lambda c, _: f"sampled by {samplers.why(c.grpo)}",
)
def grpo(job: Job) -> None:
    """Reinforcement learning with the four rewards, in processes of its own."""
    dataset = [job.inputs["subset"].path / "rl.parquet"]
    held_out = _held_out(job, dataset) if job.config.grpo.evaluate_steps else None
    settings = {
        "model": str(job.inputs["base"].path),
        "dataset": [str(path) for path in dataset],
        "ledger": str(job.endpoints.ledger),
        "judge_base_url": job.endpoints.url,
        "held_out": str(held_out) if held_out else None,
        "settings": {
            "model": job.config.model.model_dump(mode="json"),
            "grpo": job.config.grpo.model_dump(mode="json"),
        },
    }
    base, options = job.inputs["base"].path, job.config.grpo
    job.notes["preflight"] = preflight.check(
        base, dataset, job.work, job.config.model, options, job.endpoints.url, held_out
    )
    gpus, context = memory.visible_gpus(), job.notes["preflight"]["context"]
    with samplers.of(options).serving(base, options, job.work, gpus, context) as servers:
        train(job, "grpo", {**settings, "servers": list(servers)}, options)
    training_outcome(job)
