"""The frames in which model families write boxes, and their conversion to 0..1 of the picture.

Our chains are written in 0..1 of the picture, and so they are asked for. A base model that is asked plainly answers as
it was taught (`sifthinker/models/families`, with sources): Qwen2.5-VL in pixels of the picture as its processor resized
it, the other Qwens and InternVL in 0..1000 of the picture, LLaVA-1.5 and Bunny in 0..1 of the picture padded to a square.
`evaluate.box_frame` says which is read.

A reply whose numbers are all at most 1 is left alone in the frames of pixels and thousandths: in them it would be a pixel, or
a thousandth of each side, in the picture's corner, which no model means. A padded square cannot be told by its numbers, so there only plain replies are converted: a chain
was trained, and training writes 0..1 of the picture.
"""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import dataclass

from PIL import Image

from sifthinker import config
from sifthinker.core import boxes, images
from sifthinker.core.records import Box
from sifthinker.evaluation.benchmarks.question import Question
from sifthinker.models.families import FAMILIES

IMAGE, RESIZED, THOUSAND, PADDED = "image", "resized", "thousand", "padded"
_LEAST = 3136  # pixels; processors enlarge what is smaller
_SLACK = 0.02  # of a side: how far a box may stand out and be cut off at the edge

_N = r"(-?\d+(?:\.\d+)?)"
_FORMS = [
    re.compile(r"\[\s*" + r"\s*,\s*".join([_N] * 4) + r"\s*\]"),  # [x1, y1, x2, y2]
    re.compile(rf"\(\s*{_N}\s*,\s*{_N}\s*\)\s*,?\s*\(\s*{_N}\s*,\s*{_N}\s*\)"),  # (x1, y1), (x2, y2)
    re.compile(r"\A\s*\(?\s*" + r"\s*,\s*".join([_N] * 4) + r"\s*\)?\s*\.?\s*\Z"),  # nothing else
]


@dataclass(frozen=True, slots=True)
class Frame:
    """How a reply's boxes are to be read: the frame, and the picture's size in it."""

    name: str  # one of the four above
    width: int  # pixels of the picture
    height: int
    resized: tuple[int, int]  # its size as the model saw it, in pixels

    def read(self, reply: str) -> str:
        """The reply with its boxes in 0..1 of the picture, four numbers in brackets each."""
        plain = "<area>" not in reply
        found = [tuple(map(float, m.groups())) for form in _FORMS for m in form.finditer(reply)]
        if not found or self.name == IMAGE or (self.name == PADDED and not plain):
            return reply
        if self.name != PADDED and max(map(max, found)) <= 1:
            return reply
        for form in _FORMS:
            reply = form.sub(self._written, reply)
        return reply

    def _written(self, match: re.Match[str]) -> str:
        x1, y1, x2, y2 = map(float, match.groups())
        return str([round(_at_edge(value), 4) for value in self._converted((x1, y1, x2, y2))])

    def _converted(self, box: Box) -> Box:
        if self.name == PADDED:
            return boxes.from_padded(box, self.width, self.height)
        return boxes.from_pixels(box, *((1000, 1000) if self.name == THOUSAND else self.resized))


def frame(setting: str, model: config.Model, width: int, height: int) -> Frame | None:
    """The frame of the boxes in replies about a picture; None where they are taken as they are.

    Args:
        setting: `evaluate.box_frame`; "family" is the frame of the model's family.
        model: its family and pixel budget.
        width: of the picture in pixels; 0 where it is not known, and then no box is scored.
        height: of the picture in pixels.
    """
    name = named(setting, model)
    if name == IMAGE or width < 1 or height < 1:
        return None
    return Frame(name, width, height, resized(width, height, model))


def named(setting: str, model: config.Model) -> str:
    """The name of the frame that a setting means for a model."""
    return FAMILIES[model.family].box_frame if setting == "family" else setting


def resized(width: int, height: int, model: config.Model) -> tuple[int, int]:
    """Width and height to which the Qwen families' processors resize a picture (transformers, `smart_resize`)."""
    side = FAMILIES[model.family].side
    least = min(_LEAST, model.max_pixels)
    w, h = max(side, round(width / side) * side), max(side, round(height / side) * side)
    if w * h > model.max_pixels:
        scale = math.sqrt(width * height / model.max_pixels)
        w, h = (max(side, math.floor(edge / scale / side) * side) for edge in (width, height))
    elif w * h < least:
        scale = math.sqrt(least / (width * height))
        w, h = (math.ceil(edge * scale / side) * side for edge in (width, height))
    return w, h


def budget(model: config.Model) -> int | None:
    """The most pixels that a model sees of a picture; None where its family sees all pictures at one size."""
    return None if FAMILIES[model.family].pictures in ("square", "stretched") else model.max_pixels


def side_seen(width: int, height: int, model: config.Model) -> float | None:
    """The part of a picture's side at which a model sees it: 1, or less where it has more pixels than the budget.

    None where that is not told by the budget alone: the family sees all pictures at one size, or in tiles.
    """
    if FAMILIES[model.family].pictures != "budget":
        return None
    return min(1.0, math.sqrt(model.max_pixels / (width * height)))


def within_budget(picture: bytes, model: config.Model) -> bytes:
    """A picture's file, at the size that the processor would make of it where it has more pixels than the budget.

    Families that see all pictures at one size have no budget.
    """
    image = images.rgb(picture)
    if FAMILIES[model.family].pictures != "budget" or image.width * image.height <= model.max_pixels:
        return picture
    made = io.BytesIO()
    size = resized(image.width, image.height, model)
    image.resize(size, Image.Resampling.BICUBIC).save(made, format="PNG")
    return made.getvalue()


def reaches_out(question: Question) -> bool:
    """Whether a box of a question's reference stands out of its picture by more than a pixel."""
    if question.width < 1 or question.height < 1 or not question.reference:
        return False
    truth = json.loads(question.reference)
    if isinstance(truth, list):  # RefCOCO: one box in 0..1
        found = [boxes.to_pixels(truth, question.width, question.height)]
    else:  # OVDEval: corner and size in pixels
        found = [(x, y, x + w, y + h) for _, (x, y, w, h), *_ in truth.get("objects", ())]
    return any(
        min(x1, y1) < -1 or x2 > question.width + 1 or y2 > question.height + 1 for x1, y1, x2, y2 in found
    )


def _at_edge(value: float) -> float:
    """A coordinate that stands out a little, at the edge: models overshoot by a few units."""
    return min(max(value, 0.0), 1.0) if -_SLACK <= value <= 1 + _SLACK else value
