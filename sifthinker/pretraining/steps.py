"""The single steps of chains that look at one thing after another: what is said before and after a look, and the look.

No lesson puts two of them together. What a chain copies, it learns to copy here: the name of what is asked for, the left
edge of the box that it has just written, and the count. Each goes on from the model's own words, as in a chain: learnt
as the beginning of a reply, "no more" was right in 95 of 100, and chains that had to go on with it did not end.
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
_PLACES = 0.3  # share of the questions for the next that ask for things beside another
_CLOSE = 0.1  # distance under which the next is hard to tell
_DRAWS, _EASY = (
    3,
    0.4,
)  # how often such a lesson is looked for, and the share of others that are kept meanwhile
_NOT_EXACT = 0.01, 0.02  # how far the box and the depth to go on from are off, at most
_COMPARED = 0.4  # share of the questions about a kind that compare it with another


def in_turn(things: Sequence[Mapping[str, Any]], indices: Sequence[int]) -> list[int]:
    """Things in the order in which a chain looks at them: from left to right by the left edges of their boxes."""
    return sorted(indices, key=lambda index: float(things[index]["box"][0]))


def begun(called: str) -> str:
    """What a model has said before it looks for the first of some things."""
    whole = prompts.regions_json([Region((0.0, 0.0, 1.0, 1.0), 0.5)])
    return build.BEGUN.format(region=whole) + build.FIRST.format(query=called)


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
    asked, said = _question(called, seen, rng), begun(called)
    if seeing.counted(asked)[-1] == called != seeing.counted(asked)[0]:
        said = _ended(seen, seeing.counted(asked)[0], rng) + build.FIRST.format(query=called)
    if place:
        before = things[order[place - 1]]
        region = _about(before, rng)
        said = build.SEEN.format(region=region) + _told(before, place, called, region)
    if place == len(order):
        return Lesson("next", asked, build.NO_MORE.format(number=place), among=tuple(order), said=said)
    looked = lessons.boxes("next", asked, seen, [order[place]])
    return replace(looked, answer=build.LOOKED.format(region=looked.answer), among=tuple(order), said=said)


def _ended(seen: Seen, called: str, rng: np.random.Generator) -> str:
    """What a model has said before it looks for the first of the second kind that a question compares."""
    things = seen.facts["things"]
    order = in_turn(things, dict(lessons.classes(seen))[called])
    last, number = things[order[-1]], len(order)
    region = _about(last, rng)
    ended = _told(last, number, called, region) + build.NO_MORE.format(number=number)
    return f"{build.SEEN.format(region=region)}{ended} "


def _question(called: str, seen: Seen, rng: np.random.Generator) -> str:
    """A question that chains count some things for."""
    if called.startswith("object ") or rng.random() >= _COMPARED:
        return questions.how_many(called)
    pair = [called, lessons.by_number(lessons.classes(seen)[1:], rng)[0]]
    if pair[0] == pair[1]:
        return questions.how_many(called)
    rng.shuffle(pair)
    return questions.MORE.format(word=rng.choice(["more", "fewer"]), one=pair[0], other=pair[1])


def _sets(seen: Seen, rng: np.random.Generator) -> list[tuple[str, list[int]]]:
    """What can be looked at in turn, as name and things: kinds of things, all of them, or those beside another."""
    sets = places(seen)
    if not sets or rng.random() >= _PLACES:
        everything, *some = lessons.classes(seen)
        sets = [everything] if rng.random() < _ANY else some
    return sets


def places(seen: Seen) -> list[tuple[str, list[int]]]:
    """What stands beside another thing, as name ("object behind the red cone") and things."""
    return [(f"object {place}", found) for place, found in seen.facts["beside"]]


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
    return Lesson(
        "said",
        _question(called, seen, rng),
        _told(thing, place + 1, called, region),
        ((order[place],),),
        said=before + build.LOOKED.format(region=region),
    )


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
    whole = prompts.regions_json([Region((0.0, 0.0, 1.0, 1.0), float(rng.random()))])
    said, space = build.BEGUN.format(region=whole), ""
    if which:
        said, space = build.NO_MORE.format(number=rng.integers(1, 5)), " "
    return Lesson("begun", asked, space + build.FIRST.format(query=groups[which]), said=said)


def _tally(seen: Seen, index: int, rng: np.random.Generator) -> Lesson:
    """What a count says of the question for it, or two of one that compares them."""
    (one, _), (other, _) = (lessons.by_number(lessons.classes(seen)[1:], rng) for _ in range(2))
    a, b = (int(number) for number in rng.integers(1, 5, 2))
    if rng.random() >= _COMPARED:
        return Lesson(
            "tally", questions.how_many(one), f" {a}.", said=f"{build.NO_MORE.format(number=a)} {a}:"
        )
    word = str(rng.choice(["more", "fewer"]))
    is_so = a > b if word == "more" else a < b
    asked = questions.MORE.format(word=word, one=one, other=other)
    counted = f"{build.NO_MORE.format(number=b)} {a} to {b}:"
    return Lesson("tally", asked, " yes." if is_so else " no.", said=counted)


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


def turns(
    seen: Seen, sets: Sequence[tuple[str, list[int]]], rng: np.random.Generator
) -> Iterator[tuple[str, list[int]]]:
    """Of some sets (name, things), those to be looked at in turn: of every number of things that there is, one.

    Only where it is clear which comes next (`questions.APART`).
    """
    things = seen.facts["things"]
    sets = [
        (called, found)
        for called, found in sets
        if called != "object" and _clear([things[index]["box"][0] for index in in_turn(things, found)])
    ]
    for number in sorted({len(found) for _, found in sets}):
        fitting = [(called, found) for called, found in sets if len(found) == number]
        yield fitting[rng.integers(len(fitting))]


def _clear(edges: Sequence[float]) -> bool:
    """Whether it can be said which of the left edges comes next, for each of them."""
    return all(b - a >= questions.APART for a, b in itertools.pairwise(edges))


KINDS: dict[str, Draw] = {"next": _next, "said": _said, "begun": _begun, "tally": _tally}
