"""evaluate: the benchmarks, asked through a server of the merged model."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sifthinker import llm
from sifthinker.config import LOCAL, STANDIN, STARTED, Config, identity
from sifthinker.core.tables import read
from sifthinker.evaluation import evaluate as domain
from sifthinker.evaluation import judge_probe, running_server
from sifthinker.evaluation.asking import BAD_REQUEST
from sifthinker.evaluation.benchmarks import presence
from sifthinker.evaluation.progress import Progress
from sifthinker.llm import bookkeeping
from sifthinker.models import serving
from sifthinker.models.budget import budgeted, holds, prepares
from sifthinker.store.digests import sha256
from sifthinker.store.manifest import Artifact
from sifthinker.system import gpu
from tasks.runtime import closure, stage_results
from tasks.runtime import identity as identities
from tasks.runtime.endpoint import endpoint, unready, watched, weights, without_vllm
from tasks.runtime.stage import Endpoints, Job, stage
from tasks.runtime.stage_results import RESULTS


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


def _lacks(config: Config) -> list[str]:
    """A judge or a server that cannot be had, benchmarks of the same questions, and those that shall not be left out."""
    absent = presence.absent(config.evaluate).values() if config.evaluate.missing == "refuse" else ()
    clashes = presence.clashes(config.evaluate)
    settings = config.evaluate
    served = settings.server == "vllm"
    return [
        *unready(config, "evaluate", "evaluate.judge", settings.judge),
        *(without_vllm(config, "evaluate", "evaluate.server", settings.python) if served else ()),
        *clashes,
        *absent,
    ]


def _expects(config: Config, inputs: Mapping[str, Artifact]) -> str:
    """How many benchmarks are asked, and which are left out."""
    absent = presence.absent(config.evaluate) if config.evaluate.missing == "leave_out" else {}
    asked = len(config.evaluate.benchmarks) - len(absent)
    if config.scenes and not any(benchmark.rendered for benchmark in config.evaluate.benchmarks):
        asked += len(config.scenes.benchmarks)  # of a plan: the scenes are still to be made
    said = f"{asked} benchmark{'' if asked == 1 else 's'}"
    return f"{said}; left out: {', '.join(absent)}" if absent else said


def _served(config: Config) -> str:
    """What answers besides the weights and their processor: the server, its libraries, and what we have it do.

    A reply of another server is another reply, also in the ledger. Of a server that runs already nothing more counts than
    its address: our libraries and processors are not its own, and its replies may have been paid for.
    """
    server = config.evaluate.server
    if server not in STARTED:
        return f"{server} {closure.digest('serve')}"
    means = stage_results.server(config)
    code = closure.code(("serve", f"families/{config.model.family}", *means.modules))
    return f"{server} {identities.versions(means)} {sha256(code)}"


@contextmanager
def _judge(job: Job) -> Iterator[llm.Client | None]:
    """Of the benchmarks whose answers are judged; without one they are reported as missing."""
    api = job.config.evaluate.judge
    if api is None:
        yield None
        return
    with (
        endpoint(lambda _: api)(job) as endpoints,
        llm.Client(api, endpoints.ledger, endpoints.url, scope="judge", again=(BAD_REQUEST,)) as client,
    ):
        yield client


@contextmanager
def _probing(job: Job) -> Iterator[Endpoints]:
    """Asks the judge a question first: a wrong setting shall not be found out after hours of the policy's replies.

    A judge that the stage starts itself costs nothing, and is not asked.
    """
    config, api = job.config.evaluate, job.config.evaluate.judge
    if config.probe and api is not None and api.base_url not in (STANDIN, LOCAL) and api.mode != "batch":
        place = bookkeeping.place(job.store.root)
        with llm.Client(api, place, api.base_url, scope="judge", again=(BAD_REQUEST,)) as client:
            for said in judge_probe.probe(config.benchmarks, client):
                job.log.info("%s: %s", job.order.label, said)
    yield Endpoints()


@contextmanager
def _server(job: Job) -> Iterator[domain.Served]:
    """The model at a server that is started for it, or at one that runs."""
    config, model, budget = job.config.evaluate, job.inputs["model"], job.config.model.max_pixels
    label = f"{job.config.name} {model.manifest['label']}"
    digest = f"{model.weights} {_served(job.config)} {config.fresh}".strip()
    if config.server not in STARTED:
        url = config.server.rstrip("/")
        running = running_server.identify(
            url, running_server.listed(url), config.served_model, model.path, job.store.digests.file
        )
        if running.verified:
            running = running_server.compared(running, model.path, budget)
        sizes = running.verified and holds(Path(running.root), budget)
        extra = serving.suppression(config.server, url, model.path)
        yield domain.Served(
            url, running.name, label + running.mark, f"{digest} {running.scope}", running, sizes, extra
        )
        return
    folder = budgeted(model.path, budget, job.work / "served")
    digest = f"{digest} {prepares(folder)}"  # of what the budget, the template and the processor make the model see
    with serving.serving(folder, config.server, job.work / "server.log", python=config.python) as url:
        extra = serving.suppression(config.server, url, folder)
        yield domain.Served(url, serving.MODEL_NAME, label, digest, extra=extra)


def _free_the_gpu() -> None:
    """Gives the depth model's memory back, before a server of the policy counts what is free."""
    gpu.free()


@stage(
    config=lambda c: {
        "model": identity(c.model),
        "evaluate": identity(c.evaluate),
        "depth": identity(c.depth),
        **weights(c.evaluate.judge),
    },
    results=RESULTS["evaluate"],
    files=_files,
    around=_probing,
    expects=_expects,
    lacks=_lacks,
    retries=1,  # answered questions are in the ledger
)
def evaluate(job: Job) -> None:
    """Serves the model, asks every question, scores the replies."""
    config = job.config.evaluate

    def depth_pictures(images: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        from sifthinker.data import depth_estimation  # imports torch

        yield from depth_estimation.pictures(images, job.inputs["weights"].path, job.config.depth)
        _free_the_gpu()

    progress = Progress()
    with _judge(job) as judge, watched(job, progress.counts, progress.line):
        ledger = bookkeeping.place(job.store.root)
        domain.evaluate(
            _server(job), job.config.model, config, ledger, depth_pictures, job.out, judge, progress, job.work
        )
    rejected = Counter(row["reason"] for row in read(job.out / "rejects.parquet"))
    kept = sum(1 for _ in read(job.out / "predictions.parquet", ["id"]))
    job.draft.rows = {"in": kept + rejected.total(), "kept": kept, "rejected": dict(sorted(rejected.items()))}
