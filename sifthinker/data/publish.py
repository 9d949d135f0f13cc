"""Publish: joins samples, chains and depth maps into SIF-50K, and draws the subset for GRPO from it.

Reads `SAMPLES`, `CHAINS`, `MAPS` and the image files, writes `SIF`. The stage works part by part; a part holds
all samples of its images, so that joining never looks beyond it. Rows in = chains of the part.
"""

from __future__ import annotations

import hashlib
import heapq
import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sifthinker.core import depth_maps
from sifthinker.core.errors import UserError
from sifthinker.core.images import ImageLibrary, Photo
from sifthinker.core.records import DepthMap, Reject, Sample
from sifthinker.core.records import sample as sample_of
from sifthinker.core.tables import SIF, rows_of_group
from sifthinker.core.tables import read as read_columns
from sifthinker.core.tables import write as write_rows
from sifthinker.data.features import PUBLISHED
from sifthinker.system.cores import tell

logger = logging.getLogger(__name__)

ROW_GROUP = (
    64  # rows at most: one holds two pictures and a depth map, about 1 MB; a row group is held in memory
)
DEPTH_BINS = 20
_MUCH = 100_000_000  # bytes of depth maps: about 3 seconds
_MANY = 20_000  # rows: as much, with the smallest pictures
_OF_CHAIN = ("steps", "chain", "model", "attempts", "prompt_tokens", "completion_tokens")
_COUNTED = ("source", "dataset", "model", "attempts")  # columns whose values are counted


@dataclass(frozen=True)
class Part:
    """The files of a part, and where its rows go."""

    samples: Path
    chains: Path
    maps: Path
    out: Path
    images: ImageLibrary


@dataclass(frozen=True)
class Written:
    """What became of a part's chains."""

    read: int
    kept: int
    rejects: list[Reject]


def lasts(parts: Sequence[Part]) -> bool:
    """Whether the parts are seconds of work: what there is to decode and to encode tells, and the number of rows."""
    size = sum(part.maps.stat().st_size for part in parts)
    return size > _MUCH or sum(pq.read_metadata(part.chains).num_rows for part in parts) > _MANY


def write_part(part: Part) -> Written:
    """Joins and writes one part. It depends on its argument alone, so that any process can do it.

    Raises:
        UserError: see `rows`.
    """
    read = 0

    def chains() -> Iterator[dict[str, Any]]:
        nonlocal read
        for chain in read_columns(part.chains):
            read += 1
            yield chain

    rejects: list[Reject] = []

    def kept() -> Iterator[dict[str, Any]]:
        maps = (DepthMap(**row) for row in read_columns(part.maps))
        for row in rows(map(sample_of, read_columns(part.samples)), chains(), maps, part.images):
            tell(1)
            if isinstance(row, Reject):
                rejects.append(row)
            else:
                yield row

    written = write_rows(part.out, PUBLISHED, kept(), batch=ROW_GROUP)
    return Written(read, written, rejects)


def rows(
    samples: Iterable[Sample],
    chains: Iterable[Mapping[str, Any]],
    maps: Iterable[DepthMap],
    images: ImageLibrary,
) -> Iterator[dict[str, Any] | Reject]:
    """Rows of `SIF` for the chains of one part, in the order of its depth maps.

    One image and its map are in memory at a time; both are read once, however many questions they have.
    A sample without a chain was rejected by an earlier stage and is not counted here again.

    Args:
        samples: all samples of the part.
        chains: rows of `CHAINS`, the accepted chains; each ends in one row or one reject.
        maps: the depth maps of the part's images.
        images: the folders and the limit of ingest.

    Raises:
        UserError: an image is not the one that was ingested, or its source has no image folder.
    """
    waiting = {chain["id"]: chain for chain in chains}
    by_image: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.id in waiting:
            by_image[sample.image_sha256].append(sample)
    for depth_map in maps:
        group = by_image.pop(depth_map.image_sha256, [])
        if not group:
            continue
        photo = images.of(group[0])
        data = photo.data
        picture = depth_maps.picture(depth_maps.decode_bytes(depth_map.png))
        for sample in group:
            yield _row(sample, waiting.pop(sample.id), photo, data, picture, depth_map.png)
    unmapped = {sample.id: sample for group in by_image.values() for sample in group}
    for id in waiting:  # neither happens in an undamaged run: annotate reads the same samples and maps
        known = unmapped.get(id)
        if known is None:
            yield Reject(
                "publish", "sample-missing", "there is a chain for it but no sample in this part", id
            )
        else:
            detail = (
                f"no depth map for its image {known.image} (sha256 {known.image_sha256[:12] or 'unknown'})"
            )
            yield Reject("publish", "depth-missing", detail, id, known.source)


def read(parts: Iterable[Path], ids: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """Whole rows of `SIF` files, one row group in memory at a time; row groups without any of `ids` are skipped.

    Raises:
        UserError: a file is not one of ours.
    """
    wanted = None if ids is None else set(ids)
    for part in parts:
        with pq.ParquetFile(part) as file:
            missing = [name for name in SIF.names if name not in file.schema_arrow.names]
            if missing:
                raise UserError(f"{part}: not a SIF-50K file, it lacks the columns {', '.join(missing)}")
            for group in range(file.num_row_groups):
                if wanted is None:
                    yield from rows_of_group(file, group)
                elif wanted.intersection(file.read_row_group(group, columns=["id"])["id"].to_pylist()):
                    yield from (row for row in rows_of_group(file, group) if row["id"] in wanted)


def subset(parts: Sequence[Path], n: int, seed: int) -> list[str]:
    """Ids of `n` rows, stratified by data set: P_RL is "200 instances sampled from SIF-50K" (paper).

    Data sets share `n` in proportion to their rows, by largest remainder (ties: by name). Within a data set
    rows are taken in the order of a hash of the seed and the id, so that neither the order of the rows nor how
    they are spread over parts matters, and a larger `n` keeps most of a smaller one's.

    Returns:
        ids in the order of that hash; all of them, with a warning logged, where there are fewer than `n`.
    """
    columns = ["id", "dataset"]
    sizes = Counter(row["dataset"] for row in read_columns(parts, columns=columns))
    total = sizes.total()
    if total < n:
        logger.warning("the subset of %d rows takes all there are: %d", n, total)
    share = _largest_remainder(sizes, min(n, total))

    def order(id: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{seed}\n{id}".encode()).digest())

    first: dict[str, list[tuple[int, str]]] = {
        name: [] for name in sizes
    }  # heaps, the last of the order on top
    for row in read_columns(parts, columns=columns):
        heap, item = first[row["dataset"]], (-order(row["id"]), row["id"])
        if len(heap) < share[row["dataset"]]:
            heapq.heappush(heap, item)
        elif heap:
            heapq.heappushpop(heap, item)
    return [id for _, id in sorted((item for heap in first.values() for item in heap), reverse=True)]


def write_subset(parts: Sequence[Path], ids: Collection[str], out: Path) -> int:
    """Writes the rows with these ids, in the order of the parts, to one `SIF` file; returns how many."""
    written = write_rows(out, PUBLISHED, read(parts, ids), batch=ROW_GROUP)
    assert written == len(ids), f"{len(ids)} ids asked for, {written} found"
    return written


def statistics(parts: Sequence[Path]) -> dict[str, Any]:
    """What the data set holds, as plain values for the manifest and the report; no picture is read.

    Histograms are `{value: rows}` with the values as text, in ascending order. `depths` counts the regions of
    all chains in `DEPTH_BINS` equal bins of 0..1.
    """
    counts: dict[str, Counter[Any]] = defaultdict(Counter)
    depths = np.zeros(DEPTH_BINS, dtype=np.int64)
    tokens = dict.fromkeys(("prompt_tokens", "completion_tokens"), 0)
    total = 0
    for part in parts:
        table = pq.read_table(part, columns=["answer", "boxes", "steps", *_COUNTED, *tokens])
        total += table.num_rows
        steps = table["steps"].combine_chunks()
        looks = pc.list_flatten(steps)
        columns = {
            **{name: table[name] for name in _COUNTED},
            "answers": pa.array(map(answer_type, table["answer"].to_pylist()), pa.string()),
            "truth_boxes": pc.list_value_length(table["boxes"]),
            "chain_steps": pc.list_value_length(steps),
            "boxes_per_step": pc.list_value_length(looks),
        }
        for name, column in columns.items():
            for found in pc.value_counts(column).to_pylist():
                counts[name][found["values"]] += found["counts"]
        depth = pc.struct_field(pc.list_flatten(looks), "depth").to_numpy(zero_copy_only=False)
        bins = np.minimum((depth * DEPTH_BINS).astype(np.int64), DEPTH_BINS - 1)
        depths += np.bincount(bins, minlength=DEPTH_BINS)
        for name in tokens:
            tokens[name] += pc.sum(table[name]).as_py() or 0
    return {
        "rows": total,
        **{
            name: {str(value): counts[name][value] for value in sorted(counts[name])}
            for name in sorted(counts)
        },
        "depths": depths.tolist(),
        **tokens,
    }


def answer_type(answer: str) -> str:
    """Kind of a reference answer: yes/no, number, short (up to three words) or sentence."""
    text = answer.strip().rstrip(".").lower()
    if text in ("yes", "no"):
        return "yes/no"
    if text.isdecimal():
        return "number"
    return "short" if len(text.split()) <= 3 else "sentence"


def _row(
    sample: Sample, chain: Mapping[str, Any], photo: Photo, data: bytes, picture: bytes, depth_map: bytes
) -> dict[str, Any]:
    name = Path(sample.image)
    if photo.made is not None:  # no longer the user's file, but a PNG of its picture
        name = name.with_suffix(".png")
    return {
        "id": sample.id,
        "source": sample.source,
        "dataset": sample.dataset,
        "split": sample.split,
        "question": sample.question,
        "answer": sample.answer,
        "width": sample.width,
        "height": sample.height,
        "boxes": sample.boxes,
        "image": {"bytes": data, "path": name.name},
        "depth_image": {"bytes": picture, "path": f"{name.stem}_d.png"},
        "depth_map": depth_map,
        **{name: chain[name] for name in _OF_CHAIN},
    }


def _largest_remainder(sizes: Mapping[str, int], n: int) -> dict[str, int]:
    """`n` shared in proportion to `sizes` (n <= their sum), in whole numbers, exactly."""
    total = sum(sizes.values())
    share = {name: n * size // total for name, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda name: (-(n * sizes[name] % total), name))
    for name in by_remainder[: n - sum(share.values())]:
        share[name] += 1
    return share
