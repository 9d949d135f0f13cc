"""evaluate: the benchmarks, asked through a server of the merged model."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sifthinker import llm
from sifthinker.config import Config, identity
from sifthinker.core.tables import read
from sifthinker.evaluation import evaluate as domain
from sifthinker.models import serving
from tasks.runtime import closure, results
from tasks.runtime import identity as identities
from tasks.runtime.endpoint import endpoint
from tasks.runtime.results import RESULTS, Results
from tasks.runtime.stage import Job, stage


def _files(config: Config) -> dict[str, Path]:
    named: Counter[str] = Counter()
    found: dict[str, Path] = {}
    for benchmark in config.evaluate.benchmarks:
        name = f"{benchmark.name}{benchmark.split}"
        named[name] += 1
        again = f"#{named[name]}" if named[name] > 1 else ""  # MMBench in both languages, say
        for field in ("path", "images"):
            path: Path = getattr(benchmark, field)
            if path.exists():  # a missing one is reported by the stage, and others run
                found[f"{name}{again}.{field}"] = path
    return found


def _served(server: str) -> str:
    """What answers besides the weights: the server, its libraries, and what we have it do.

    A reply of another server is another reply, also in the ledger.
    """
    means = results.SERVERS.get(server, Results())
    code = [closure.digest(name) for name in ("serve", *means.modules)]
    return " ".join(filter(None, (server, identities.versions(means.libraries), *code)))


@contextmanager
def _judge(job: Job) -> Iterator[llm.Client | None]:
    """Of the benchmarks whose answers are judged; without one they are reported as missing."""
    api = job.config.evaluate.judge
    if api is None:
        yield None
        return
    with (
        endpoint(lambda _: api)(job) as endpoints,
        llm.Client(api, endpoints.ledger, endpoints.url, scope="judge") as client,
    ):
        yield client


@stage(
    config=lambda c: {
        "model": identity(c.model),
        "evaluate": identity(c.evaluate),
        "depth": identity(c.depth),
    },
    results=RESULTS["evaluate"],
    files=_files,
    retries=1,  # answered questions are in the ledger
)
def evaluate(job: Job) -> None:
    """Serves the model, asks every question, scores the replies."""
    config = job.config.evaluate
    model = job.inputs["model"]

    def depth_pictures(images: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        from sifthinker.data import depth_estimation  # imports torch

        yield from depth_estimation.pictures(images, job.inputs["weights"].path, job.config.depth)

    with (
        serving.serving(model.path, config.server, job.work / "server.log", python=config.python) as url,
        _judge(job) as judge,
    ):
        served = domain.Served(
            url,
            serving.MODEL_NAME,
            label=f"{job.config.name} {model.manifest['label']}",
            digest=f"{model.weights} {_served(config.server)} {config.fresh}".strip(),
            extra=serving.suppression(config.server, url, model.path),
        )
        ledger = job.store.root / "calls.sqlite"
        domain.evaluate(served, job.config.model, config, ledger, depth_pictures, job.out, judge)
    rejected = Counter(row["reason"] for row in read(job.out / "rejects.parquet"))
    kept = sum(1 for _ in read(job.out / "predictions.parquet", ["id"]))
    job.draft.rows = {"in": kept + rejected.total(), "kept": kept, "rejected": dict(sorted(rejected.items()))}
