"""What the miniature is taught about a scene: short questions and answers, and no chains.

Everything is asked in the pipeline's prompt (`prompts.policy_messages`, both pictures or the photograph alone) without
the request for a chain. Boxes and depths are written as chains write them (`prompts.regions_json`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sifthinker.core import prompts
from sifthinker.core.depth_maps import box_depth
from sifthinker.core.records import Region
from sifthinker.llm.standin import replies
from sifthinker.pretraining import build
from sifthinker.pretraining.scene_pool import Seen
from sifthinker.scenes import questions, render

# kind: how often, of all lessons
SHARES = {
    "list": 0.10,  # all things with box, depth and name
    "where": 0.24,  # a name -> its box and depth
    "all": 0.05,  # a shape, a colour -> all such boxes
    "look": 0.12,  # a question -> the boxes of what it is about
    "what": 0.12,  # a box -> its name
    "deep": 0.07,  # a box -> its mean depth
    "plain": 0.26,  # the scenes' questions, a third of those that allow it with options
    "say": 0.04,  # a piece of a chain that is not about the scene -> the same, so that its words are known
}


# the same for the second training: looking first, then the answer
FAR = {**SHARES, "plain": 0.16, "then": 0.20, "what": 0.06, "where": 0.18, "say": 0.06}

_PIECES = re.compile(r"(?=\n<text>)|(?<=</text>)(?=\n<area>)|(?<=<answer>\n)")


@dataclass(frozen=True, slots=True)
class Lesson:
    kind: str
    asked: str
    answer: str
    about: tuple[tuple[int, ...], ...] = ()
    """Of each of the answer's boxes, or of the whole answer if it has none: the things to look at."""


def draw(
    seen: Seen, rng: np.random.Generator, count: int, shares: Mapping[str, float] = SHARES
) -> list[Lesson]:
    """`count` lessons about a scene, at most one of them a list."""
    kinds = [str(kind) for kind in rng.choice(list(shares), size=count, p=list(shares.values()))]
    kept = [kind for index, kind in enumerate(kinds) if kind != "list" or "list" not in kinds[:index]]
    return [lesson for kind in kept if (lesson := _draw(kind, seen, rng)) is not None]


def plain(question: dict[str, Any], rng: np.random.Generator, options: bool) -> Lesson:
    """One of the scenes' questions, also as the benchmarks offer their options."""
    text, answer, kind = question["text"], question["answer"], question["kind"]
    if options:
        text, answer = questions.offering(kind, text, answer, rng)
    return Lesson(kind, text, answer, (tuple(question["things"]),))


def _draw(kind: str, seen: Seen, rng: np.random.Generator) -> Lesson | None:
    things = seen.facts["things"]
    index = int(rng.integers(len(things)))
    thing = things[index]
    if kind == "list":
        order = sorted(range(len(things)), key=lambda index: float(things[index]["depth"]))
        ordered = [things[index] for index in order]
        listed = [
            {
                "bbox_2d": [round(value, 3) for value in thing["box"]],
                "depth": round(thing["depth"], 3),
                "label": questions.phrase(thing["size"], thing["color"], thing["shape"]),
            }
            for thing in ordered
        ]
        return Lesson(kind, build.LIST, json.dumps(listed), tuple((index,) for index in order))
    if kind == "where":
        if rng.random() < 0.15:
            extremes = [q for q in seen.facts["questions"] if q["kind"] == "nearest"]
            if not extremes:
                return None
            question = extremes[rng.integers(len(extremes))]
            words = "closest to" if question["balance"] == "in front" else "farthest from"
            index, called = question["things"][0], f"object {words} the camera"
        elif thing["names"]:
            called = str(rng.choice(thing["names"]))
        else:
            return None
        form = build.WHERE if rng.random() < 0.7 else prompts.REC_QUESTION
        return _boxes(kind, form.format(query=called), things, [index])
    if kind == "all":
        keys = [("shape",), ("color",), ("color", "shape")][rng.integers(3)]
        values = {key: thing[key] for key in keys}
        same = [i for i, other in enumerate(things) if all(other[key] == values[key] for key in keys)]
        return _boxes(kind, build.WHERE_ALL.format(query=questions.phrase(**values)), things, same)
    if kind == "look":
        question = _balanced(seen, rng)
        if not question["things"]:
            return None
        return _boxes(kind, build.LOOK.format(query=question["text"]), things, question["things"])
    if kind == "what":
        place = json.dumps([round(value, 3) for value in thing["box"]])
        named = questions.phrase(thing["size"], thing["color"], thing["shape"])
        return Lesson(kind, build.WHAT.format(query=place), named, ((index,),))
    if kind == "deep":
        box = _some_box(thing["box"], rng)
        depth = box_depth((1 - seen.depth / 255).astype(np.float32), box)
        return Lesson(kind, build.HOW_DEEP.format(query=json.dumps(box)), json.dumps(round(depth, 3)))
    if kind == "then":
        question = _balanced(seen, rng)
        if not question["things"]:
            return None
        asked = plain(question, rng, options=bool(rng.random() < 0.35))
        looked = _boxes(
            kind, f"{build.LOOK.format(query=asked.asked)} Then answer it.", things, question["things"]
        )
        return replace(looked, answer=f"{looked.answer}\n{asked.answer}")
    if kind == "say":
        said = aside(rng)
        return Lesson(kind, build.SAY.format(query=said), said)
    return plain(_balanced(seen, rng), rng, options=bool(rng.random() < 0.35))


def aside(rng: np.random.Generator) -> str:
    """One or two pieces of a chain, about nothing: areas, texts, the last text with its tags, the answer."""
    steps = [[Region((0.0, 0.0, 1.0, 1.0), float(rng.random()))]]
    for _ in range(2):
        step = []
        for _ in range(int(rng.choice([1, 1, 1, 2, 3, 4]))):
            (x1, x2), (y1, y2) = np.sort(rng.random((2, 2)), axis=1).tolist()
            step.append(Region((x1, y1, x2, y2), float(rng.random())))
        steps.append(step)
    answer = str(rng.choice([*render.COLORS, *render.SHAPES, "yes", "no", "left", "right", "1", "2", "3"]))
    text = replies.chain([prompts.regions_json(step) for step in steps], answer, rng.bytes(8), "fenceless")
    pieces = _PIECES.split(text)
    start = int(rng.integers(len(pieces)))
    end = min(
        start + int(rng.integers(1, 3)), max(start + 1, len(pieces) - 1)
    )  # `<answer>` before no made-up one
    return "".join(pieces[start:end]).lstrip("\n")


def _balanced(seen: Seen, rng: np.random.Generator) -> dict[str, Any]:
    """A question of a kind, and within it of an answer, that are as likely as any other of the scene."""
    asked: list[dict[str, Any]] = seen.facts["questions"]
    kinds = sorted({question["kind"] for question in asked})
    kind = kinds[rng.integers(len(kinds))]
    answers = sorted({question["balance"] for question in asked if question["kind"] == kind})
    answer = answers[rng.integers(len(answers))]
    fitting = [q for q in asked if q["kind"] == kind and q["balance"] == answer]
    return fitting[rng.integers(len(fitting))]


def _boxes(kind: str, asked: str, things: list[dict[str, Any]], indices: Sequence[int]) -> Lesson:
    regions = [Region(tuple(things[index]["box"]), things[index]["depth"]) for index in indices]
    return Lesson(kind, asked, prompts.regions_json(regions), tuple((index,) for index in indices))


def _some_box(box: list[float], rng: np.random.Generator) -> list[float]:
    """The whole picture, a thing's box, or one that reaches some of the way from it to the borders."""
    way = [1.0, 0.0, *rng.random(2)][rng.integers(4)]
    grown = [value * (1 - way) + edge * way for value, edge in zip(box, (0, 0, 1, 1), strict=True)]
    return [round(float(value), 3) for value in grown]
