"""How often the miniature is taught which kind of lesson, in each of its trainings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sifthinker.pretraining import lessons, steps
from sifthinker.pretraining.lessons import Draw, Lesson
from sifthinker.pretraining.scene_pool import Seen

KINDS: dict[str, Draw] = {**lessons.KINDS, **steps.KINDS}

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
# need the kind far from where it was said; here it is said right before each look, as in a chain. "said", "begun" and
# "tally" are what a chain says between two looks, before the first and after the last.
NEXT = {
    "next": 0.54,
    "said": 0.15,
    "begun": 0.05,
    "tally": 0.06,
    "all": 0.02,
    "beside": 0.02,
    "where": 0.05,
    "look": 0.02,
    "what": 0.02,
    "deep": 0.01,
    "plain": 0.03,
    "then": 0.02,
    "say": 0.01,
}


def draw(
    seen: Seen, rng: np.random.Generator, count: int, shares: Mapping[str, float] = SHARES
) -> list[Lesson]:
    """`count` lessons about a scene, at most one of them a list."""
    kinds = [str(kind) for kind in rng.choice(list(shares), size=count, p=list(shares.values()))]
    kept = [kind for index, kind in enumerate(kinds) if kind != "list" or "list" not in kinds[:index]]
    return [lesson for kind in kept if (lesson := _draw(kind, seen, rng)) is not None]


def _draw(kind: str, seen: Seen, rng: np.random.Generator) -> Lesson | None:
    """A lesson of a kind, or None where the scene has none: about one of its things, or about a question of its."""
    return KINDS[kind](seen, int(rng.integers(len(seen.facts["things"]))), rng)
