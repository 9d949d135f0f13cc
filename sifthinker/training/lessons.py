"""What the miniature is taught about a scene: short questions and answers, and no chains.

Everything is asked in the pipeline's prompt (`prompts.policy_messages`, both pictures or the photograph alone) without
the request for a chain. Boxes and depths are written as chains write them (`prompts.regions_json`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from sifthinker import prompts
from sifthinker.depth import box_depth
from sifthinker.miniature import build
from sifthinker.sample import Region
from sifthinker.scenes import questions, render
from sifthinker.training.pool import Seen

# kind: how often, of all lessons
SHARES = {
    "list": 0.10,  # all things with box, depth and name
    "where": 0.26,  # a name -> its box and depth
    "all": 0.05,  # a shape, a colour -> all such boxes
    "look": 0.12,  # a question -> the boxes of what it is about
    "what": 0.12,  # a box -> its name
    "deep": 0.07,  # a box -> its mean depth
    "plain": 0.28,  # the scenes' questions, a third of those that allow it with options
}
_OPTIONS = {
    "color": [*render.COLORS],
    "shape": [*render.SHAPES],
    "side": ["left", "right"],
    "order": ["in front", "behind"],
}


@dataclass(frozen=True, slots=True)
class Lesson:
    kind: str
    asked: str
    answer: str


def draw(seen: Seen, rng: np.random.Generator, count: int) -> list[Lesson]:
    """`count` lessons about a scene, at most one of them a list."""
    kinds = [str(kind) for kind in rng.choice(list(SHARES), size=count, p=list(SHARES.values()))]
    kept = [kind for index, kind in enumerate(kinds) if kind != "list" or "list" not in kinds[:index]]
    return [lesson for kind in kept if (lesson := _draw(kind, seen, rng)) is not None]


def plain(question: dict[str, Any], rng: np.random.Generator, options: bool) -> Lesson:
    """One of the scenes' questions, also as the benchmarks offer their options."""
    text, answer, kind = question["text"], question["answer"], question["kind"]
    if options and kind in _OPTIONS:
        others = [option for option in _OPTIONS[kind] if option != answer]
        offered = [str(option) for option in rng.permutation(others)[:3]]
        right = int(rng.integers(len(offered) + 1))
        offered.insert(right, answer)
        if rng.random() < 0.5:
            text = text.replace("to the left or to the right of", "on the left or right side of")
        joint = "\n" if rng.random() < 0.5 else " "
        text = joint.join([text, *questions.lettered(offered), questions.LETTER])
        answer = "ABCD"[right]
    elif options and kind == "count":
        text = f"{text} Answer with a number."
    return Lesson(kind, text, answer)


def _draw(kind: str, seen: Seen, rng: np.random.Generator) -> Lesson | None:
    things = seen.facts["things"]
    thing = things[rng.integers(len(things))]
    if kind == "list":
        ordered = sorted(things, key=lambda thing: float(thing["depth"]))
        listed = [
            {
                "bbox_2d": [round(value, 3) for value in thing["box"]],
                "depth": round(thing["depth"], 3),
                "label": questions.phrase(thing["size"], thing["color"], thing["shape"]),
            }
            for thing in ordered
        ]
        return Lesson(kind, build.LIST, json.dumps(listed))
    if kind == "where":
        if rng.random() < 0.15:
            extremes = [q for q in seen.facts["questions"] if q["kind"] == "nearest"]
            if not extremes:
                return None
            question = extremes[rng.integers(len(extremes))]
            words = "closest to" if question["balance"] == "in front" else "farthest from"
            thing, called = things[question["things"][0]], f"object {words} the camera"
        elif thing["names"]:
            called = str(rng.choice(thing["names"]))
        else:
            return None
        form = build.WHERE if rng.random() < 0.7 else prompts.REC_QUESTION
        return Lesson(kind, form.format(query=called), _areas([thing]))
    if kind == "all":
        keys = [("shape",), ("color",), ("color", "shape")][rng.integers(3)]
        values = {key: thing[key] for key in keys}
        same = [other for other in things if all(other[key] == values[key] for key in keys)]
        return Lesson(kind, build.WHERE_ALL.format(query=questions.phrase(**values)), _areas(same))
    if kind == "look":
        question = _balanced(seen, rng)
        if not question["things"]:
            return None
        looked = [things[index] for index in question["things"]]
        return Lesson(kind, build.LOOK.format(query=question["text"]), _areas(looked))
    if kind == "what":
        place = json.dumps([round(value, 3) for value in thing["box"]])
        named = questions.phrase(thing["size"], thing["color"], thing["shape"])
        return Lesson(kind, build.WHAT.format(query=place), named)
    if kind == "deep":
        box = _some_box(thing["box"], rng)
        depth = box_depth((1 - seen.depth / 255).astype(np.float32), box)
        return Lesson(kind, build.HOW_DEEP.format(query=json.dumps(box)), json.dumps(round(depth, 3)))
    return plain(_balanced(seen, rng), rng, options=bool(rng.random() < 0.35))


def _balanced(seen: Seen, rng: np.random.Generator) -> dict[str, Any]:
    """A question of a kind, and within it of an answer, that are as likely as any other of the scene."""
    asked: list[dict[str, Any]] = seen.facts["questions"]
    kinds = sorted({question["kind"] for question in asked})
    kind = kinds[rng.integers(len(kinds))]
    answers = sorted({question["balance"] for question in asked if question["kind"] == kind})
    answer = answers[rng.integers(len(answers))]
    fitting = [q for q in asked if q["kind"] == kind and q["balance"] == answer]
    return fitting[rng.integers(len(fitting))]


def _areas(things: list[dict[str, Any]]) -> str:
    return prompts.regions_json([Region(tuple(thing["box"]), thing["depth"]) for thing in things])


def _some_box(box: list[float], rng: np.random.Generator) -> list[float]:
    """The whole picture, a thing's box, or one that reaches some of the way from it to the borders."""
    way = [1.0, 0.0, *rng.random(2)][rng.integers(4)]
    grown = [value * (1 - way) + edge * way for value, edge in zip(box, (0, 0, 1, 1), strict=True)]
    return [round(float(value), 3) for value in grown]
