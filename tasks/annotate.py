"""annotate: a chain of thought for every sample, written by a vision-language model."""

from pathlib import Path

from sifthinker import annotate as domain
from sifthinker import vlm
from sifthinker.config import identity
from sifthinker.sample import CHAINS, DepthMap, focus, read, sample
from tasks.endpoint import endpoint
from tasks.stage import Job, stage


@stage(
    config=lambda c: {"annotate": identity(c.annotate)},
    code=("sifthinker.annotate",),
    parts=("samples", "focus", "maps"),
    around=endpoint(lambda c: c.annotate.api),
)
def annotate(job: Job) -> None:
    """Asks for each chain, checks it against what was asked, and asks again with the reason."""
    config = job.config.annotate
    with vlm.Client(config.api, Path(job.context["ledger"]), job.context["base_url"]) as client:
        records = domain.annotate(
            map(sample, job.counted(read(job.table("samples")))),
            map(focus, read(job.table("focus"))),
            (DepthMap(**row) for row in read(job.table("maps"))),
            job.folders,
            client,
            config,
        )
        job.keep("chains", CHAINS, records)
