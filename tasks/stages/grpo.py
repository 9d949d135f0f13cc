"""grpo: GRPO-SIF on the reinforcement-learning samples."""

from sifthinker.config import identity
from sifthinker.training import memory, preflight, samplers
from tasks.runtime.endpoint import endpoint, weights
from tasks.runtime.programs import train, training_outcome
from tasks.runtime.results import RESULTS
from tasks.runtime.stage import Job, stage


@stage(
    config=lambda c: {"model": identity(c.model), "grpo": identity(c.grpo), **weights(c.grpo.judge)},
    results=RESULTS["grpo"],
    around=endpoint(lambda c: c.grpo.judge),
    lineage=True,
    retries=2,  # resumes from its last checkpoint
    expects=lambda c, _: f"sampled by {samplers.why(c.grpo)}",
)
def grpo(job: Job) -> None:
    """Reinforcement learning with the four rewards, in processes of its own."""
    dataset = [job.inputs["subset"].path / "rl.parquet"]
    settings = {
        "model": str(job.inputs["base"].path),
        "dataset": [str(path) for path in dataset],
        "ledger": str(job.endpoints.ledger),
        "judge_base_url": job.endpoints.url,
        "settings": {
            "model": job.config.model.model_dump(mode="json"),
            "grpo": job.config.grpo.model_dump(mode="json"),
        },
    }
    base, options = job.inputs["base"].path, job.config.grpo
    job.notes["preflight"] = preflight.check(
        base, dataset, job.work, job.config.model, options, job.endpoints.url
    )
    with samplers.of(options).serving(base, options, job.work, memory.visible_gpus()) as servers:
        train(job, "grpo", {**settings, "servers": list(servers)}, options)
    training_outcome(job)
