"""What the miniature is taught about a scene: short questions and answers, and no chains.

Everything is asked in the pipeline's prompt (`prompts.policy_messages`, both pictures or the photograph alone) without
the request for a chain. Boxes and depths are written as chains write them (`prompts.regions_json`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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

_RARE = 2.0  # how much more often lists of several are asked for than those of one, where a scene has both
_EVERYTHING = 0.1  # share of the questions for all of a kind that ask for all objects
_WITH_OPTIONS = 0.35  # share of the plain questions that come with options, where they allow it
_PIECES = re.compile(r"(?=\n<text>)|(?<=</text>)(?=\n<area>)|(?<=<answer>\n)")


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question about a scene with its answer, and what to look at meanwhile."""

    kind: str
    asked: str
    answer: str
    about: tuple[tuple[int, ...], ...] = ()
    """Of each of the answer's boxes, or of the whole answer if it has none: the things to look at."""
    among: tuple[int, ...] = ()
    """All things that the answer is one of."""
    said: str = ""
    """The model's own words that the answer goes on from. They are not learnt, and its turn does not end after it."""


# Of a scene, about one of its things or about a question of its; None where there is none.
Draw = Callable[[Seen, int, np.random.Generator], Lesson | None]


def plain(question: dict[str, Any], rng: np.random.Generator, options: bool) -> Lesson:
    """One of the scenes' questions, also as the benchmarks offer their options."""
    text, answer, kind = question["text"], question["answer"], question["kind"]
    if options:
        text, answer = questions.offering(kind, text, answer, rng)
    return Lesson(kind, text, answer, (tuple(question["things"]),))


def _listed(seen: Seen, index: int, rng: np.random.Generator) -> Lesson:
    things = seen.facts["things"]
    order = sorted(range(len(things)), key=lambda index: float(things[index]["depth"]))
    listed = [
        {
            "bbox_2d": [round(value, 3) for value in things[index]["box"]],
            "depth": round(things[index]["depth"], 3),
            "label": full_name(things[index]),
        }
        for index in order
    ]
    return Lesson("list", build.LIST, json.dumps(listed), tuple((index,) for index in order))


def _where(seen: Seen, index: int, rng: np.random.Generator) -> Lesson | None:
    thing = seen.facts["things"][index]
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
    return boxes("where", form.format(query=called), seen, [index])


def classes(seen: Seen) -> list[tuple[str, list[int]]]:
    """What the scene's things can be asked for together ("red cubes"), and which they are; at least one."""
    things = seen.facts["things"]
    found = [
        (questions.phrase(**values), [i for i, thing in enumerate(things) if values.items() <= thing.items()])
        for values in questions.CLASSES
    ]
    return [(called, same) for called, same in found if same]


def _all(seen: Seen, index: int, rng: np.random.Generator) -> Lesson:
    everything, *some = classes(
        seen
    )  # all objects are the largest number in every scene, and ask for no choice
    called, same = everything if rng.random() < _EVERYTHING else by_number(some, rng)
    return boxes("all", build.WHERE_ALL.format(query=called), seen, same)


def _beside(seen: Seen, index: int, rng: np.random.Generator) -> Lesson | None:
    if not seen.facts["beside"]:
        return None
    place, there = by_number(seen.facts["beside"], rng)
    return boxes("beside", build.WHICH.format(query=place), seen, there)


def lists(seen: Seen, rng: np.random.Generator) -> Iterator[tuple[str, str, list[int]]]:
    """Lists to ask for, as kind, question and things: of each kind, one of every number of things that there is."""
    kinds = {
        "class": (
            build.WHERE_ALL,
            [(called, found) for called, found in classes(seen) if called != "object"],
        ),
        "everything": (
            build.WHERE_ALL,
            [(called, found) for called, found in classes(seen) if called == "object"],
        ),
        "beside": (build.WHICH, seen.facts["beside"]),
    }
    for kind, (form, sets) in kinds.items():
        for number in sorted({len(found) for _, found in sets}):
            fitting = [(called, found) for called, found in sets if len(found) == number]
            called, found = fitting[rng.integers(len(fitting))]
            yield kind, form.format(query=called), found


def what(seen: Seen, rng: np.random.Generator) -> Lesson:
    """What is at the box of one of the scene's things."""
    return _what(seen, int(rng.integers(len(seen.facts["things"]))), rng)


def by_number(
    sets: Sequence[tuple[str, list[int]]], rng: np.random.Generator, rare: float = _RARE, most: int = 2
) -> tuple[str, list[int]]:
    """One of some named sets of things: first how many it has, then which of those.

    Each thing more, up to `most`, makes a number `rare` times as likely.
    """
    numbers = sorted({len(found) for _, found in sets})
    weights = np.array([rare ** (min(number, most) - 1) for number in numbers])
    number = numbers[rng.choice(len(numbers), p=weights / weights.sum())]
    fitting = [(called, found) for called, found in sets if len(found) == number]
    return fitting[rng.integers(len(fitting))]


def _look(seen: Seen, index: int, rng: np.random.Generator) -> Lesson | None:
    question = _balanced(seen, rng)
    if not question["things"]:
        return None
    return boxes("look", build.LOOK.format(query=question["text"]), seen, question["things"])


def _what(seen: Seen, index: int, rng: np.random.Generator) -> Lesson:
    thing = seen.facts["things"][index]
    place = json.dumps([round(value, 3) for value in thing["box"]])
    return Lesson("what", build.WHAT.format(query=place), full_name(thing), ((index,),))


def _deep(seen: Seen, index: int, rng: np.random.Generator) -> Lesson:
    box = _some_box(seen.facts["things"][index]["box"], rng)
    depth = box_depth((1 - seen.depth / 255).astype(np.float32), box)
    return Lesson("deep", build.HOW_DEEP.format(query=json.dumps(box)), json.dumps(round(depth, 3)))


def _then(seen: Seen, index: int, rng: np.random.Generator) -> Lesson | None:
    question = _balanced(seen, rng)
    if not question["things"]:
        return None
    asked = plain(question, rng, options=bool(rng.random() < _WITH_OPTIONS))
    looked = boxes(
        "then", f"{build.LOOK.format(query=asked.asked)} Then answer it.", seen, question["things"]
    )
    return replace(looked, answer=f"{looked.answer}\n{asked.answer}")


def _say(seen: Seen, index: int, rng: np.random.Generator) -> Lesson:
    said = aside(rng)
    return Lesson("say", build.SAY.format(query=said), said)


def _plain(seen: Seen, index: int, rng: np.random.Generator) -> Lesson:
    return plain(_balanced(seen, rng), rng, options=bool(rng.random() < _WITH_OPTIONS))


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
    # The last piece is the made-up answer: it follows its `<answer>` only where it is alone.
    end = min(start + int(rng.integers(1, 3)), max(start + 1, len(pieces) - 1))
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


def boxes(kind: str, asked: str, seen: Seen, indices: Sequence[int]) -> Lesson:
    """A lesson whose answer is the boxes of some things, nearest first: without an order, none could be learnt."""
    things = seen.facts["things"]
    order = sorted(indices, key=lambda index: float(things[index]["depth"]))
    regions = [Region(tuple(things[index]["box"]), things[index]["depth"]) for index in order]
    return Lesson(kind, asked, prompts.regions_json(regions), tuple((index,) for index in order))


def full_name(thing: Mapping[str, Any]) -> str:
    """Size, colour and shape."""
    return questions.phrase(thing["size"], thing["color"], thing["shape"])


def _some_box(box: list[float], rng: np.random.Generator) -> list[float]:
    """The whole picture, a thing's box, or one that reaches some of the way from it to the borders."""
    way = [1.0, 0.0, *rng.random(2)][rng.integers(4)]
    grown = [value * (1 - way) + edge * way for value, edge in zip(box, (0, 0, 1, 1), strict=True)]
    return [round(float(value), 3) for value in grown]


KINDS: dict[str, Draw] = {
    "list": _listed,
    "where": _where,
    "all": _all,
    "beside": _beside,
    "look": _look,
    "what": _what,
    "deep": _deep,
    "then": _then,
    "say": _say,
    "plain": _plain,
}
