"""retry: the dead letters of annotate, asked again with another model or prompt."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from sifthinker import llm
from sifthinker.annotation import retry as domain
from sifthinker.annotation.annotate import Annotator
from sifthinker.annotation.first_rows import of_parts
from sifthinker.annotation.probe import ROWS, probe
from sifthinker.annotation.projection import borrowed_prices, project
from sifthinker.config import Again, Api, Config, identity
from sifthinker.core.images import ImageLibrary
from sifthinker.core.records import DepthMap, Reject, annotation, focus, sample
from sifthinker.core.tables import CHAINS, read
from sifthinker.store.manifest import Artifact
from tasks.runtime.endpoint import endpoint, unready, watched, weights
from tasks.runtime.stage import Endpoints, Job, stage
from tasks.runtime.stage_results import RESULTS


def _library(job: Job) -> ImageLibrary:
    return ImageLibrary(job.folders, job.config.ingest.max_pixels)


def _letters(job: Job) -> Iterator[Reject]:
    return (Reject(**row) for row in read(job.inputs["chains"].rejects()))


def _api(job: Job, again: Again) -> Api:
    return domain.over(again, job.config.annotate).api


@contextmanager
def _retrying(job: Job) -> Iterator[Endpoints]:
    """An engine a pass for all shards, as in annotate; the counts shown are the last pass's, and noted are all."""
    annotate, passes = job.config.annotate, job.config.retry.passes
    domain.check([(again.reasons, domain.over(again, annotate)) for again in passes], annotate)
    if said := domain.not_found(
        passes[0].reasons, _letters(job)
    ):  # a later pass may have reasons of an earlier
        job.log.warning("%s: %s", job.order.label, said)
    for again in passes:
        if said := borrowed_prices(again, annotate):
            job.log.warning("%s: %s: its cost may be wrong", job.order.label, said)
    together = Endpoints()
    engines: list[object] = []
    with ExitStack() as stack:
        for again in passes:
            api = _api(job, again)
            found = stack.enter_context(endpoint(lambda _, api=api: api)(job))  # type: ignore[misc]
            together = Endpoints(found.ledger, (*together.urls, found.url), together.here or found.here)
            client = stack.enter_context(llm.Client(api, found.ledger, found.url))
            if client.engine not in engines:  # passes with one endpoint and model share theirs
                stack.enter_context(watched(job, client.progress))
            engines.append(client.engine)
            _probe(job, again, client)
        yield together


def _probe(job: Job, again: Again, client: llm.Client) -> None:
    """Asks a first row of a pass, before any pass: it may be one that an earlier pass would have mended."""
    config = domain.over(again, job.config.annotate)
    if not config.probe or config.api.mode == "batch":  # a batch may take a day
        return
    before = {row.id: row.reason for row in domain.asked_again(_letters(job), again.reasons)}
    tables = [job.inputs[name].parts(name) for name in ("samples", "focus", "maps")]
    if before and (rows := of_parts(zip(*tables, strict=True), ROWS, before)):
        found = probe(rows, Annotator(_library(job), client, config), before)
        found.log(job.log, f"{job.order.label} with {config.api.model}")


def _expects(config: Config, inputs: Mapping[str, Artifact]) -> str:
    """Of every pass, as if none before it succeeded: the most that it will take."""
    if not {"samples", "focus", "chains"} <= inputs.keys():
        return ""
    letters = [Reject(**row) for row in read(inputs["chains"].rejects())]
    parts: list[str] = []
    for again in config.retry.passes:
        ids = {row.id for row in domain.asked_again(letters, again.reasons)}
        rows = (row for row in map(sample, read(inputs["samples"].parts("samples"))) if row.id in ids)
        steps = map(focus, read(inputs["focus"].parts("focus")))
        parts.append(f"{len(ids)} rows: {project(rows, steps, domain.over(again, config.annotate)).line()}")
    return "; then at most ".join(parts)


def _lacks(config: Config) -> list[str]:
    """The passes whose endpoint nobody named, or whose budget would be counted at another model's prices.

    Where annotate's endpoint is not named, that stage says so.
    """
    lacking = []
    for number, again in enumerate(config.retry.passes):
        name = f"retry.passes[{number}]"
        lacking += unready(config, "retry", f"{name}.api", again.api)
        if config.annotate.api.budget_money is not None and (said := borrowed_prices(again, config.annotate)):
            lacking.append(f"{name}: budget_money cannot be held: {said}, or use budget_tokens")
    return lacking


@stage(
    config=lambda c: {
        "annotate": identity(c.annotate),
        "retry": identity(c.retry),
        **weights(c.annotate.api),
    },
    results=RESULTS["retry"],
    parts=("samples", "focus", "maps", "chains"),
    around=_retrying,
    expects=_expects,
    lacks=_lacks,
)
def retry(job: Job) -> None:
    """Asks again for the rows that were rejected, and passes all others on."""
    assert job.order.part is not None, "the stage works part by part"
    letters = job.inputs["chains"].shards[job.order.part].rejects()
    with ExitStack() as stack:
        passes: list[domain.Pass] = []
        for again, url in zip(job.config.retry.passes, job.endpoints.urls, strict=True):
            client = llm.Client(_api(job, again), job.endpoints.ledger, url)
            config = domain.over(again, job.config.annotate)
            passes.append((frozenset(again.reasons), stack.enter_context(client), config))
        records = domain.retry(
            lambda: map(sample, read(job.table("samples"))),
            lambda: map(focus, read(job.table("focus"))),
            lambda: (DepthMap(**row) for row in read(job.table("maps"))),
            map(annotation, read(job.table("chains"))),
            (Reject(**row) for row in read(letters)),
            _library(job),
            passes,
        )
        job.keep("chains", CHAINS, records)
    job.notes["read"] = sum(1 for _ in read(job.table("samples"), ["id"]))
