"""The first rows of a stage that can be asked: for the probe before it, and for a preview of its chains."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from sifthinker.annotation.annotate import Steps
from sifthinker.core import depth_maps
from sifthinker.core.records import DepthMap, Focus, Sample, focus, sample
from sifthinker.core.tables import read

_SPARE = 8  # more rows than asked for are looked at: an image may have no depth map


@dataclass(frozen=True, slots=True)
class FirstRow:
    """A sample with what its annotator is asked for."""

    sample: Sample
    steps: Steps
    map: DepthMap


def first_rows(
    samples: Iterable[Sample], focus: Iterable[Focus], maps: Iterable[DepthMap], count: int
) -> list[FirstRow]:
    """At most `count` rows that have a focus and a depth map, in the samples' order.

    Args:
        samples: of one part, as are `focus` and `maps`.
        focus: where the chains look.
        maps: of the images; read until the rows have theirs.
        count: most rows.
    """
    looks = {row.id: row for row in focus}
    chosen: list[Sample] = []
    for row in samples:
        if row.id in looks:
            chosen.append(row)
        if len(chosen) == count + _SPARE:
            break
    wanted = {row.image_sha256 for row in chosen}
    found: dict[str, DepthMap] = {}
    for image in maps:
        if image.image_sha256 in wanted:
            found[image.image_sha256] = image
        if len(found) == len(wanted):
            break
    rows: list[FirstRow] = []
    for row in chosen:
        if (image_map := found.get(row.image_sha256)) is not None and len(rows) < count:
            values = depth_maps.decode_bytes(
                image_map.png, name=f"depth map of image {row.image_sha256[:12]}"
            )
            rows.append(FirstRow(row, depth_maps.regions(looks[row.id].steps, values), image_map))
    return rows


def of_parts(
    parts: Iterable[tuple[Path, Path, Path]],
    count: int,
    wanted: Collection[str] | None = None,
    without: Collection[str] = (),
) -> list[FirstRow]:
    """At most `count` rows of tables that come in parts, the first ones that can be asked.

    Args:
        parts: of the samples, their focus and the depth maps: three Parquet files each. They are read until there are
            enough rows.
        count: most rows.
        wanted: ids of the samples that come into question; None: all.
        without: sources that bring their chains, so that nothing is asked for their rows.
    """
    found: list[FirstRow] = []
    for samples, steps, maps in parts:
        found += first_rows(
            (
                row
                for row in map(sample, read(samples))
                if (wanted is None or row.id in wanted) and row.source not in without
            ),
            map(focus, read(steps)),
            (DepthMap(**row) for row in read(maps)),
            count - len(found),
        )
        if len(found) == count:
            break
    return found
