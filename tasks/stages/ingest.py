"""ingest: the users' annotation files as samples."""

from pathlib import Path

from sifthinker.config import Config, identity
from sifthinker.core.given import TABLE
from sifthinker.data import ingest as domain
from sifthinker.system.cores import Workers
from tasks.runtime import refusal
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import RESULTS


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
    chains = job.parts(TABLE, shards) if job.config.taken else []  # that sources bring
    tally = domain.Tally()
    with Workers(job.cores) as workers:
        samples = job.parts("samples", shards)
        job.count(domain.write(job.config.sources, job.config.ingest, samples, chains, workers, tally))
    refusal.check_sources(job, tally.empty(job.config.sources))
