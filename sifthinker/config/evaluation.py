"""The sections of evaluation: benchmarks, report, nights, ablation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, FieldSerializationInfo, field_serializer, field_validator, model_validator

from sifthinker.config import choices
from sifthinker.config.api import Api
from sifthinker.config.choices import Named, suggestion
from sifthinker.config.data import Frame
from sifthinker.config.section import Section, added, address, operational

STARTED = ("transformers", "vllm")  # servers that the stage evaluate starts itself


class Benchmark(Section):
    """A benchmark's files."""

    name: Annotated[str, Named("benchmark")] = Field(description="whose questions the files hold")
    path: Path = operational(description="annotation file or folder, as published")
    images: Path = operational(description="folder of the images")
    rendered: bool = operational(
        False,
        description="the questions are rendered scenes in the benchmark's form: the report labels their scores, and sets "
        "no published number beside them",
    )
    split: str = Field(
        "", description="where a benchmark has several, e.g. refcoco+_testB; sif: its file's format"
    )
    labels: Literal["listed", "each"] = Field(
        "listed",
        description="ovdeval only, whose labels the authors do not say how to attach: 'listed' gives the boxes the "
        "targets in the order in which the answer names them, 'each' every named target",
    )
    choices: Literal["shuffled", "official", "file"] = Field(
        "shuffled",
        description="sat only: 'shuffled' lists a question's choices in an order of its own, because the file has the "
        "right one first; 'official' does so in the words of SAT's own loader; 'file' keeps the file's order, as the "
        "authors' release does, and gives the answers away",
    )
    frame: Frame = added(
        "padded", description="sif only: what the numbers of its file's boxes are, as in the file's `sources`"
    )


class Evaluate(Section):
    """The benchmarks, asked through a server of the merged model."""

    benchmarks: tuple[Benchmark, ...] = Field((), description="rendered scenes add their own")
    also: tuple[Literal["base", "sft"], ...] = operational(
        (),
        description="the models before the last one that are evaluated too, for the report's first table; the base "
        "model is asked the plain question, and its boxes are read in its family's frame",
    )
    missing: Literal["refuse", "leave_out"] = operational(
        "refuse",
        description="what becomes of a run whose benchmarks' files are not all there: it is refused before its first "
        "stage, or goes on without those, which plan and report name; nights are not refused",
    )
    limit: int | None = Field(None, ge=1, description="samples per benchmark, seeded; marked wherever shown")
    seed: int = Field(0, description="of the samples under `limit`, and of sampled replies")
    think: bool = Field(True, description="ask for the chain; false asks the plain question")
    box_frame: Literal["image", "family", "resized", "thousand", "padded"] = Field(
        "image",
        description="frame of the boxes in replies: 'image', 0..1 of the picture, as they are asked for; 'family', the "
        "one that the base model's family was taught; or that by name: 'resized', pixels of the picture as the model "
        "saw it; 'thousand', 0..1000 of the picture; 'padded', 0..1 of the picture padded to a square",
    )
    max_tokens: int = Field(2048, ge=16, description="of a reply")
    temperature: float = Field(0.0, ge=0, description="not given in the paper; 0 is reproducible")
    sampled: float | None = Field(
        None,
        gt=0,
        description="temperature of a second reply to every question, scored as the benchmark '<name> sampled'; none: "
        "not asked for",
    )
    judge: Api | None = Field(
        None, description="scores VisCoT-s (paper: the annotator's model); none: that benchmark is left out"
    )
    probe: bool = operational(
        True,
        description="the judge is asked one question before anything else, and its reply shown; not in mode batch",
    )
    max_absent: float = operational(
        0.1,
        ge=0,
        le=1,
        description="share of a benchmark's answers that the judge may leave without a score (it refuses, is cut off, or says none; they are 0, "
        "and counted as judge-refused, judge-cut-off, judge-unreadable); more "
        "stops the evaluation",
    )
    fresh: str = Field("", description="questions are asked again for every other value, not remembered")
    server: str = Field(
        "vllm", description="server the stage starts (transformers, vllm), or the base URL of one that runs"
    )
    served_model: str = added(
        "",
        description="a server that runs: the name by which it lists the model; none: its only model, or 'policy'. The server "
        "is asked which folder it serves, and refused where that has other weights",
    )
    python: Path | None = operational(
        None,
        description="interpreter of the environment that has the server; none: the flow's, and the vllm on its PATH",
    )
    concurrency: int = operational(64, ge=1, description="most requests in flight")
    timeout: float = operational(600.0, gt=0, description="seconds for one request")

    @field_validator("benchmarks")
    @classmethod
    def _have_other_questions(cls, benchmarks: tuple[Benchmark, ...]) -> tuple[Benchmark, ...]:
        seen = set()
        for one in benchmarks:
            asked = (one.name, one.path.absolute(), one.split, one.choices)
            if asked in seen:
                raise ValueError(
                    f"{' '.join(filter(None, (one.name, one.split)))} of {one.path} stands there twice; leave one out: scores of the "
                    "same questions cannot be told apart"
                )
            seen.add(asked)
        return benchmarks

    @field_validator("server")
    @classmethod
    def _is_started_or_address(cls, server: str) -> str:
        if server not in STARTED and ":" not in server:
            raise ValueError(
                f"must be {' or '.join(STARTED)}, or the base URL of a server that runs, found {server!r}"
                f"{suggestion(server, STARTED)}"
            )
        return server if server in STARTED else address(server)


class Report(Section):
    """The page that shows the outcome."""

    examples: int = Field(8, ge=0, description="chains drawn in the report")


class Tier(Section):
    """How much a night asks, and what follows where that decides nothing."""

    limit: int | None = Field(
        None,
        ge=1,
        description="questions of each benchmark, at most, seeded; none: as many as evaluate.limit says",
    )
    benchmarks: tuple[str, ...] = Field((), description="names; none: those of nightly.benchmarks")
    fresh: bool = Field(False, description="ask every question again, whatever was answered before")
    then: str = Field(
        "",
        description="tier that follows in the same run where this one is inconclusive or warns; their looks share "
        "nightly.level; none: none",
    )


def _tiers() -> dict[str, Tier]:
    return {"quick": Tier(limit=200, then="nightly"), "nightly": Tier(), "weekly": Tier(fresh=True)}


class Nightly(Section):
    """What a night evaluates, and what makes it fail."""

    models: tuple[str, ...] = Field(
        ("promoted",),
        description="checkpoints: an alias (`sif promote`), the name or id of a run, <stage>/<key> of the store, a folder, "
        "or 'latest', the model of the store's latest whole reproduction, of whatever configuration",
    )
    benchmarks: tuple[str, ...] = Field((), description="names of evaluate.benchmarks; none = all of them")
    baseline: str = Field(
        "baseline", description="alias that every night is compared with, once it is pinned"
    )
    level: float = Field(
        0.001,
        gt=0,
        lt=0.5,
        description="chance, at most, that a night fails although nothing changed: gate.py",
    )
    margin: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="fall of a benchmark's mean strict score, of 1, that no night fails or warns for",
    )
    margins: dict[str, float] = Field(
        {}, description="the same by benchmark: a flaky one gets a wider margin"
    )
    unparsable: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="rise of the share of a benchmark's replies that fail in one way (unparsable, refused, cut off, no "
        "box), of 1, above which a night warns, significant or not: drift.py",
    )
    fresh: bool = Field(False, description="ask every question again, whatever was answered before")
    flips: int = Field(12, ge=0, description="changed samples of a benchmark that the report shows")
    tier: str = Field("nightly", description="of nightly.tiers, the one that a night begins with")
    tiers: dict[str, Tier] = Field(
        default_factory=_tiers,
        description="looks of several sizes, by name; one of a known name has the fields that are left out from that",
    )
    max_late: float = Field(
        12.0,
        gt=0,
        description="hours after its time at which a night that could not start is given up; one that is tried again never is",
    )

    @field_validator("tiers", mode="before")
    @classmethod
    def _over_the_known_ones(cls, given: Any) -> Any:
        """Tiers by name over the default ones, field by field: who changes one's limit keeps what follows it."""
        if not isinstance(given, dict):
            return given
        tiers: dict[Any, Any] = dict(_tiers())
        for name, tier in given.items():
            below = tiers[name].model_dump() if name in tiers and isinstance(tier, dict) else {}
            tiers[name] = {**below, **tier} if isinstance(tier, dict) else tier
        return tiers

    @field_serializer("tiers")
    def _whole(self, tiers: dict[str, Tier], info: FieldSerializationInfo) -> dict[str, Any]:
        """With every field: one that is left out would be read as the known tier's of that name."""
        return {name: tier.model_dump(mode=info.mode) for name, tier in tiers.items()}

    @model_validator(mode="after")
    def _check_tiers(self) -> Self:
        known = ", ".join(self.tiers)
        for field, named in (
            ("tier", self.tier),
            *((f"tiers.{n}.then", t.then) for n, t in self.tiers.items()),
        ):
            if named and named not in self.tiers:
                raise ValueError(
                    f"{field}: there is no tier {named!r}{suggestion(named, tuple(self.tiers))}; tiers: {known}"
                )
        for name in self.tiers:
            self._followed(name)
        return self

    @property
    def chain(self) -> tuple[str, ...]:
        """The tiers that a night may come to, in order."""
        return self._followed(self.tier)

    def _followed(self, first: str) -> tuple[str, ...]:
        found = [first]
        while then := self.tiers[found[-1]].then:
            if then in found:
                raise ValueError(f"tiers: {' -> '.join([*found, then])}: a tier must not follow itself")
            found.append(then)
        return tuple(found)


class Variant(Section):
    """One row of the ablation."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="unique; the row in the table")
    trained: Literal["no", "sft", "grpo"] = Field("grpo", description="how far the row is trained")
    fields: dict[str, Any] = Field({}, description="what differs from the configuration, by dotted name")
    seeds: tuple[int, ...] | None = added(
        None, description="other seeds than those of the ablation; none: the same"
    )


def _table_5() -> tuple[Variant, ...]:
    """The rows of the paper's Table 5; one without each reward."""
    return (
        Variant(name="base", trained="no", fields={"evaluate.think": False, "evaluate.box_frame": "family"}),
        Variant(
            name="vqa-sft",
            trained="sft",
            fields={
                "sft.target": "answer",
                "evaluate.think": False,
                "evaluate.box_frame": "family",  # its training shows it no boxes
            },
        ),
        Variant(name="cot-sft", trained="sft"),
        Variant(name="full"),
        *(
            Variant(name=f"no-{name}-reward", fields={f"grpo.rewards.{name}": 0.0})
            for name in choices.table("reward")
        ),
        Variant(name="no-progress", fields={"grpo.rewards.progress": False}),
        Variant(name="no-depth-image", fields={"model.depth_input": False}),
    )


_PAIRS = (("vqa-sft", "cot-sft"), ("cot-sft", "full"))


class Ablation(Section):
    """The rows of the paper's Table 5, and what it leaves out."""

    reference: str = Field("full", description="the row that the others are compared with")
    variants: tuple[Variant, ...] = Field(
        default_factory=_table_5, description="the rows; each is a reproduction of its own"
    )
    seeds: tuple[int, ...] = Field(
        (0,), min_length=1, description="of SFT and GRPO; every trained row is made once a seed"
    )

    pairs: tuple[tuple[str, str], ...] = operational(
        _PAIRS,
        description="rows that are compared where rows are kept (--keep), the second with the first: answers, also by kind, and "
        "what else is scored",
    )
    pictured: tuple[str, ...] = operational(
        (),
        description="rows with a line of their own in the pictures of kept rows by number of things and of training; none: all",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names) or self.reference not in names:
            raise ValueError(
                f"ablation: names must be unique and hold the reference {self.reference!r}: {names}"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"ablation: seeds must be unique: {list(self.seeds)}")
        for name in dict.fromkeys(name for pair in self.pairs for name in pair):
            if self.pairs != _PAIRS and name not in names:
                raise ValueError(f"ablation.pairs: there is no row {name!r}{suggestion(name, tuple(names))}")
        for name in self.pictured:
            if name not in names:
                raise ValueError(
                    f"ablation.pictured: there is no row {name!r}{suggestion(name, tuple(names))}"
                )
        return self
