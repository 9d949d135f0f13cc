"""policy_weights, depth_weights: the pre-trained weights that the model stages start from, with their digest."""

from pathlib import Path
from typing import Literal

from sifthinker.models import miniature
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import RESULTS


def _local(weights: str, kind: Literal["policy", "depth"]) -> dict[str, Path]:
    if kept := miniature.find(weights, kind):
        return {"weights": kept}
    return {"weights": Path(weights)} if Path(weights).is_dir() else {}


@stage(
    config=lambda c: {
        "weights": c.model.weights,
        "revision": c.model.revision,
        "family": c.model.family,
        "seed": c.model.seed,
    },
    results=RESULTS["policy_weights"],
    files=lambda c: _local(c.model.weights, "policy"),
    retries=2,  # a download
    fetches=True,
)
def policy_weights(job: Job) -> None:
    """Builds, finds or downloads the policy's base model."""
    _fetch(job, "policy", job.config.model.weights, job.config.model.revision)


@stage(
    config=lambda c: {"weights": c.depth.weights, "revision": c.depth.revision, "seed": c.model.seed},
    results=RESULTS["depth_weights"],
    files=lambda c: _local(c.depth.weights, "depth"),
    retries=2,
    fetches=True,
)
def depth_weights(job: Job) -> None:
    """Builds, finds or downloads Depth Anything V2."""
    _fetch(job, "depth", job.config.depth.weights, job.config.depth.revision)


def _fetch(job: Job, kind: Literal["policy", "depth"], weights: str, revision: str | None) -> None:
    from sifthinker.models import loading  # imports torch

    model = job.config.model
    found = loading.fetch(weights, revision, kind, model.family, model.seed, job.out)
    folder = Path(found.pop("folder"))
    if folder != job.out:
        job.draft.external = folder
    job.notes.update(found)
