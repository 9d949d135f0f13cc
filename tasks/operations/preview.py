"""A preview of the chains: the first rows of annotate, on the stage's own ledger, before the whole stage is paid for.

Only the depth maps of the parts that these rows are in are made. They are shards of the stage depth, which later runs take
from the store, as they take the replies from the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from prefect.logging import get_run_logger

from sifthinker.annotation.annotate import Annotator
from sifthinker.annotation.first_rows import FirstRow, of_parts
from sifthinker.annotation.preview import Metered, preview
from sifthinker.config import Config
from sifthinker.core.images import ImageLibrary
from sifthinker.llm import bookkeeping
from sifthinker.reporting.markdown import inline
from sifthinker.reporting.preview_page import cards_of, render_page
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from sifthinker.system.files import sync
from tasks.runtime import links, shards, ui_artifacts
from tasks.runtime.decide import decide
from tasks.runtime.endpoint import answering, scene_files
from tasks.runtime.make import execute
from tasks.stages.depth import depth


def previewed(
    config: Config, store: Store, made: Mapping[str, Ref], count: int, page: Path, sent: Sequence[str]
) -> list[str]:
    """Annotates the first `count` rows and writes the page; what came of it, in lines for a person.

    Args:
        config: of the run, with the sources of its scenes.
        store: of its artifacts.
        made: the artifacts of ingest, expand and the depth model, by label.
        count: rows.
        page: the file that is written.
        sent: what is sent, for the page.
    """
    log = get_run_logger()
    rows = _rows(config, store, made, count)
    total = sum(pq.read_metadata(path).num_rows for path in store.open(made["expand"]).parts("focus"))
    folders = {source.name: source.images for source in config.sources if source.images}
    library = ImageLibrary(folders, config.ingest.max_pixels)
    api = config.annotate.api
    page.parent.mkdir(parents=True, exist_ok=True)
    with (
        answering(api, page.parent, "preview", log, scene_files(config)) as url,
        Metered(api, bookkeeping.place(store.root), url) as client,
    ):
        annotator = Annotator(library, client, config.annotate)
        found = preview(rows, annotator, client, total, config.publish.rows)
    cards, unseen = cards_of([one.shown for one in found.seen], library)
    lines = [*found.lines(config.annotate), *unseen]
    temporary = page.with_suffix(".tmp")
    temporary.write_text(render_page(config.name, lines, sent, cards), encoding="utf-8")
    sync(temporary)
    temporary.rename(page)
    ui_artifacts.markdown(
        "\n\n".join([links.shown(store.root, page, "Open the first chains"), *map(inline, lines)]),
        "preview",
        "The first chains",
    )
    return lines


def _rows(config: Config, store: Store, made: Mapping[str, Ref], count: int) -> list[FirstRow]:
    """The first rows, in the order of the stage; makes the depth maps of the parts that they are in."""
    samples, looks = store.open(made["ingest"]), store.open(made["expand"])
    decision = decide(
        store, depth, "depth", config, {"samples": made["ingest"], "weights": made["depth-weights"]}, False
    )
    digests = {name: samples.part_digests(name) for name in depth.parts}

    def parts() -> Iterator[tuple[Path, Path, Path]]:
        pairs = zip(samples.parts("samples"), looks.parts("focus"), strict=True)
        for index, (part, steps) in enumerate(pairs):
            if not pq.read_metadata(steps).num_rows:
                continue
            if decision.artifact is not None:
                yield part, steps, decision.artifact.part("maps", index)
            else:
                made_now = execute(shards.decision(decision.order, store, digests, index), store)
                yield part, steps, store.open(made_now).path / "maps.parquet"

    return of_parts(parts(), count, without=config.taken)
