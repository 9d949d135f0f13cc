"""The records that go through the pipeline: one frozen dataclass for each table that a stage writes.

`core.tables` has the Arrow schemas, and says which stage reads and writes which table.

Boxes are `(x1, y1, x2, y2)` in 0..1 of the image itself everywhere in here, with x2 > x1 and y2 > y1.
Depths are 0 (nearest pixel of the image) to 1 (farthest).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one image, with the boxes of what answers it."""

    id: str  # unique in the data set and the same in every run: "<source>/<dataset>/<n>"
    source: str  # name of the configured source, which knows the folder of its images
    dataset: str  # "gqa", "cub", "tallyqa", ...
    split: str
    question: str
    answer: str
    image: str  # path relative to the source's image folder
    image_sha256: str  # of the file's bytes; "" where images were not opened
    width: int  # pixels
    height: int  # pixels
    boxes: tuple[Box, ...]  # ground truth, at least one


@dataclass(frozen=True, slots=True)
class Focus:
    """Where a chain looks, in the order in which it looks: whole image first, ground truth last."""

    id: str
    image_sha256: str
    steps: tuple[tuple[Box, ...], ...]  # 3 decimals
    distractor: int  # index in `steps` of the distractor, -1 for none


@dataclass(frozen=True, slots=True)
class DepthMap:
    """A lossless depth map: (height, width), 16-bit grey PNG, 0 = nearest, 65535 = farthest."""

    image_sha256: str
    width: int
    height: int
    png: bytes


@dataclass(frozen=True, slots=True)
class Region:
    """A box and the mean depth inside it (3 decimals)."""

    box: Box
    depth: float


@dataclass(frozen=True, slots=True)
class Annotation:
    """The chain of one sample, as it was accepted from the annotator."""

    id: str
    steps: tuple[tuple[Region, ...], ...]  # what was asked for: Focus.steps with depths
    chain: str  # canonical text, chain.render(chain.parse(reply))
    model: str  # as the server named it
    attempts: int  # calls it took, 1 = accepted at once
    prompt_tokens: int  # over all attempts
    completion_tokens: int
    repairs: tuple[str, ...]  # what was repaired, e.g. "fence", "depth-rounding"


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that a stage did not keep, and why."""

    stage: str
    reason: str  # short and countable: "box-outside", "image-missing", "not-sampled"
    detail: str  # for a person: what was found, where, what to do
    id: str = ""  # of the sample, where there is one
    source: str = ""
    file: str = ""  # name of the file it came from, without its folder
    row: int = -1  # line (from 1) of a JSONL file, index (from 0) of a JSON array; -1 where there is none
    field: str = ""


def sample(row: Mapping[str, Any]) -> Sample:
    """The `Sample` of a row of `SAMPLES`."""
    return Sample(**{**row, "boxes": boxes(row["boxes"])})


def focus(row: Mapping[str, Any]) -> Focus:
    """The `Focus` of a row of `FOCUS`."""
    return Focus(**{**row, "steps": tuple(boxes(step) for step in row["steps"])})


def annotation(row: Mapping[str, Any]) -> Annotation:
    """The `Annotation` of a row of `CHAINS`."""
    steps = tuple(
        tuple(Region(tuple(region["box"]), region["depth"]) for region in step) for step in row["steps"]
    )
    return Annotation(**{**row, "steps": steps, "repairs": tuple(row["repairs"])})


def boxes(values: Iterable[Iterable[float]]) -> tuple[Box, ...]:
    """Lists of four numbers as boxes."""
    return tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in values)
