"""annotate: a chain of thought for every sample, written by a vision-language model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sifthinker import llm
from sifthinker.annotation import annotate as domain
from sifthinker.annotation import first_rows
from sifthinker.annotation.probe import ROWS, probe
from sifthinker.annotation.projection import project
from sifthinker.annotation.wanted import shares
from sifthinker.config import Config, identity
from sifthinker.core.records import DepthMap, focus, sample
from sifthinker.core.tables import CHAINS, read
from sifthinker.store.manifest import Artifact
from tasks.runtime.endpoint import endpoint, unnamed, watched, weights
from tasks.runtime.stage import Endpoints, Job, stage
from tasks.runtime.stage_results import RESULTS


@contextmanager
def _annotating(job: Job) -> Iterator[Endpoints]:
    """One engine for all shards: they share its limits, its budget and its progress."""
    api = job.config.annotate.api
    with (
        endpoint(lambda c: c.annotate.api)(job) as endpoints,
        llm.Client(api, endpoints.ledger, endpoints.url) as client,
        watched(job, client.progress),
    ):
        if job.config.annotate.probe and api.mode != "batch":  # a batch may take a day
            annotator = domain.Annotator(job.folders, client, job.config.annotate)
            tables = [job.inputs[name].parts(name) for name in ("samples", "focus", "maps")]
            if rows := first_rows.of_parts(zip(*tables, strict=True), ROWS):
                job.log.info("%s: %s", job.order.label, probe(rows, annotator))
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
            f"publish.rows: {rows['kept']:,} of {wanted:,} chains: the draw of {rows['in']:,} rows is used up in "
            f"{'some' if spared else 'all'} of its parts; set ingest.total higher to draw more"
        )
        job.log.warning("%s: %s", job.order.label, said)
    job.notes["rows_wanted"] = said


def _expects(config: Config, inputs: Mapping[str, Artifact]) -> str:
    if "samples" not in inputs:
        return ""
    rows = map(sample, read(inputs["samples"].parts("samples")))
    steps = map(focus, read(inputs["focus"].parts("focus"))) if "focus" in inputs else None
    return project(rows, steps, config.annotate, most=config.publish.rows).line()


@stage(
    config=lambda c: {
        "annotate": identity(c.annotate),
        **weights(c.annotate.api),
        **({"rows": c.publish.rows} if c.publish.rows is not None else {}),
    },
    results=RESULTS["annotate"],
    parts=("samples", "focus", "maps"),
    around=_annotating,
    expects=_expects,
    lacks=lambda c: unnamed("annotate.api", c.annotate.api),
    most=lambda c: (
        1.0 if c.retry.passes else c.max_rejected
    ),  # retry mends some, and is judged by what is left
    by_choice=(domain.NOT_NEEDED,),
    shares=lambda c, rows: shares(c.publish.rows, rows),
)
def annotate(job: Job) -> None:
    """Asks for each chain, checks it against what was asked, and asks again with the reason."""
    config = job.config.annotate
    with llm.Client(config.api, job.endpoints.ledger, job.endpoints.url) as client:
        records = domain.annotate(
            map(sample, job.counted(read(job.table("samples")))),
            map(focus, read(job.table("focus"))),
            (DepthMap(**row) for row in read(job.table("maps"))),
            job.folders,
            client,
            config,
            job.order.most,
        )
        job.keep("chains", CHAINS, records)
