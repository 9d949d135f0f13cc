"""ablation: the table of all rows that there are."""

from collections.abc import Callable
from pathlib import Path

from sifthinker.config import Config
from sifthinker.evaluation import ablation as domain
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from tasks.runtime.pipeline import Partial, Run
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import RESULTS


@stage(
    config=lambda c: {"reference": c.ablation.reference, "weights": c.model.weights},
    results=RESULTS["ablation"],
)
def ablation(job: Job) -> None:
    """Writes the table as Markdown, JSON and a picture."""
    rows: dict[str, list[Path]] = {}
    for name, artifact in job.inputs.items():  # <row>.<seed>
        rows.setdefault(name.rpartition(".")[0], []).append(artifact.path)
    domain.write(job.out, rows, job.config.ablation.reference, job.config.model.weights)
    job.draft.rows = {"in": len(job.inputs), "kept": len(job.inputs), "rejected": {}}


def evaluation(pipeline: Callable[[Run], None], config: Config, store: Store) -> Ref | None:
    """The evaluation that a pipeline ends in, if it is in the store."""
    looking = Run(
        config, Partial(), store, lambda decision, _: decision.artifact.ref if decision.artifact else None
    )
    pipeline(looking)
    return looking.made.get("evaluate")
