"""sft: the warm-up on the whole data set."""

from sifthinker.config import identity
from sifthinker.training import preflight
from tasks.runtime.programs import train, training_outcome
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import RESULTS


@stage(
    config=lambda c: {"model": identity(c.model), "sft": identity(c.sft)},
    results=RESULTS["sft"],
    lineage=True,
    by_choice=("too-long",),  # only ever rejected where sft.too_long asks for it
    retries=2,  # resumes from its last checkpoint
)
def sft(job: Job) -> None:
    """Supervised fine-tuning of LoRA adapters, in processes of its own."""
    dataset = job.table("sif")
    settings = {
        "model": str(job.inputs["base"].path),
        "dataset": [str(path) for path in dataset],
        "settings": {
            "model": job.config.model.model_dump(mode="json"),
            "sft": job.config.sft.model_dump(mode="json"),
        },
    }
    job.notes["preflight"] = preflight.check(
        job.inputs["base"].path, dataset, job.work, job.config.model, job.config.sft
    )
    train(job, "sft", settings, job.config.sft)
    training_outcome(job)
