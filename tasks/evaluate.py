"""evaluate: the benchmarks, asked through a server of the merged model."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from sifthinker import evaluate as domain
from sifthinker import serve
from sifthinker.config import Config, identity
from tasks.stage import Job, stage


def _files(config: Config) -> dict[str, Path]:
    return {
        f"{benchmark.name}{benchmark.split}.{field}": path
        for benchmark in config.evaluate.benchmarks
        for field in ("path", "images")
        if (
            path := getattr(benchmark, field)
        ).exists()  # a missing one is reported by the stage, and others run
    }


@stage(
    config=lambda c: {
        "model": identity(c.model),
        "evaluate": identity(c.evaluate),
        "depth": identity(c.depth),
    },
    code=("sifthinker.evaluate", "sifthinker.serve", "sifthinker.estimate"),
    files=_files,
    retries=1,  # answered questions are in the ledger
)
def evaluate(job: Job) -> None:
    """Serves the model, asks every question, scores the replies."""
    config = job.config.evaluate
    model = job.inputs["model"]

    def depth_pictures(images: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        from sifthinker import estimate  # imports torch

        return estimate.pictures(images, job.inputs["weights"].path, job.config.depth)

    with serve.serving(model.path, config.server, job.work / "server.log") as url:
        outcome = domain.evaluate(
            config.benchmarks,
            url,
            "policy",
            model.ref.digest,
            job.store.root / "calls.sqlite",
            depth_pictures,
            job.config.model,
            config,
            job.out,
        )
    job.draft.rows = outcome["rows"]
    job.notes.update(outcome["notes"])
