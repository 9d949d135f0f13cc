"""merge: an adapter folded into the model that it was trained on."""

from sifthinker.config import identity
from tasks.runtime.programs import train, training_outcome
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import RESULTS


@stage(
    config=lambda c: {"model": identity(c.model), "merge": identity(c.merge)},
    results=RESULTS["merge"],
    lineage=True,
)
def merge(job: Job) -> None:
    """Merges and compares the logits of adapter and merged model."""
    settings = {
        "model": str(job.inputs["base"].path),
        "adapter": str(job.inputs["adapter"].path / "adapter"),
        "dataset": [str(job.inputs["subset"].path / "rl.parquet")],  # both are compared on real prompts
        "settings": {
            "model": job.config.model.model_dump(mode="json"),
            "merge": job.config.merge.model_dump(mode="json"),
        },
    }
    train(job, "merge", settings)
    training_outcome(job)
