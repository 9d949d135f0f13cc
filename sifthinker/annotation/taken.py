"""Chains that a source brings: taken instead of bought, and checked as a reply of the annotator is.

Nothing is asked. A chain is kept if it is one (`chain.parse`), begins at the whole image, ends at its row's boxes, says
what `acceptance.unfit` allows, and gives the row's answer. What departs from a bought chain:

1. Its steps are its own; a bought one has those that were asked for.
2. Its depths are of another map than ours. `published.depths` says what becomes of them; how far they are off is
   measured in any case (`Measured`).
3. Only a judge could tell whether some answers say the same. Here such an answer is kept if it shares a word with the
   reference, or holds the number, the yes or the no that the reference is.

With `frame: padded` the boxes of a chain are brought from the padded square to the image, as those of its row are. Its texts
were written to the boxes where they were drawn (PAPER.md R2.1), and stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sifthinker import config
from sifthinker.annotation.acceptance import Refused, unfit
from sifthinker.annotation.agreement import agrees, names, plain
from sifthinker.annotation.annotate import NOT_NEEDED
from sifthinker.annotation.matching import same_boxes
from sifthinker.core import chain, depth_maps, images, prompts, reasoning
from sifthinker.core.chain import Chain, Step
from sifthinker.core.errors import UserError
from sifthinker.core.given import Given
from sifthinker.core.records import WHOLE, Annotation, Box, DepthMap, Region, Reject, Sample
from sifthinker.data.sources import frames

MODEL = "published"  # in the place of the model that wrote a chain, which the file does not name
RIGHT = (
    0.1  # largest error of a depth that counts as right where it is measured (paper: T, as its sentence says)
)
_AREA = re.compile(r"(?<=<area>)[^<]*(?=</area>)")
_NUMBER = re.compile(r"(?<![\d.])[01]?\.\d{2,3}(?![\d])")
_WORD = re.compile(r"\w+")
_EMPTY = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "for",
        "from",
        "has",
        "in",
        "is",
        "it",
        "its",
        "of",
        "on",
        "or",
        "that",
        "the",
        "this",
        "to",
        "was",
        "with",
    ]
)


@dataclass
class Measured:
    """How far published depths are from our maps, summed up."""

    chains: int = 0  # looked at
    depths: int = 0  # of their regions
    depths_off: float = 0.0  # sum of their distances to our map's
    depths_right: int = 0  # within RIGHT of our map's
    pictures: int = 0  # depth pictures that were there, of their map's size
    pictures_off: float = 0.0  # sum of each one's mean distance to our map


def chosen(
    samples: Iterable[Sample], taken: Mapping[str, Annotation | Reject], most: int | None
) -> dict[str, Annotation | Reject]:
    """What becomes of each given chain where at most `most` are wanted: the first accepted ones, by the samples' order."""
    kept = 0
    found: dict[str, Annotation | Reject] = {}
    for row in samples:
        result = taken.get(row.id)
        if isinstance(result, Annotation):
            kept += 1
            if most is not None and kept > most:
                result = Reject(
                    "annotate", NOT_NEEDED, f"{most} chains were accepted before it", row.id, row.source
                )
        if result is not None:
            found[row.id] = result
    return found


def take(
    samples: Iterable[Sample],
    given: Mapping[str, Given],
    maps: Iterable[DepthMap],
    folders: Mapping[str, Path],
    settings: config.Published,
    measured: Measured,
) -> dict[str, Annotation | Reject]:
    """The chain or the reject of every sample of a part that has a given chain; of the maps, one is in memory at a time.

    Args:
        samples: of one part, as are `given` and `maps`.
        given: the chains, by the sample's id.
        maps: of the images.
        folders: image folder by name of the source.
        settings: what becomes of the chains' depths.
        measured: is counted up.
    """
    by_image: dict[str, list[Sample]] = {}
    for row in samples:
        if row.id in given:
            by_image.setdefault(row.image_sha256, []).append(row)
    taken: dict[str, Annotation | Reject] = {}
    for image in maps:
        rows = by_image.pop(image.image_sha256, [])
        if not rows:
            continue
        values = depth_maps.decode_bytes(image.png, name=f"depth map of image {image.image_sha256[:12]}")
        _compare(given[rows[0].id], folders.get(rows[0].source), values, measured)
        for row in rows:
            taken[row.id] = _taken(row, given[row.id], values, settings, measured)
    for digest, rows in by_image.items():
        for row in rows:
            detail = f"no depth map of image {digest[:12]}: the depth stage rejected it"
            taken[row.id] = _reject(row, given[row.id], Refused("depth-missing", detail))
    return taken


def _taken(
    row: Sample, one: Given, values: depth_maps.Map, settings: config.Published, measured: Measured
) -> Annotation | Reject:
    measured.chains += 1
    try:
        parsed, repairs = _parsed(one)
        moved = _moved(parsed, one, row)
    except (chain.Malformed, _Refusal) as error:
        why = error.refused if isinstance(error, _Refusal) else Refused("malformed", error.reason)
        return _reject(row, one, why)
    ours = depth_maps.regions([[region.box for region in step.regions] for step in moved.steps], values)
    _count(moved, ours, measured)
    if refused := _off(moved, ours, settings) or unfit(moved, row) or _wrong_answer(row.answer, moved.answer):
        return _reject(row, one, refused)
    if settings.depths == "replace":
        try:
            mended = _replaced(parsed, moved, ours)
        except _Refusal as error:
            return _reject(row, one, error.refused)
        if mended != moved:
            moved, repairs = mended, (*repairs, "depths-replaced")
    return Annotation(row.id, ours, chain.render(moved), MODEL, 0, 0, 0, repairs)


class _Refusal(Exception):
    """A chain is not taken."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.refused = Refused(kind, reason)


def _parsed(one: Given) -> tuple[Chain, tuple[str, ...]]:
    """The chain of a turn, without what surrounds it, its numbers with 3 decimals; and what was mended.

    Raises:
        Malformed: the text is no chain.
    """
    text, aside = reasoning.before_chain(one.chain)
    repairs = ["reasoning"] if aside else []
    if "```" in text:
        parts = [part for part in text.split("```") if "<think>" in part]
        if len(parts) == 1:
            text = parts[0][parts[0].index("<think>") :].strip()
            repairs.append("fence")
    found = chain.areas(text)
    if found and any(_decimals(region) for step in found for region in step):
        exact = iter(found)
        text = _AREA.sub(lambda _: prompts.regions_json(next(exact)), text)
        repairs.append("rounding")
    return chain.parse(text), tuple(repairs)


def _decimals(region: Region) -> bool:
    return any(round(number, 3) != number for number in (*region.box, region.depth))


def _moved(parsed: Chain, one: Given, row: Sample) -> Chain:
    """The chain with its boxes on the image, upright; refused if it does not lead from all of it to the row's boxes."""
    steps = tuple(
        replace(
            step,
            regions=tuple(
                replace(region, box=_on_image(region.box, one, row, number)) for region in step.regions
            ),
        )
        for number, step in enumerate(parsed.steps, 1)
    )
    first, last = ([region.box for region in steps[at].regions] for at in (0, -1))
    if first != [WHOLE]:
        raise _Refusal("start", f"the first area is {_shown(first)} and not the whole image")
    pixel = (1 / row.width + 0.001, 1 / row.height + 0.001)
    if one.frame == frames.CANVAS:  # whose whole pixels are of the longer side
        side = max(row.width, row.height)
        pixel = (pixel[0] * side / row.width, pixel[1] * side / row.height)
    if not same_boxes(last, row.boxes, pixel * 2):
        raise _Refusal("boxes", f"the last area is {_shown(last)}, the row's boxes are {_shown(row.boxes)}")
    return replace(parsed, steps=steps)


def _on_image(box: Box, one: Given, row: Sample, number: int) -> Box:
    if box == WHOLE:  # of the image in every frame: the release draws it so
        return WHOLE
    x1, y1, x2, y2 = frames.on_image(box, one.frame, row.width, row.height, one.turn)
    x1, y1, x2, y2 = (round(min(max(value, 0.0), 1.0), 3) for value in (x1, y1, x2, y2))
    if x2 <= x1 or y2 <= y1:
        raise _Refusal(
            "margin", f"area {number} has the box {list(box)}, where the padded square shows no image"
        )
    return x1, y1, x2, y2


def _off(moved: Chain, ours: Sequence[Sequence[Region]], settings: config.Published) -> Refused | None:
    if settings.depths != "check":
        return None
    for number, (step, own) in enumerate(zip(moved.steps, ours, strict=True), 1):
        for region, mine in zip(step.regions, own, strict=True):
            if abs(region.depth - mine.depth) > settings.depth_tolerance + 1e-9:
                return Refused(
                    "depths",
                    f"area {number} has the depth {region.depth}, our map has {mine.depth} there: more than "
                    f"published.depth_tolerance = {settings.depth_tolerance:g} off; published.depths: replace takes ours",
                )
    return None


def _wrong_answer(reference: str, answer: str) -> Refused | None:
    """Why an answer is not taken for the reference: it says something else, or nothing of it."""
    same = agrees(reference, answer)
    if same is None:
        same = names(reference, answer)
    if same is None:
        wanted, said = plain(reference), plain(answer)
        shared = set(_WORD.findall(wanted)) & set(_WORD.findall(said))
        same = wanted in said or bool(shared - _EMPTY)
    return None if same else Refused("answer", f"the answer {answer!r} does not say {reference!r}")


class _Pair(NamedTuple):
    """A number of a chain's region, and what it is now."""

    was: float
    now: float
    depth: bool  # it is a depth, and no coordinate of the box


def _pairs(old: Chain, ours: Sequence[Sequence[Region]]) -> list[list[_Pair]]:
    """The numbers of each step's regions."""
    return [
        [
            pair
            for was, now in zip(step.regions, own, strict=True)
            for pair in (
                _Pair(was.depth, now.depth, True),
                *(_Pair(before, after, False) for before, after in zip(was.box, now.box, strict=True)),
            )
        ]
        for step, own in zip(old.steps, ours, strict=True)
    ]


def _replaced(old: Chain, moved: Chain, ours: Sequence[Sequence[Region]]) -> Chain:
    """The chain with our depths in its areas, and in texts that name one of its own numbers.

    `old` is the chain as it was read, `moved` has its boxes on the image.

    Raises:
        _Refusal: a text names a number that two regions had and that is no longer one, or the order of two depths that
            a text names is another one by our map. The order of coordinates may change: each side of the padded square
            is cut off in its own way.
    """
    pairs = _pairs(old, ours)
    everywhere = [pair for of_step in pairs for pair in of_step]
    steps = []
    for number, (step, own, here) in enumerate(zip(moved.steps, ours, pairs, strict=True), 1):
        named: list[tuple[float, float]] = []  # the depths of the text, theirs and ours

        def ours_for(
            found: re.Match[str],
            here: Sequence[_Pair] = here,
            number: int = number,
            named: list[tuple[float, float]] = named,
        ) -> str:
            digits = len(found[0].partition(".")[2])
            value = float(found[0])
            for candidates in (here, everywhere):
                after = {round(pair.now, digits) for pair in candidates if round(pair.was, digits) == value}
                if len(after) == 1:
                    ours = after.pop()
                    # A depth of another step may be meant that equals a coordinate of this one.
                    if any(
                        pair.depth and round(pair.was, digits) == value and round(pair.now, digits) == ours
                        for pair in everywhere
                    ):
                        named.append((value, ours))
                    return f"{ours:.{digits}f}"
                if after:
                    raise _Refusal(
                        "number-said",
                        f"text {number} names {found[0]}, of which our maps make {sorted(after)}",
                    )
            return found[0]

        text = _NUMBER.sub(ours_for, step.text)
        if any((a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(named, 2)):
            raise _Refusal(
                "number-said", f"text {number} compares depths whose order is another one by our maps"
            )
        steps.append(Step(tuple(own), text))
    return replace(moved, steps=tuple(steps))


def _count(moved: Chain, ours: Sequence[Sequence[Region]], measured: Measured) -> None:
    for step, own in zip(moved.steps, ours, strict=True):
        for region, mine in zip(step.regions, own, strict=True):
            off = abs(region.depth - mine.depth)
            measured.depths += 1
            measured.depths_off += off
            measured.depths_right += off <= RIGHT + 1e-9


def _compare(one: Given, folder: Path | None, values: depth_maps.Map, measured: Measured) -> None:
    """Measures the source's depth picture of an image against our map, where there is one of its size."""
    if folder is None:
        return
    for path in one.depth_images:
        try:
            data = images.find(folder, path).read_bytes()
            images.size(data, values.size, path)
            theirs = depth_maps.decode_bytes(data, "near_bright", nearest=True, name=path)
        except images.BadImage as error:
            if error.reason == "image-missing":
                continue
            return
        except UserError:  # no depth picture: nothing to measure, and our own map decides
            return
        if theirs.shape == values.shape:
            measured.pictures += 1
            measured.pictures_off += float(np.abs(theirs - values).mean())
        return


def merged(
    samples: Iterable[Sample], taken: dict[str, Annotation | Reject], bought: Iterator[Annotation | Reject]
) -> Iterator[Annotation | Reject]:
    """One row a sample, in order: what was taken, else the next that was bought."""
    for row in samples:
        found = taken.pop(row.id, None) or next(bought, None)
        assert found is not None, "each sample is taken or bought"
        yield found
    assert next(bought, None) is None, "samples and bought chains are of one part"


def _reject(row: Sample, one: Given, refused: Refused) -> Reject:
    return Reject("annotate", refused.kind, refused.reason, row.id, row.source, one.file, one.row, "messages")


def _shown(found: Iterable[Box]) -> str:
    return str([[round(value, 3) for value in box] for box in found])
