"""ingest: the users' annotation files as samples."""

from pathlib import Path

from sifthinker.config import Config, identity
from sifthinker.core.tables import SAMPLES
from sifthinker.data import ingest as domain
from tasks.runtime import refusal
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import RESULTS

IN_MEMORY = 40_000  # samples, of all parts together: they come in no order of the parts
MIN_BATCH = 64  # of a part


def _files(config: Config) -> dict[str, Path]:
    return {
        f"{source.name}.{field}": path
        for source in config.sources
        for field in ("path", "images", "sizes")
        if (path := getattr(source, field)) is not None
    }


@stage(
    config=lambda c: {"ingest": identity(c.ingest), "sources": identity(c.sources)},
    results=RESULTS["ingest"],
    files=_files,
    by_choice=domain.BY_CHOICE,
)
def ingest(job: Job) -> None:
    """Reads, checks, samples and un-pads; splits the samples into parts by image."""
    shards = job.config.ingest.shards
    tally = domain.Tally()
    job.keep(
        "samples",
        SAMPLES,
        domain.ingest(job.config.sources, job.config.ingest, tally),
        route=lambda sample: domain.part(sample, shards),
        parts=shards,
        batch=max(MIN_BATCH, min(1000, IN_MEMORY // shards)),
    )
    refusal.check_sources(job, tally.empty(job.config.sources))
