"""What the stand-in says where it is told what is to be seen: a name for each region, a count, the verdict.

Who sees is chosen by `annotate.api.standin_sees`. The texts are short and of one form, since what is to be shown with
them is whether a chain that names what it sees answers better than one that does not. No annotator is as regular.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Box = Sequence[float]  # in 0..1 of the picture, 3 decimals
# The first step's picture as a data URL, and the boxes of every step, to what is in each box.
Eyes = Callable[[str, list[list[Box]]], list[list[str]]]

NOTHING, WHOLE = "no object", "The whole scene first."
# What is said before each of several looks, from left to right by the left edges. The edge of the thing before stands
# last, so that one word has both what is looked for and from where on.
FIRST, NEXT, NO_MORE = "First {query} from 0.00:", "Next {query} from {edge}:", "no more"
_TRAINING = ("train", "several")  # streams of scenes; no others are annotated
_EXACT = 0.0006  # of the picture's side: what three decimals are off at most, and a little
_PIXEL = 1.5  # a final box is that of a thing within so many pixels: expansion works on whole ones


class Unseen(ValueError):
    """It cannot be told what is in a picture; the message says why."""


def texts(
    seen: Sequence[Sequence[str]], answer: str, question: str = "", steps: Sequence[Sequence[Box]] = ()
) -> list[str]:
    """A text for each step, from what was seen in its boxes; the last step's are what the question is about.

    The first step is the whole picture. The last text counts the things where there are several, and ends in the answer.
    Where a chain looks at each of the things that it counts by itself, its texts say which comes next (`_in_turn`).
    """
    if in_turn := _in_turn(seen, answer, question, steps):
        return in_turn
    final: Sequence[str] = seen[-1]
    said = [WHOLE]
    for names in seen[1:-1]:
        here = ", ".join(dict.fromkeys(names))
        text = f"{here}: look closer." if set(names) & set(final) else f"{here}: not this."
        while text in said:  # a chain that says the same twice is refused
            text = f"{text.removesuffix('.')} still."
        said.append(text)
    counted = final if len(final) == 1 else [f"{name}, {number}" for number, name in enumerate(final, 1)]
    last = f"{'; '.join(counted)}: {answer}."
    return [*said, last] if len(seen) > 1 else [last]


def _in_turn(
    seen: Sequence[Sequence[str]], answer: str, question: str, steps: Sequence[Sequence[Box]]
) -> list[str]:
    """The texts of a chain that looks at things one after another to count them; none of any other chain.

    What is counted is the question's. It is said right before each look, and the count right after it. That there are no
    more is the answer to the same words as a look is.
    """
    looks = [step[0] for step in steps[1:] if len(step) == 1]
    last = [*steps[-1]] if len(looks) < len(steps) - 1 else looks
    groups = counted(question)
    if not groups or not looks or last != looks or len(steps) != 1 + len(looks) + (len(looks) > 1):
        return []
    names = [seen[number][0] for number in range(1, len(looks) + 1)]
    first = _split(names, groups) if len(groups) == 2 else len(names)
    said, totals, edges = [FIRST.format(query=groups[0])], [], iter(edge(look) for look in looks)
    for group, of in zip(groups, (names[:first], names[first:]), strict=False):
        for number, name in enumerate(of, 1):
            said.append(f"{name}, {number}. {NEXT.format(query=group, edge=next(edges))}")
        said[-1] += f" {NO_MORE}, {len(of)}."
        totals.append(str(len(of)))
        if group != groups[-1]:
            said[-1] += f" {FIRST.format(query=groups[1])}"
    verdict = f"{' to '.join(totals)}: {answer}."
    return [*said, verdict] if len(looks) > 1 else [said[0], f"{said[1]} {verdict}"]


def edge(box: Box) -> str:
    """A box's left edge in whole hundredths, cut as a number's first digits are ("0.34" of 0.345)."""
    return f"{min(round(box[0] * 1000) // 10, 99) / 100:.2f}"


def counted(question: str) -> list[str]:
    """What a question counts, one of it ("cube", "object behind the red cone"): two things where it compares."""
    if (found := re.search(r"How many objects are (.+?)\?", question)) and found[1] != "there":
        return [f"object {found[1]}"]
    if found := re.search(r"How many (.+?)s are there\?", question):
        return [found[1]]
    found = re.search(r"Are there (?:more|fewer) (.+?)s than (.+?)s\?", question)
    return [found[1], found[2]] if found else []


def _split(names: Sequence[str], groups: Sequence[str]) -> int:
    """How many of the names belong to the first of two groups: those of the first come first, at least one of each."""

    def fitting(first: int) -> int:
        wanted = [groups[0]] * first + [groups[1]] * (len(names) - first)
        return sum(
            word.removesuffix(" object") in name.split() for word, name in zip(wanted, names, strict=True)
        )

    return max(range(1, len(names)), key=fitting)


def truth(scenes: Sequence[Path]) -> Eyes:
    """Eyes that look the things up in `scenes.json`, the truth about rendered scenes.

    A scene is known by its things' boxes: those of the last step are a thing's each.

    Raises:
        Unseen: there is no such file.
    """
    known: list[tuple[int, int, list[dict[str, Any]]]] = []
    for path in scenes:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise Unseen(f"{path}: cannot be read ({error}); it is written beside rendered scenes") from error
        size = found["settings"]["width"], found["settings"]["height"]
        known += [(*size, scene["objects"]) for scene in found["scenes"] if scene["stream"] in _TRAINING]

    def look(picture: str, steps: list[list[Box]]) -> list[list[str]]:
        fitting = [scene for scene in known if all(_thing(scene, box) is not None for box in steps[-1])]
        if len(fitting) > 1:  # of many scenes, some have a thing nearly where another has one
            fitting = [scene for scene in fitting if all(_thing(scene, box, 0, _EXACT) for box in steps[-1])]
        if len(fitting) != 1:
            raise Unseen(
                f"{len(fitting)} scenes have things at {steps[-1]}; scenes.json knows its own scenes only"
            )
        return [[_inside(fitting[0], box) for box in step] for step in steps]

    return look


def _thing(
    scene: tuple[int, int, list[dict[str, Any]]], box: Box, pixels: float = _PIXEL, share: float = 0.0
) -> dict[str, Any] | None:
    """The thing whose box this is, within so many pixels and such a share of the picture's side."""
    width, height, things = scene
    size = (width, height, width, height)
    for thing in things:
        if all(abs(a * s - b) <= pixels + share * s for a, b, s in zip(box, thing["box"], size, strict=True)):
            return thing
    return None


def _inside(scene: tuple[int, int, list[dict[str, Any]]], box: Box) -> str:
    """The thing of this box; else those whose middle is in it, nearest first."""
    width, height, things = scene
    one = _thing(scene, box)
    found = [one] if one else [t for t in things if _holds(box, t["box"], width, height)]
    found.sort(key=lambda thing: float(thing["depth"]))
    return ", ".join(f"{t['size']} {t['color']} {t['shape']}" for t in found) or NOTHING


def _holds(box: Box, thing: Box, width: int, height: int) -> bool:
    x, y = (thing[0] + thing[2]) / 2 / width, (thing[1] + thing[3]) / 2 / height
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]
