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
    config=lambda c: {
        "reference": c.ablation.reference,
        "weights": c.model.weights,
        "untrained": _untrained(c),
    },
    results=RESULTS["ablation"],
)
def ablation(job: Job) -> None:
    """Writes the table as Markdown, JSON and a picture."""
    rows: dict[str, dict[int, Path]] = {}
    for name, artifact in job.inputs.items():  # <row>.<seed>
        row, _, seed = name.rpartition(".")
        rows.setdefault(row, {})[int(seed)] = artifact.path
    config = job.config
    domain.write(job.out, rows, config.ablation.reference, config.model.weights, _untrained(config))
    job.draft.rows = {"in": len(job.inputs), "kept": len(job.inputs), "rejected": {}}


def _untrained(config: Config) -> list[str]:
    """The rows that depend on no seed."""
    return [variant.name for variant in config.ablation.variants if variant.trained == "no"]


def evaluation(pipeline: Callable[[Run], None], config: Config, store: Store) -> Ref | None:
    """The evaluation that a pipeline ends in, if it is in the store."""
    looking = Run(
        config, Partial(), store, lambda decision, _: decision.artifact.ref if decision.artifact else None
    )
    pipeline(looking)
    return looking.made.get("evaluate")
