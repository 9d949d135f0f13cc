"""Questions with another score than before: the picture, where both replies looked, and what they said."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sifthinker import config
from sifthinker.core import drawing, images
from sifthinker.core.tables import read
from sifthinker.evaluation.benchmarks import BENCHMARKS, files
from sifthinker.evaluation.benchmarks.question import Missing, Question
from sifthinker.evaluation.shown import steps as steps
from sifthinker.evaluation.shown import truth as truth

logger = logging.getLogger(__name__)

_COLUMNS = ["benchmark", "id", "group", "question", "reference", "image_sha256"]
_COLUMNS += ["reply", "answer", "read_as", "boxes", "official", "strict", "unparsable"]
CLIP = 1200  # characters of a reply on a page
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Flip:
    """A question with its two replies; `pictures` (JPEG: before, after) are empty where the image is not there."""

    before: Row  # of predictions.parquet
    after: Row
    pictures: tuple[bytes, ...] = ()

    @property
    def lost(self) -> bool:
        """Whether the score is lower than before."""
        return bool(self.after["strict"] < self.before["strict"])


def find(before: Path, after: Path) -> list[Flip]:
    """The questions of two `predictions.parquet` with another strict score; lost ones first, then in file order."""
    earlier = {_same(row): row for row in read(before, _COLUMNS) if row["strict"] is not None}
    flips = [
        Flip(earlier[_same(row)], row)
        for row in read(after, _COLUMNS)
        if _same(row) in earlier and row["strict"] != earlier[_same(row)]["strict"]
    ]
    return sorted(flips, key=lambda flip: not flip.lost)


def shown(flips: Sequence[Flip], most: int, sources: Sequence[config.Benchmark]) -> list[Flip]:
    """At most `most` flips a benchmark, the lost ones first, with their pictures drawn from the benchmarks' files."""
    count: dict[str, int] = {}
    chosen = []
    for flip in flips:
        name = flip.after["benchmark"]
        count[name] = count.get(name, 0) + 1
        if count[name] <= most:
            chosen.append(flip)
    photos = dict(
        _photos({(f.after["benchmark"], f.after["id"]): f.after["image_sha256"] for f in chosen}, sources)
    )
    return [
        Flip(flip.before, flip.after, _drawn(photos.get((flip.after["benchmark"], flip.after["id"])), flip))
        for flip in chosen
    ]


def _photos(
    wanted: Mapping[tuple[str, str], str], sources: Sequence[config.Benchmark]
) -> Iterator[tuple[tuple[str, str], bytes]]:
    """The image files of questions, by (benchmark, id), as long as they are those that were asked about."""
    names = {name for name, _ in wanted}
    for source in sources:
        if source.name not in names:
            continue
        try:
            for item in BENCHMARKS[source.name].load(source):
                if isinstance(item, Question) and (source.name, item.id) in wanted:
                    photo = files.photo(source, item.image)
                    if photo.sha256 == wanted[source.name, item.id]:
                        yield (source.name, item.id), photo.data
        except (Missing, images.BadImage) as error:  # the night's verdict does not need the picture
            logger.warning("no pictures of %s: %s", source.name, error)


def _drawn(photo: bytes | None, flip: Flip) -> tuple[bytes, ...]:
    if photo is None:
        return ()
    picture = images.rgb(photo)
    right = truth(flip.after["reference"])
    looks = (drawing.overview(picture, picture, steps(row), right)[0] for row in (flip.before, flip.after))
    return tuple(drawing.encode(look, quality=80) for look in looks)


def card(flip: Flip, names: tuple[str, str] = ("Before", "Now")) -> dict[str, Any]:
    """What a page shows of a question: both replies by name, with their pictures."""
    replies = []
    for when, row in zip(names, (flip.before, flip.after), strict=True):
        replies.append(
            {
                "when": when,
                "read_as": row["read_as"],
                "unparsable": row["unparsable"],
                "strict": row["strict"],
                "reply": row["reply"][:CLIP],
                "clipped": max(0, len(row["reply"]) - CLIP),
                "colours": [drawing.colour(number) for number in range(len(steps(row)))],
            }
        )
    pictures = [images.data_url(picture) for picture in flip.pictures] or ["", ""]
    row, right = flip.after, truth(flip.after["reference"])
    return {
        "lost": flip.lost,
        "id": row["id"],
        "question": row["question"],
        "reference": "; ".join(", ".join(f"{v:.3f}" for v in box) for box in right) or row["reference"],
        "replies": list(zip(replies, pictures, strict=True)),
    }


def _same(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in _COLUMNS[:6])
