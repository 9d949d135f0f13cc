"""annotate: a chain of thought for every sample, written by a vision-language model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from sifthinker import llm
from sifthinker.annotation import annotate as domain
from sifthinker.annotation import first_rows, rounds, taken
from sifthinker.annotation.probe import ROWS, probe
from sifthinker.annotation.projection import project
from sifthinker.annotation.wanted import shares
from sifthinker.config import Config, identity
from sifthinker.core.given import TABLE, given
from sifthinker.core.images import ImageLibrary
from sifthinker.core.records import Annotation, DepthMap, Focus, Reject, Sample, focus, sample
from sifthinker.core.tables import CHAINS, read
from sifthinker.store.manifest import Artifact
from tasks.runtime.endpoint import endpoint, unready, watched, weights
from tasks.runtime.stage import Endpoints, Further, Job, stage
from tasks.runtime.stage_results import RESULTS


@contextmanager
def _annotating(job: Job) -> Iterator[Endpoints]:
    """One engine for all shards: they share its limits, its budget and its progress. None where nothing is bought."""
    if not job.config.annotates:
        yield Endpoints()
        return
    api = job.config.annotate.api
    with (
        endpoint(lambda c: c.annotate.api)(job) as endpoints,
        llm.Client(api, endpoints.ledger, endpoints.url) as client,
        watched(job, client.progress),
    ):
        if job.config.annotate.probe and api.mode != "batch":  # a batch may take a day
            annotator = domain.Annotator(_library(job), client, job.config.annotate)
            tables = [job.inputs[name].parts(name) for name in ("samples", "focus", "maps")]
            wanted = job.config.publish.rows
            rows_of = [sum(1 for _ in read([part], ["id"])) for part in tables[0]] if wanted else []
            of = dict(enumerate(shares(wanted, rows_of)))
            # A part that has to give no chain may not be asked at all.
            parts = [part for number, part in enumerate(zip(*tables, strict=True)) if of.get(number) != 0]
            if rows := first_rows.of_parts(parts, ROWS, without=job.config.taken):
                probe(rows, annotator).log(job.log, job.order.label)
        yield endpoints
    _say_how_many(job)


def _say_how_many(job: Job) -> None:
    """Whether there are as many chains as are wanted, and where not, why."""
    wanted, rows = job.config.publish.rows, job.draft.rows
    if wanted is None:
        return
    spared = rows["rejected"].get(domain.NOT_NEEDED, 0)
    if rows["kept"] == wanted:
        said = f"publish.rows: {wanted:,} chains are accepted, {spared:,} rows of the draw were not needed"
        job.log.info("%s: %s", job.order.label, said)
    else:
        said = (
            f"publish.rows: {rows['kept']:,} of {wanted:,} chains: all {rows['in']:,} rows of the draw are used up; set "
            "ingest.total higher to draw more"
        )
        job.log.warning("%s: %s", job.order.label, said)
    job.notes["rows_wanted"] = said


def _further(config: Config, parts: Sequence[Mapping[str, Any]]) -> Further | None:
    """The parts that go on where chains are missing although rows are left."""
    most = rounds.further(config.publish.rows, parts)
    if not most:
        return None
    kept, rest = sum(rows["kept"] for rows in parts), sum(rounds.left(parts))
    return Further(
        most,
        f"publish.rows: {kept:,} of {config.publish.rows:,} chains are accepted, and {rest:,} rows of the draw are left",
    )


def _expects(config: Config, inputs: Mapping[str, Artifact]) -> str:
    if "samples" not in inputs:
        return ""
    rows = map(sample, read(inputs["samples"].parts("samples")))
    steps = map(focus, read(inputs["focus"].parts("focus"))) if "focus" in inputs else None
    if not config.taken:
        return project(rows, steps, config.annotate, most=config.publish.rows).line()
    bought = [row for row in rows if row.source not in config.taken]
    count = inputs["samples"].manifest["rows"]["kept"] - len(bought)
    said = f"{count:,} chains are taken and checked"
    if not config.annotates:
        return f"{said}, no calls"
    return f"{said}; {project(bought, steps, config.annotate, most=config.publish.rows).line()}"


def _identity(config: Config) -> dict[str, object]:
    """What is asked, where anything is, and what becomes of the chains that are taken, where any are."""
    of: dict[str, object] = {}
    if config.annotates:
        of |= {"annotate": identity(config.annotate), **weights(config.annotate.api)}
    if config.taken:
        of["published"] = identity(config.published)
    if config.publish.rows is not None:
        of["rows"] = config.publish.rows
    return of


@stage(
    config=_identity,
    results=RESULTS["annotate"],
    parts=("samples", "focus", "maps", TABLE),
    around=_annotating,
    expects=_expects,
    lacks=lambda c: unready(c, "annotate", "annotate.api", c.annotate.api) if c.annotates else [],
    most=lambda c: (
        1.0 if c.retry.passes else c.max_rejected
    ),  # retry mends some, and is judged by what is left
    by_choice=(domain.NOT_NEEDED,),
    shares=lambda c, rows: shares(c.publish.rows, rows),
    further=_further,
)
def annotate(job: Job) -> None:
    """Asks for each chain, checks it against what was asked, and asks again with the reason; takes those that are given."""
    records = _taken(job) if TABLE in job.inputs else _asked(job, lambda row: True, job.order.most)
    job.keep("chains", CHAINS, records)
    job.notes["read"] = sum(1 for _ in read(job.table("samples"), ["id"]))


def _library(job: Job) -> ImageLibrary:
    return ImageLibrary(job.folders, job.config.ingest.max_pixels)


def _samples(job: Job) -> Iterator[Sample]:
    return map(sample, read(job.table("samples")))


def _maps(job: Job) -> Iterator[DepthMap]:
    return (DepthMap(**row) for row in read(job.table("maps")))


def _asked(
    job: Job, bought: Callable[[Sample | Focus], bool], most: int | None
) -> Iterator[Annotation | Reject]:
    """The chains of the rows that are bought; no client is opened where there is none."""
    if not job.endpoints.urls:
        return
    config = job.config.annotate
    with llm.Client(config.api, job.endpoints.ledger, job.endpoints.url) as client:
        yield from domain.annotate(
            filter(bought, _samples(job)),
            filter(bought, map(focus, read(job.table("focus")))),
            _maps(job),
            _library(job),
            client,
            config,
            most,
        )


def _taken(job: Job) -> Iterator[Annotation | Reject]:
    """The chains that the sources bring, and those that are bought for the other rows."""
    brought = {row.id: row for row in map(given, read(job.table(TABLE)))}
    measured = taken.Measured()
    found = taken.take(_samples(job), brought, _maps(job), job.folders, job.config.published, measured)
    found = taken.chosen(_samples(job), found, job.order.most)
    job.notes.update({f"published_{name}": value for name, value in asdict(measured).items()})
    kept = sum(isinstance(row, Annotation) for row in found.values())
    left = None if job.order.most is None else job.order.most - kept
    return taken.merged(_samples(job), found, _asked(job, lambda row: row.id not in brought, left))
