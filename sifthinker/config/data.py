"""The sections of the data stages: from source annotations to the published data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from sifthinker.config.choices import Named
from sifthinker.config.section import Section, added, operational

PATCH = 14  # pixels: a side of the depth model's patches

Frame = Literal["padded", "release", "pixels", "fractions", "thousandths", "xywh"]  # of boxes in a file


class Scenes(Section):
    """Rendered scenes with exact boxes and depth: the embedded input where no data set is at hand."""

    rows: int = Field(48, ge=1, description="questions written for training")
    benchmark_rows: int = Field(
        24, ge=2, description="questions per benchmark; other scenes than the training's"
    )
    benchmarks: tuple[Literal["sif", "vstar", "refcoco", "spatialbench"], ...] = Field(
        ("sif", "vstar", "refcoco", "spatialbench"), description="which are written and asked"
    )
    seed: int = Field(0, description="same seed, same files")
    width: int = Field(224, ge=64, le=1024, description="pixels")
    height: int = Field(168, ge=64, le=1024, description="pixels")
    fewest: int = Field(4, ge=2, le=8, description="solids in a scene; more are harder")
    most: int = Field(6, ge=2, le=8, description="solids in a scene")
    several: float = added(
        0.0,
        ge=0,
        le=1,
        description="share of the questions, to train on and held out (sif), that need several looks: how many, how many "
        "beside a thing, more or fewer",
    )
    held_out: Literal["report", "tuning"] = added(
        "report",
        description="which held-out scenes the benchmark sif asks about: those of reports, or others, to choose settings by",
    )
    visible: float = added(
        0.5, gt=0, le=1, description="smallest share of a solid that others leave to be seen; less is harder"
    )
    alike: float = added(
        0.0,
        ge=0,
        le=1,
        description="share of the solids that take the shape or colour of an earlier one; more is harder",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.fewest > self.most:
            raise ValueError(
                f"scenes.fewest = {self.fewest} is more than scenes.most = {self.most}: set most to at least {self.fewest}, "
                "or fewest lower"
            )
        return self


class Source(Section):
    """A file of annotations with the folder of its images."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$", description="unique; the `source` column of the data set"
    )
    format: Annotated[str, Named("source")] = Field(
        description="viscot: conversations .json or metadata .jsonl; tallyqa: GRIT's .jsonl; published: SIF-50K, or a `sif export`, whose "
        "rows bring their chains; what each looks like: sifthinker/data/sources"
    )
    path: Path = operational(description="the annotation file")
    images: Path | None = operational(
        None, description="folder of the images; none: images are not opened and sizes come from the file"
    )
    sizes: Path | None = operational(
        None, description="viscot only, without images: a benchmark_det .jsonl that gives width and height"
    )
    licence: str | None = operational(
        None,
        max_length=200,
        description="of its annotations and pictures, for the data card: an id of the hub, or words",
    )
    frame: Frame = Field(
        "padded",
        description="what the numbers of a box are. padded: VisCoT's conversations and the authors' SIF-50K are on the "
        "square-padded canvas, other files in pixels unless all their rows say otherwise; release: read as the authors' "
        "code does (PAPER.md R2.1), for comparison only; pixels, fractions (0..1) or thousandths (0..1000) of the image: "
        "x1, y1, x2, y2; xywh: pixels, x, y, width, height. A `sif export` is in fractions",
    )


class Published(Section):
    """Chains that a source of the format `published` brings: taken and checked, not bought."""

    depths: Literal["replace", "check", "keep"] = Field(
        "replace",
        description="the depths in a chain's areas. replace: by those of our maps, because the model is shown our depth "
        "picture; check: as published, a chain that is off by more than depth_tolerance is rejected; keep: as published",
    )
    depth_tolerance: float = Field(
        0.1,
        gt=0,
        le=1,
        description="check: largest difference of a depth to our map, on its scale of 0..1 (paper: T, as its sentence says)",
    )


class Ingest(Section):
    """Which rows of the sources are taken."""

    exclude: tuple[str, ...] = Field(
        ("docvqa", "dude", "textvqa", "sroie", "infographicsvqa", "textcap"),
        description="data sets left out: text documents (release, filter_and_save_json)",
    )
    cap: int = Field(10_000, ge=1, description="most rows of one data set (release, filter_and_save_json)")
    total: int = Field(50_000, ge=1, description="most rows in all (SIF-50K)")
    seed: int = Field(0, description="of the sampling under the caps; not given in the paper")
    max_pixels: int = Field(50_000_000, ge=1, description="images with more pixels are rejected unopened")
    shards: int = Field(64, ge=1, le=2_000, description="parts that the following data stages work in")


class Expand(Section):
    """The boxes that a chain narrows down from."""

    variant: Literal["release", "progressive", "each"] = Field(
        "release",
        description="release: the only complete definition; progressive: our reading of Fig. 1b; each: ours, no "
        "expansion: from the whole image to each box by itself, in the order of the source, and then to all of them",
    )
    distractor_share: float = Field(
        0.5, ge=0, le=1, description="chains given a distractor (release, produce.py)"
    )
    seed: int = Field(0, description="with the sample's id it decides the distractor; not given in the paper")


class Depth(Section):
    """Depth maps by Depth Anything V2."""

    weights: str = Field(
        "depth-anything/Depth-Anything-V2-Small-hf",
        description="'tiny' (random, built on the spot), 'miniature' (small, trained on rendered scenes), a local "
        "folder, or a hub id. Large is CC-BY-NC-4.0",
    )
    revision: str | None = Field(None, description="hub revision, pinned for a reproduction")
    size: int = Field(518, ge=14, description="shorter side of the model's input, pixels, multiple of 14")
    batch: int = operational(8, ge=1, description="images of one size a forward pass")
    workers: int = operational(2, ge=1, description="threads that read and resize ahead of the model")

    @field_validator("size")
    @classmethod
    def _is_of_patches(cls, size: int) -> int:
        if rest := size % PATCH:
            raise ValueError(
                f"{size} is no multiple of {PATCH}, the side of the model's patch: set {size - rest} or {size - rest + PATCH}"
            )
        return size


class Publish(Section):
    """The data set, and the subset that GRPO trains on."""

    rows: int | None = added(
        None,
        ge=1,
        description="exactly so many chains: annotation goes on through a larger, seeded draw (ingest.total, half as "
        "many again unless set) until they are accepted; none = every row of the draw is asked (release)",
    )

    rl_samples: int = Field(200, ge=1, description="of the RL subset, stratified by data set (paper: 200)")
    seed: int = Field(0, description="of the RL subset")
    rl_file: Path | None = operational(
        None,
        description="published sources: a file of their format whose rows are the RL subset (the authors' 200), "
        "instead of a draw of rl_samples rows",
    )
