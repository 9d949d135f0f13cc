"""The whole configuration of a reproduction: the sections put together, and checked against each other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from sifthinker.config import choices
from sifthinker.config.api import Annotate, Retry
from sifthinker.config.data import Depth, Expand, Ingest, Publish, Published, Scenes, Source
from sifthinker.config.evaluation import Ablation, Evaluate, Nightly, Report
from sifthinker.config.placement import Dask, Pools
from sifthinker.config.section import Section, operational
from sifthinker.config.training import Grpo, Merge, Model, Sft

SPARE = 1.5  # rows of a draw for each chain that is wanted


class Config(Section):
    """One reproduction."""

    name: str = Field(
        "reproduction", pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$", description="of the run, and for comparisons"
    )
    store: Path = operational(Path("artifacts"), description="folder of all artifacts, cache and logs")
    remote: str | None = operational(
        None,
        pattern=r"^s3://",
        description="s3://bucket/prefix: the store that machines share; `store` is then this machine's cache of it",
    )
    placement: Literal["process", "pools"] = operational(
        "process",
        description="process: all stages in the flow's process; pools: those that need a GPU in the work pools "
        "that `pools` names, the others in the flow's process",
    )
    pools: Pools = operational(Pools())
    dask: Dask | None = operational(
        None,
        description="tcp://scheduler:8786 of a Dask cluster that makes the shards of expand and depth, and of annotate "
        "and retry where SIF_LEDGER names the ledger; or a section with `address`, `resources` and `wait`",
    )
    processes: int | None = operational(
        None,
        ge=1,
        description="most processes that ingest and publish work in; none: one for each core that they may use",
    )
    max_rejected: float = operational(
        0.5,
        ge=0,
        le=1,
        description="share of its rows that a stage may reject before it fails; rows that ingest.exclude, cap or "
        "total and sft.too_long leave out do not count. 1 = any share, but never all rows",
    )
    scenes: Scenes | None = Field(None, description="none: no rendered scenes")
    sources: tuple[Source, ...] = Field((), description="files of annotations, with their images")
    ingest: Ingest = Ingest()
    expand: Expand = Expand()
    depth: Depth = Depth()
    published: Published = Published()
    annotate: Annotate = Annotate()
    retry: Retry = Retry()
    publish: Publish = Publish()
    model: Model = Model()
    sft: Sft = Sft()
    merge: Merge = Merge()
    grpo: Grpo = Field(default_factory=Grpo)  # not before its rewards are in the table
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    nightly: Nightly = Nightly()
    ablation: Ablation = Field(default_factory=Ablation)

    @model_validator(mode="before")
    @classmethod
    def _draw_more(cls, values: Any) -> Any:
        """A draw that leaves room for rejects, where `publish.rows` asks for so many chains and nobody says how large."""
        publish = values.get("publish") if isinstance(values, dict) else None
        rows = publish.get("rows") if isinstance(publish, dict) else getattr(publish, "rows", None)
        ingest = values.get("ingest") or {} if isinstance(values, dict) else {}
        if not isinstance(rows, int) or not isinstance(ingest, dict) or "total" in ingest:
            return values  # a mistake in a type is told by the field
        return {**values, "ingest": {**ingest, "total": math.ceil(SPARE * rows)}}

    @model_validator(mode="after")
    def _check_rows(self) -> Self:
        if (rows := self.publish.rows) is None:
            return self
        if self.ingest.total < rows:
            raise ValueError(
                f"publish.rows = {rows} chains cannot come from ingest.total = {self.ingest.total} rows: set it to at "
                f"least {math.ceil(SPARE * rows)}, or leave it out"
            )
        if self.retry.passes:
            raise ValueError(
                "publish.rows and retry.passes exclude each other: a retry adds chains to the exact number"
            )
        return self

    @property
    def taken(self) -> frozenset[str]:
        """Names of the sources that bring their chains."""
        table = choices.table("source")
        return frozenset(source.name for source in self.sources if table[source.format].chains)

    @property
    def annotates(self) -> bool:
        """Whether chains are bought: of a source that brings none, or of rendered scenes."""
        return self.scenes is not None or len(self.taken) < len(self.sources)

    @model_validator(mode="after")
    def _check_taken(self) -> Self:
        taken = [source for source in self.sources if source.name in self.taken]
        moved = [source.name for source in taken if source.frame == "padded"]
        if moved and self.published.depths != "replace":
            raise ValueError(
                f"published.depths = {self.published.depths}: the boxes of {', '.join(moved)} are brought from the padded "
                "square to the image, so the depths in its chains are those of other places: set published.depths to "
                "replace, or the source's frame to release (or fractions, for a `sif export`)"
            )
        if self.publish.rl_file and not taken:
            raise ValueError("publish.rl_file is for sources of the format published, and there is none")
        return self

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"sources: names must be unique, found {names}")
        if not self.sources and self.scenes is None:
            raise ValueError("no input: give `sources` (VisCoT, TallyQA files) or `scenes` (rendered)")
        world = self.grpo.ranks * self.grpo.batch * self.grpo.accumulation
        if world % self.grpo.generations:
            raise ValueError(
                f"grpo: ranks x batch x accumulation = {world} completions a step is no multiple of "
                f"generations = {self.grpo.generations}"
            )
        return self
