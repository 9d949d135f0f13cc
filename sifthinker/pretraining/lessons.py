"""What the miniature is taught about a scene: short questions and answers, and no chains.

Everything is asked in the pipeline's prompt (`prompts.policy_messages`, both pictures or the photograph alone) without
the request for a chain. Boxes and depths are written as chains write them (`prompts.regions_json`).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sifthinker.core import prompts
from sifthinker.core.depth_maps import box_depth
from sifthinker.core.records import Region
from sifthinker.llm.standin import replies, seeing
from sifthinker.pretraining import build
from sifthinker.pretraining.scene_pool import Seen
from sifthinker.scenes import questions, render

# The share of each kind in all lessons of the first training.
SHARES = {
    "list": 0.10,  # all things with box, depth and name
    "where": 0.24,  # a name -> its box and depth
    "all": 0.05,  # a shape, a colour -> all such boxes, nearest first
    "look": 0.12,  # a question -> the boxes of what it is about
    "what": 0.12,  # a box -> its name
    "deep": 0.07,  # a box -> its mean depth
    "plain": 0.26,  # the scenes' questions, a third of those that allow it with options
    "say": 0.04,  # a piece of a chain that is not about the scene -> the same, so that its words are known
}

# The same for the second training, with "then": the boxes of what a question is about, and then its answer.
FAR = {**SHARES, "plain": 0.16, "then": 0.20, "what": 0.06, "where": 0.18, "say": 0.06}

# The same for the third, with "beside": a place beside a thing -> the boxes there, nearest first. They are the single
# steps of counting and comparing; no lesson puts two of them together.
LISTS = {
    "list": 0.10,
    "all": 0.24,
    "beside": 0.20,
    "where": 0.11,
    "look": 0.05,
    "what": 0.08,
    "deep": 0.03,
    "plain": 0.08,
    "then": 0.08,
    "say": 0.03,
}

# The same for the fourth, with "next": a thing of a kind -> the next of them to its right, or that there is none. Lists
# need the kind far from where it was said; here it is said right before each look, as in a chain.
NEXT = {
    "next": 0.74,
    "all": 0.02,
    "beside": 0.02,
    "where": 0.06,
    "look": 0.03,
    "what": 0.04,
    "deep": 0.01,
    "plain": 0.04,
    "then": 0.03,
    "say": 0.01,
}

_RARE = 2.0  # how much more often lists of several are asked for than those of one, where a scene has both
_RARE_NEXT = 2.5  # the same for the next of two, and its square of three and more
_CHOICE = 2.5  # how much more often the next is asked for where several are left behind one, and the nearest is meant
_ANY = 0.25  # share of the questions for the next that ask for any object: there, only the place decides
_EVERYTHING = 0.1  # share of the questions for all of a kind that ask for all objects
_PLACES = 0.2  # share of the questions for the next that ask for things beside another
_CLOSE = 0.1  # distance under which the next is hard to tell
_DRAWS, _EASY = (
    3,
    0.4,
)  # how often such a lesson is looked for, and the share of others that are kept meanwhile
_NOT_EXACT = 0.01, 0.02  # how far the box and the depth to go on from are off, at most
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
    """A lesson of a kind, or None where the scene has none: about one of its things, or about a question of its."""
    return _KINDS[kind](seen, int(rng.integers(len(seen.facts["things"]))), rng)


def _listed(seen: Seen, index: int, rng: np.random.Generator) -> Lesson:
    things = seen.facts["things"]
    order = sorted(range(len(things)), key=lambda index: float(things[index]["depth"]))
    listed = [
        {
            "bbox_2d": [round(value, 3) for value in things[index]["box"]],
            "depth": round(things[index]["depth"], 3),
            "label": _called(things[index]),
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
    return _boxes("where", form.format(query=called), seen, [index])


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
    called, same = everything if rng.random() < _EVERYTHING else _by_number(some, rng)
    return _boxes("all", build.WHERE_ALL.format(query=called), seen, same)


def _beside(seen: Seen, index: int, rng: np.random.Generator) -> Lesson | None:
    if not seen.facts["beside"]:
        return None
    place, there = _by_number(seen.facts["beside"], rng)
    return _boxes("beside", build.WHICH.format(query=place), seen, there)


def in_turn(things: Sequence[Mapping[str, Any]], indices: Sequence[int]) -> list[int]:
    """Things in the order in which a chain looks at them: from left to right by the left edges of their boxes."""
    return sorted(indices, key=lambda index: float(things[index]["box"][0]))


def after(called: str, before: str) -> str:
    """The question for the next of some things to the right of a region, as a model wrote it."""
    (region,) = json.loads(before)
    return build.NEXT.format(query=called, region=before, edge=seeing.edge(region["bbox_2d"]))


def _next(seen: Seen, index: int, rng: np.random.Generator) -> Lesson | None:
    """The first of some things from the left, or the next behind one of them, or that there are no more.

    Where edges are close to each other, the next is hard to tell. Such lessons are drawn more often than there are.
    """
    things = seen.facts["things"]
    sets = [(f"object {place}", found) for place, found in seen.facts["beside"]]
    if not sets or rng.random() >= _PLACES:
        everything, *some = classes(seen)
        sets = [everything] if rng.random() < _ANY else some
    for _ in range(_DRAWS):
        called, same = _by_number(sets, rng, _RARE_NEXT, 3)
        order = in_turn(things, same)
        edges = [float(things[index]["box"][0]) for index in order]
        place = _place(edges, rng)
        gap = _gap(edges, place)
        if gap < _CLOSE or rng.random() < _EASY:
            break
    if gap < questions.APART:
        return None  # nobody could say which is the next
    asked = build.FIRST.format(query=called)
    if place:
        asked = after(called, _about(things[order[place - 1]], rng))
    if place == len(order):
        return Lesson("next", asked, build.NO_MORE, among=tuple(order))
    return replace(_boxes("next", asked, seen, [order[place]]), among=tuple(order))


def _place(edges: Sequence[float], rng: np.random.Generator) -> int:
    """Which of the things is asked for, from 0; one more than there are: that there are no more."""
    weights = np.ones(len(edges) + 1)
    weights[1 : max(len(edges) - 1, 1)] = _CHOICE
    weights[[_gap(edges, place) < _CLOSE for place in range(len(weights))]] *= _CHOICE
    return int(rng.choice(len(weights), p=weights / weights.sum()))


def _gap(edges: Sequence[float], place: int) -> float:
    """The smallest distance of left edges that decides which thing is meant: from the one before to the one after it."""
    about = edges[max(place - 1, 0) : place + 2] if place < len(edges) else edges[-2:]
    return min((b - a for a, b in itertools.pairwise(about)), default=1.0)


def _about(thing: Mapping[str, Any], rng: np.random.Generator) -> str:
    """A thing's region as a model would have written it: not quite exact."""
    box, deep = (np.array(values) for values in (thing["box"], [thing["depth"]]))
    box, deep = (
        np.clip(exact + rng.uniform(-off, off, exact.shape), 0, 1).round(3).tolist()
        for exact, off in zip((box, deep), _NOT_EXACT, strict=True)
    )
    return prompts.regions_json([Region(tuple(box), deep[0])])


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


def turns(seen: Seen, rng: np.random.Generator) -> Iterator[tuple[str, list[int]]]:
    """Things to be looked at in turn, as name and things: of every number of things that there is, one kind.

    Only where it is clear which comes next (`questions.APART`).
    """
    things = seen.facts["things"]
    sets = [
        (called, found)
        for called, found in classes(seen)
        if called != "object" and _clear([things[index]["box"][0] for index in in_turn(things, found)])
    ]
    for number in sorted({len(found) for _, found in sets}):
        fitting = [(called, found) for called, found in sets if len(found) == number]
        yield fitting[rng.integers(len(fitting))]


def _clear(edges: Sequence[float]) -> bool:
    """Whether it can be said which of the left edges comes next, for each of them."""
    return all(b - a >= questions.APART for a, b in itertools.pairwise(edges))


def what(seen: Seen, rng: np.random.Generator) -> Lesson:
    """What is at the box of one of the scene's things."""
    return _what(seen, int(rng.integers(len(seen.facts["things"]))), rng)


def _by_number(
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
    return _boxes("look", build.LOOK.format(query=question["text"]), seen, question["things"])


def _what(seen: Seen, index: int, rng: np.random.Generator) -> Lesson:
    thing = seen.facts["things"][index]
    place = json.dumps([round(value, 3) for value in thing["box"]])
    return Lesson("what", build.WHAT.format(query=place), _called(thing), ((index,),))


def _deep(seen: Seen, index: int, rng: np.random.Generator) -> Lesson:
    box = _some_box(seen.facts["things"][index]["box"], rng)
    depth = box_depth((1 - seen.depth / 255).astype(np.float32), box)
    return Lesson("deep", build.HOW_DEEP.format(query=json.dumps(box)), json.dumps(round(depth, 3)))


def _then(seen: Seen, index: int, rng: np.random.Generator) -> Lesson | None:
    question = _balanced(seen, rng)
    if not question["things"]:
        return None
    asked = plain(question, rng, options=bool(rng.random() < _WITH_OPTIONS))
    looked = _boxes(
        "then", f"{build.LOOK.format(query=asked.asked)} Then answer it.", seen, question["things"]
    )
    return replace(looked, answer=f"{looked.answer}\n{asked.answer}")


def _say(seen: Seen, index: int, rng: np.random.Generator) -> Lesson:
    said = aside(rng)
    return Lesson("say", build.SAY.format(query=said), said)


def _plain(seen: Seen, index: int, rng: np.random.Generator) -> Lesson:
    return plain(_balanced(seen, rng), rng, options=bool(rng.random() < _WITH_OPTIONS))


_KINDS: dict[str, Callable[[Seen, int, np.random.Generator], Lesson | None]] = {
    "list": _listed,
    "where": _where,
    "all": _all,
    "beside": _beside,
    "next": _next,
    "look": _look,
    "what": _what,
    "deep": _deep,
    "then": _then,
    "say": _say,
    "plain": _plain,
}


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


def _boxes(kind: str, asked: str, seen: Seen, indices: Sequence[int]) -> Lesson:
    """A lesson whose answer is the boxes of some things, nearest first: without an order, none could be learnt."""
    things = seen.facts["things"]
    order = sorted(indices, key=lambda index: float(things[index]["depth"]))
    regions = [Region(tuple(things[index]["box"]), things[index]["depth"]) for index in order]
    return Lesson(kind, asked, prompts.regions_json(regions), tuple((index,) for index in order))


def _called(thing: dict[str, Any]) -> str:
    return questions.phrase(thing["size"], thing["color"], thing["shape"])


def _some_box(box: list[float], rng: np.random.Generator) -> list[float]:
    """The whole picture, a thing's box, or one that reaches some of the way from it to the borders."""
    way = [1.0, 0.0, *rng.random(2)][rng.integers(4)]
    grown = [value * (1 - way) + edge * way for value, edge in zip(box, (0, 0, 1, 1), strict=True)]
    return [round(float(value), 3) for value in grown]
