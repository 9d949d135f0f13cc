"""ingest: the users' annotation files as samples."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sifthinker.config import Config, identity
from sifthinker.core.given import GIVEN, TABLE, Given
from sifthinker.core.records import Sample
from sifthinker.core.tables import SAMPLES, Writer
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
    batch = max(MIN_BATCH, min(1000, IN_MEMORY // shards))
    tally = domain.Tally()
    with _chains(job, shards, batch) as keep_chain:
        job.keep(
            "samples",
            SAMPLES,
            domain.ingest(job.config.sources, job.config.ingest, tally, keep_chain),
            route=lambda sample: domain.part(sample, shards),
            parts=shards,
            batch=batch,
        )
    refusal.check_sources(job, tally.empty(job.config.sources))


@contextmanager
def _chains(job: Job, shards: int, batch: int) -> Iterator[Callable[[Sample, Given], None] | None]:
    """Writes the chains that sources bring beside the samples, in their parts; no table where no source brings any."""
    if not job.config.taken:
        yield None
        return
    with ExitStack() as stack:
        files = [job.out / f"{TABLE}-{part:05}.parquet" for part in range(shards)]
        writers = [stack.enter_context(Writer(file, GIVEN, batch)) for file in files]
        yield lambda sample, chain: writers[domain.part(sample, shards)].add(chain)
