"""Questions about a scene that have one right answer, read off the exact boxes and depths.

A question is asked only where nobody could argue: a thing is named by words that fit it alone ("red cube", "large
red cube"), and two things are compared only where they differ clearly (`side`, `order`, `larger`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations

import numpy as np

from sifthinker.scenes.layout import Scene
from sifthinker.scenes.render import COLORS, SHAPES, SIZES

DEEPER = 0.1  # smallest difference of mean depth, 0..1, that is called in front or behind
APART = 0.03  # smallest distance of two left edges, in 0..1 of the width, by which one is called the next
LARGER = 1.2  # smallest ratio of box heights that is called larger
LETTER = "Answer with the option's letter from the given choices directly."
RELATIONS = {
    "left": "to the left of",
    "right": "to the right of",
    "in front": "in front of",
    "behind": "behind",
}
MORE = "Are there {word} {one}s than {other}s?"
# What things can have in common, to be counted or found together; the first holds for everything.
CLASSES: tuple[dict[str, str], ...] = (
    {},
    *({"shape": shape} for shape in SHAPES),
    *({"color": color} for color in COLORS),
    *({"color": color, "shape": shape} for color in COLORS for shape in SHAPES),
)
_OPTIONS = {
    "color": [*COLORS],
    "shape": [*SHAPES],
    "side": ["left", "right"],
    "order": ["in front", "behind"],
}
# What a thing is named by, the first that fits it alone, when the key must not be given away.
_WORDS = {
    "": (("color", "shape"), ("size", "color", "shape")),
    "color": (("shape",), ("size", "shape")),
    "shape": (("color",), ("size", "color")),
    "size": (("color", "shape"),),
}


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer and what to look at for it."""

    kind: str
    text: str
    answer: str
    things: tuple[int, ...]  # indices into Scene.things of the ground truth's boxes
    balance: str = ""  # what to have in equal numbers within a kind; empty: the answer


def side(scene: Scene, a: int, b: int) -> str:
    """Where a lies from b as the camera sees it: "left", "right", or "" where that is not clear."""
    (a1, _, a2, _), (b1, _, b2, _) = scene.things[a].box, scene.things[b].box
    if a1 + a2 < 2 * b1 and 2 * a2 < b1 + b2:  # neither's middle lies between the other's edges
        return "left"
    if a1 + a2 > 2 * b2 and 2 * a1 > b1 + b2:
        return "right"
    return ""


def order(scene: Scene, a: int, b: int) -> str:
    """Where a lies from b in depth: "in front", "behind", or "" where that is not clear."""
    difference = scene.things[a].depth - scene.things[b].depth
    if abs(difference) < DEEPER:
        return ""
    return "in front" if difference < 0 else "behind"


def larger(scene: Scene, a: int, b: int) -> bool:
    """Whether a is larger than b, in truth and clearly so in the picture."""
    one, other = scene.things[a], scene.things[b]
    heights = one.box[3] - one.box[1], other.box[3] - other.box[1]
    return SIZES[one.solid.size] > SIZES[other.solid.size] and heights[0] > LARGER * heights[1]


def related(scene: Scene, a: int, relation: str, b: int) -> bool | None:
    """Whether a has the relation (key of RELATIONS) to b; None where that is not clear."""
    found = side(scene, a, b) if relation in ("left", "right") else order(scene, a, b)
    return found == relation if found else None


def matching(scene: Scene, **values: str) -> tuple[int, ...]:
    """Indices of the things with these values of shape, color and size."""
    return tuple(
        index
        for index, thing in enumerate(scene.things)
        if all(getattr(thing.solid, key) == value for key, value in values.items())
    )


def phrase(size: str = "", color: str = "", shape: str = "object") -> str:
    """The words for such things: "large red cube", "red object"."""
    return " ".join(word for word in (size, color, shape) if word)


def name(scene: Scene, index: int, hidden: str = "") -> str:
    """Words that fit this thing alone and do not give its `hidden` attribute away; "" where there are none."""
    for keys in _WORDS[hidden]:
        values = {key: getattr(scene.things[index].solid, key) for key in keys}
        if matching(scene, **values) != (index,):
            continue
        without_size = matching(scene, **{key: value for key, value in values.items() if key != "size"})
        if all(_sizes_differ(scene, index, other) for other in without_size if other != index):
            return phrase(**values)
    return ""


def pick(
    questions: Sequence[Question], used: Counter[tuple[str, ...]], rng: np.random.Generator
) -> Question | None:
    """One question of the kind, and within it of the answer, that was `used` least; None of none."""
    if not questions:
        return None

    def rank(question: Question) -> tuple[int, int]:
        return used[(question.kind,)], used[question.kind, question.balance or question.answer]

    least = min(map(rank, questions))
    best = [question for question in questions if rank(question) == least]
    chosen = best[rng.integers(len(best))]
    used.update([(chosen.kind,), (chosen.kind, chosen.balance or chosen.answer)])
    return chosen


def one_object(scene: Scene) -> Iterator[Question]:
    """All questions that one thing is to be looked at for."""
    yield from colors(scene)
    yield from shapes(scene)
    yield from sizes(scene)
    yield from checks(scene)
    yield from sides(scene)
    yield from orders(scene)
    yield from nearer(scene)
    yield from nearest(scene)
    yield from existence(scene)


def colors(scene: Scene) -> Iterator[Question]:
    """The colour of each thing that has a name without it."""
    for index, thing in enumerate(scene.things):
        if called := name(scene, index, "color"):
            yield Question("color", f"What color is the {called}?", thing.solid.color, (index,))


def shapes(scene: Scene) -> Iterator[Question]:
    """The shape of each thing that has a name without it."""
    for index, thing in enumerate(scene.things):
        if called := name(scene, index, "shape"):
            yield Question("shape", f"What is the shape of the {called}?", thing.solid.shape, (index,))


def sizes(scene: Scene) -> Iterator[Question]:
    """Asked where things of both sizes are there to compare, and clearly differ."""
    for index, thing in enumerate(scene.things):
        others = [i for i, other in enumerate(scene.things) if other.solid.size != thing.solid.size]
        called = name(scene, index, "size")
        if called and others and all(_sizes_differ(scene, index, other) for other in others):
            yield Question("size", f"Is the {called} large or small?", thing.solid.size, (index,))


def checks(scene: Scene) -> Iterator[Question]:
    """Whether a thing has a colour: its own, or another's in the scene."""
    present = sorted({thing.solid.color for thing in scene.things})
    for index, thing in enumerate(scene.things):
        if called := name(scene, index, "color"):
            for color in present:
                answer = "yes" if color == thing.solid.color else "no"
                yield Question("check", f"Is the {called} {color}?", answer, (index,))


def sides(scene: Scene) -> Iterator[Question]:
    """Whether a thing is left or right of another, where that is clear."""
    for a, b, called, other in _named_pairs(scene):
        if answer := side(scene, a, b):
            text = f"Is the {called} to the left or to the right of the {other}?"
            yield Question("side", text, answer, (a,))


def orders(scene: Scene) -> Iterator[Question]:
    """Whether a thing is in front of or behind another, where that is clear."""
    for a, b, called, other in _named_pairs(scene):
        if answer := order(scene, a, b):
            yield Question("order", f"Is the {called} in front of or behind the {other}?", answer, (a,))


def nearer(scene: Scene) -> Iterator[Question]:
    """Which of two things is closer to the camera, where that is clear."""
    for a, b, called, other in _named_pairs(scene):
        if found := order(scene, a, b):
            first = found == "in front"
            text = f"Which is closer to the camera, the {called} or the {other}?"
            answer, thing = (called, a) if first else (other, b)
            yield Question("nearer", text, answer, (thing,), balance="first" if first else "second")


def nearest(scene: Scene) -> Iterator[Question]:
    """Which thing of the scene is closest to the camera or farthest from it, where that is clear."""
    everything = range(len(scene.things))
    for relation, words in (("in front", "closest to"), ("behind", "farthest from")):
        for index in everything:
            first = all(order(scene, index, other) == relation for other in everything if other != index)
            if first and (called := name(scene, index)):
                text = f"Which object is {words} the camera?"
                yield Question("nearest", text, called, (index,), balance=relation)


def existence(scene: Scene) -> Iterator[Question]:
    """Whether a shape is there beside a thing. Yes or no, that thing is where to look: nothing else is always there."""
    for anchor, thing in enumerate(scene.things):
        called = name(scene, anchor)
        for shape in SHAPES:
            if not called or shape == thing.solid.shape:
                continue
            for relation, words in RELATIONS.items():
                found = [related(scene, i, relation, anchor) for i in matching(scene, shape=shape)]
                if any(found) or None not in found:
                    answer = "yes" if any(found) else "no"
                    yield Question(
                        "existence", f"Is there a {shape} {words} the {called}?", answer, (anchor,)
                    )


def how_many(called: str) -> str:
    """How many there are of a kind ("red cube"), or of objects in a place ("object behind the red cube")."""
    kind, _, place = called.partition("object ")
    return f"How many objects are {place}?" if place and not kind else f"How many {called}s are there?"


def counts(scene: Scene) -> Iterator[Question]:
    """How many there are of a shape, a colour, both, in all, or beside a thing; at least one."""
    for values in CLASSES:
        if found := matching(scene, **values):
            yield Question("count", how_many(phrase(**values)), str(len(found)), found)
    for place, _, found in beside(scene):
        yield Question("count", how_many(f"object {place}"), str(len(found)), found)


def beside(scene: Scene) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Where other things are from a thing ("behind the red cube"), that thing, and all that are there; at least one."""
    for anchor in range(len(scene.things)):
        if called := name(scene, anchor):
            for relation, words in RELATIONS.items():
                others = [i for i in range(len(scene.things)) if i != anchor]
                found = [related(scene, other, relation, anchor) for other in others]
                if any(found) and None not in found:
                    there = tuple(other for other, yes in zip(others, found, strict=True) if yes)
                    yield f"{words} the {called}", anchor, there


def several(scene: Scene) -> Iterator[Question]:
    """All questions that several things are to be looked at for: how many, how many beside a thing, more or fewer.

    Where nobody could say which thing comes next (`APART`), looking at them in turn is not asked for.
    """
    for values in CLASSES:
        if found := in_turn(scene, matching(scene, **values)):
            yield Question("count", how_many(phrase(**values)), str(len(found)), found)
    for place, _, there in beside(scene):
        if found := in_turn(scene, there):
            yield Question("beside", how_many(f"object {place}"), str(len(found)), found)
    yield from more_or_fewer(scene)


def in_turn(scene: Scene, things: Sequence[int]) -> tuple[int, ...]:
    """Things in the order in which a chain looks at them, by the left edges of their boxes; none where that is not clear."""
    found = tuple(sorted(things, key=lambda index: scene.things[index].box[0]))
    edges = [scene.things[index].box[0] / scene.view.width for index in found]
    return found if all(b - a >= APART for a, b in pairwise(edges)) else ()


def more_or_fewer(scene: Scene) -> Iterator[Question]:
    """Whether there are more of one shape or colour than of another, or fewer; both are there. All of both are to be seen."""
    for key, values in (("shape", SHAPES), ("color", COLORS)):
        for one, other in permutations(values, 2):
            these, those = (in_turn(scene, matching(scene, **{key: value})) for value in (one, other))
            if these and those:
                a, b = phrase(**{key: one}), phrase(**{key: other})
                for word, true in (("more", len(these) > len(those)), ("fewer", len(these) < len(those))):
                    text = MORE.format(word=word, one=a, other=b)
                    yield Question("more", text, "yes" if true else "no", (*these, *those))


def existence_pairs(scene: Scene) -> Iterator[tuple[Question, Question]]:
    """Is there such a thing: one that is there, and one of a colour and a shape that are, but not together."""
    present = sorted({(thing.solid.color, thing.solid.shape) for thing in scene.things})
    absent = [
        (color, shape)
        for color in sorted({color for color, _ in present})
        for shape in sorted({shape for _, shape in present})
        if (color, shape) not in present
    ]
    for there in present:
        for missing in absent:
            yield (
                Question("exists", _is_there(*there), "Yes", matching(scene, color=there[0], shape=there[1])),
                Question("exists", _is_there(*missing), "No", ()),
            )


def size_pairs(scene: Scene) -> Iterator[tuple[Question, Question]]:
    """Is this larger than that, and is it smaller: one of the two is true."""
    for a, b, called, other in _named_pairs(scene):
        if larger(scene, a, b) or larger(scene, b, a):
            yes, no = ("larger", "smaller") if larger(scene, a, b) else ("smaller", "larger")
            yield (
                Question("larger", f"Is the {called} {yes} than the {other}?", "Yes", (a, b), balance=yes),
                Question("larger", f"Is the {called} {no} than the {other}?", "No", (a, b)),
            )


def expressions(scene: Scene, index: int) -> list[str]:
    """What this thing alone may be called."""
    found = [name(scene, index), name(scene, index, "color"), name(scene, index, "shape")]
    return [words for words in dict.fromkeys(found) if words]


def offering(kind: str, text: str, answer: str, rng: np.random.Generator) -> tuple[str, str]:
    """The question as benchmarks ask it, with options or a word on the answer's form, and what answers it then."""
    if kind in _OPTIONS:
        others = [option for option in _OPTIONS[kind] if option != answer]
        offered = [str(option) for option in rng.permutation(others)[:3]]
        right = int(rng.integers(len(offered) + 1))
        offered.insert(right, answer)
        if rng.random() < 0.5:
            text = text.replace("to the left or to the right of", "on the left or right side of")
        joint = "\n" if rng.random() < 0.5 else " "
        return joint.join([text, *lettered(offered), LETTER]), "ABCD"[right]
    if kind == "count":
        return f"{text} Answer with a number.", answer
    return text, answer


def lettered(options: Sequence[str]) -> list[str]:
    """The options as they are offered: "(A) red"."""
    return [f"({letter}) {option}" for letter, option in zip("ABCD", options, strict=False)]


def _is_there(color: str, shape: str) -> str:
    return f"Is there {'an' if color[0] in 'aeiou' else 'a'} {color} {shape} in the image?"


def _sizes_differ(scene: Scene, a: int, b: int) -> bool:
    return larger(scene, a, b) or larger(scene, b, a)


def _named_pairs(scene: Scene) -> Iterator[tuple[int, int, str, str]]:
    names = {index: called for index in range(len(scene.things)) if (called := name(scene, index))}
    for a, b in permutations(names, 2):
        yield a, b, names[a], names[b]
