"""The single steps of chains that look at one thing after another: what is said before and after a look, and the look.

No lesson puts two of them together. What a chain copies, it learns to copy here: the name of what is asked for, the left
edge of the box that it has just written, and the count.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sifthinker.core import prompts
from sifthinker.core.records import Region
from sifthinker.llm.standin import seeing
from sifthinker.pretraining import build, lessons
from sifthinker.pretraining.lessons import Draw, Lesson
from sifthinker.pretraining.scene_pool import Seen
from sifthinker.scenes import questions

_RARE = 2.5  # how much more often the next of two is asked for than that of one; its square of three and more
_CHOICE = 2.5  # how much more often the next is asked for where several are left behind one, and the nearest is meant
_END = 1.5  # how much more often the next is asked for where there is none
_ANY = 0.25  # share of the questions for the next that ask for any object: there, only the place decides
_PLACES = 0.2  # share of the questions for the next that ask for things beside another
_CLOSE = 0.1  # distance under which the next is hard to tell
_DRAWS, _EASY = (
    3,
    0.4,
)  # how often such a lesson is looked for, and the share of others that are kept meanwhile
_NOT_EXACT = 0.01, 0.02  # how far the box and the depth to go on from are off, at most


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
    sets = _sets(seen, rng)
    for _ in range(_DRAWS):
        called, same = lessons.by_number(sets, rng, _RARE, 3)
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
    return replace(lessons.boxes("next", asked, seen, [order[place]]), among=tuple(order))


def _sets(seen: Seen, rng: np.random.Generator) -> list[tuple[str, list[int]]]:
    """What can be looked at in turn, as name and things: kinds of things, all of them, or those beside another."""
    sets = [(f"object {place}", found) for place, found in seen.facts["beside"]]
    if not sets or rng.random() >= _PLACES:
        everything, *some = lessons.classes(seen)
        sets = [everything] if rng.random() < _ANY else some
    return sets


def _said(seen: Seen, index: int, rng: np.random.Generator) -> Lesson:
    """What is said after a look: what was seen, which it is, and what to look for from its edge on."""
    things = seen.facts["things"]
    called, same = lessons.by_number(_sets(seen, rng), rng, _RARE, 3)
    order = in_turn(things, same)
    place = int(rng.integers(len(order)))
    before = build.FIRST.format(query=called)
    if place:
        before = _told(things[order[place - 1]], place, called, _about(things[order[place - 1]], rng))
    thing = things[order[place]]
    region = _about(thing, rng)
    answer = _told(thing, place + 1, called, region)
    return Lesson("said", build.SEEN.format(before=before, region=region), answer, ((order[place],),))


def _told(thing: Mapping[str, Any], number: int, called: str, region: str) -> str:
    ((x1, *_),) = (found["bbox_2d"] for found in json.loads(region))
    return f"{lessons.full_name(thing)}, {number}. {seeing.NEXT.format(query=called, edge=seeing.edge([x1]))}"


def _begun(seen: Seen, index: int, rng: np.random.Generator) -> Lesson:
    """What a question has looked for first, or for the second of two kinds that it compares."""
    if rng.random() < 0.5:
        (called, _), (other, _) = (lessons.by_number(lessons.classes(seen)[1:], rng) for _ in range(2))
        asked = questions.MORE.format(word=rng.choice(["more", "fewer"]), one=called, other=other)
    else:
        called, _ = lessons.by_number(_sets(seen, rng), rng)
        asked = questions.how_many(called)
    groups = seeing.counted(asked)
    which = int(rng.integers(len(groups)))
    return Lesson("begun", build.BEGIN[which].format(query=asked), build.FIRST.format(query=groups[which]))


def _tally(seen: Seen, index: int, rng: np.random.Generator) -> Lesson:
    """What two counts say of a question that compares them."""
    (one, _), (other, _) = (lessons.by_number(lessons.classes(seen)[1:], rng) for _ in range(2))
    a, b = (int(number) for number in rng.integers(1, 5, 2))
    word = str(rng.choice(["more", "fewer"]))
    is_so = a > b if word == "more" else a < b
    asked = questions.MORE.format(word=word, one=one, other=other)
    return Lesson("tally", f"{asked} {a} to {b}:", "yes" if is_so else "no")


def _place(edges: Sequence[float], rng: np.random.Generator) -> int:
    """Which of the things is asked for, from 0; one more than there are: that there are no more."""
    weights = np.ones(len(edges) + 1)
    weights[1 : max(len(edges) - 1, 1)] = _CHOICE
    weights[-1] = _END
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


def turns(seen: Seen, rng: np.random.Generator) -> Iterator[tuple[str, list[int]]]:
    """Things to be looked at in turn, as name and things: of every number of things that there is, one kind.

    Only where it is clear which comes next (`questions.APART`).
    """
    things = seen.facts["things"]
    sets = [
        (called, found)
        for called, found in lessons.classes(seen)
        if called != "object" and _clear([things[index]["box"][0] for index in in_turn(things, found)])
    ]
    for number in sorted({len(found) for _, found in sets}):
        fitting = [(called, found) for called, found in sets if len(found) == number]
        yield fitting[rng.integers(len(fitting))]


def _clear(edges: Sequence[float]) -> bool:
    """Whether it can be said which of the left edges comes next, for each of them."""
    return all(b - a >= questions.APART for a, b in itertools.pairwise(edges))


KINDS: dict[str, Draw] = {"next": _next, "said": _said, "begun": _begun, "tally": _tally}
