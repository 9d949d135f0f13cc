"""The rows that `sif view` shows: an index that is filtered, and whole rows with their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from PIL import Image

from sifthinker import scenes
from sifthinker.core import chain, depth_maps, drawing, images, tables
from sifthinker.core.errors import UserError
from sifthinker.core.records import Sample
from sifthinker.core.records import sample as as_sample
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref

if TYPE_CHECKING:
    import pandas as pd

_MAX_PIXELS = 50_000_000  # of a run that recorded none
_LIGHT = ["id", "source", "dataset", "split", "question", "answer", "model", "attempts", "steps", "chain"]


@dataclass(frozen=True)
class Filters:
    """What is looked for; an empty one lets everything through."""

    sources: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    steps: tuple[int, int] = (0, 1_000)  # fewest and most
    text: str = ""  # in id, question, answer or chain, whatever the case
    depth_error: float = 0.0  # at least; rows that were not measured do not pass above 0


def index(parts: Sequence[Path]) -> pd.DataFrame:
    """A row a row of SIF-50K, without pictures: its columns, the number of its `looks`, and where it lies.

    `part` is the number of the file and `row` that of the row in it. `depth_error` is not measured yet (NaN).
    """
    import pandas

    found = []
    for number, path in enumerate(parts):
        rows = pandas.read_parquet(path, columns=_LIGHT)
        found.append(rows.assign(part=number, row=range(len(rows))))
    every = (
        pandas.concat(found, ignore_index=True)
        if found
        else pandas.DataFrame(columns=[*_LIGHT, "part", "row"])
    )
    return every.assign(looks=every["steps"].map(len).astype(int), depth_error=float("nan")).drop(
        columns="steps"
    )


def measured(rows: pd.DataFrame, parts: Sequence[Path]) -> pd.DataFrame:
    """The index with the depth error of each row. It decodes every depth map: about 200 rows a second."""
    errors = [depth_error(row) for path in parts for row in tables.read(path, ["chain", "depth_map"])]
    return rows.assign(depth_error=errors)


def filtered(rows: pd.DataFrame, by: Filters) -> pd.DataFrame:
    """The rows of an index that pass."""
    passes = rows["looks"].between(*by.steps)
    if by.sources:
        passes &= rows["source"].isin(by.sources)
    if by.datasets:
        passes &= rows["dataset"].isin(by.datasets)
    if by.depth_error:
        passes &= rows["depth_error"] >= by.depth_error
    if by.text:
        passes &= _having(rows, ("id", "question", "answer", "chain"), by.text)
    return rows[passes]


def rejects(
    rows: pd.DataFrame, labels: Sequence[str], reasons: Sequence[str], sources: Sequence[str], text: str
) -> pd.DataFrame:
    """The rejects that pass: of these stages, reasons and sources (empty: all), with the text in id, file or detail."""
    passes = rows["reason"].notna()
    for column, chosen in (("label", labels), ("reason", reasons), ("source", sources)):
        if chosen:
            passes &= rows[column].isin(chosen)
    if text:
        passes &= _having(rows, ("id", "file", "detail"), text)
    return rows[passes]


def _having(rows: pd.DataFrame, columns: Sequence[str], text: str) -> pd.Series:
    found = rows[columns[0]].str.contains(text, case=False, regex=False)
    for column in columns[1:]:
        found |= rows[column].str.contains(text, case=False, regex=False)
    return found


def whole(parts: Sequence[Path], part: int, row: int) -> dict[str, Any]:
    """A whole row of `SIF`; one row group is read.

    Raises:
        UserError: there is no such row.
    """
    with pq.ParquetFile(parts[part]) as file:
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if row < first + size:
                found: dict[str, Any] = file.read_row_group(group).slice(row - first, 1).to_pylist()[0]
                return found
            first += size
    raise UserError(f"{parts[part]}: has no row {row}")


def samples(store: Store, record: Mapping[str, Any]) -> dict[str, Sample]:
    """The samples of a run by their id: what a rejected row of a later stage was."""
    stages = record["stages"]
    parts = store.open(Ref(**stages["ingest"])).parts("samples") if "ingest" in stages else []
    return {row["id"]: as_sample(row) for row in tables.read(parts)}


def library(store: Store, record: Mapping[str, Any]) -> images.ImageLibrary:
    """The image folders of a run: of its configuration, and of its rendered scenes."""
    config, stages = record["config"], record["stages"]
    folders = {s["name"]: Path(s["images"]) for s in config.get("sources") or () if s.get("images")}
    if "scenes" in stages:
        rendered = scenes.sources(store.open(Ref(**stages["scenes"])).path / "data")
        folders |= {source.name: source.images for source in rendered if source.images}
    return images.ImageLibrary(folders, config.get("ingest", {}).get("max_pixels", _MAX_PIXELS))


def boxed(sample: Sample, of: images.ImageLibrary) -> Image.Image:
    """The photograph of a sample with its ground truth, dashed.

    Raises:
        UserError: the file is gone or changed since ingest.
    """
    photo = images.rgb(of.of(sample).data)
    return drawing.overview(photo, photo, [], sample.boxes)[0]


def depth_error(row: dict[str, Any]) -> float:
    """The largest difference between a depth that the chain says and the mean of the depth map in its box.

    NaN where the chain says none.
    """
    depth = depth_maps.decode_bytes(row["depth_map"])
    said = chain.areas(row["chain"]) or []
    errors = [abs(region.depth - depth_maps.box_depth(depth, region.box)) for area in said for region in area]
    return max(errors, default=float("nan"))


def pictures(row: dict[str, Any]) -> tuple[Image.Image, Image.Image, list[Image.Image]]:
    """The photograph with all boxes, the depth picture with the truth, and a panel a step."""
    photo = images.rgb(row["image"]["bytes"])
    relief = images.rgb(row["depth_image"]["bytes"])
    steps = [[tuple(region["box"]) for region in step] for step in row["steps"]]
    truth = [tuple(box) for box in row["boxes"]]
    seen, deep = drawing.overview(photo, relief, steps, truth)
    return seen, deep, drawing.panels(photo, steps, truth)
