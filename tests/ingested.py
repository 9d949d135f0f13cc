"""What the stage `ingest` makes of sources, row by row."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from sifthinker.config import Ingest, Source
from sifthinker.core import records, tables
from sifthinker.core.given import Given, given
from sifthinker.core.records import Reject, Sample
from sifthinker.data.ingest import Tally, write
from sifthinker.system.cores import Workers


def ingest(
    sources: Sequence[Source], settings: Ingest, chains: dict[str, Given] | None = None
) -> Iterator[Sample | Reject]:
    """Rejects as they are found, then the samples sorted by id, from files of one part.

    Args:
        sources: the files.
        settings: which of their rows are taken.
        chains: gets the chains that the sources bring, by the ids of their samples.
    """
    with tempfile.TemporaryDirectory() as folder, Workers(1) as workers:
        files = [Path(folder) / name for name in ("samples.parquet", "chains.parquet")]
        one = settings.model_copy(update={"shards": 1})
        for outcome in write(sources, one, files[:1], files[1:], workers, Tally()):
            if isinstance(outcome, Reject):
                yield outcome
        if chains is not None:
            chains.update((row["id"], given(row)) for row in tables.read(files[1]))
        yield from map(records.sample, tables.read(files[0]))
