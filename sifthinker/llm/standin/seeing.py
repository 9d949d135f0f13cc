"""What the stand-in says where it is told what is to be seen: a name for each region, a count, the verdict.

Who sees is chosen by `annotate.api.standin_sees`. The texts are short and of one form, since what is to be shown with
them is whether a chain that names what it sees answers better than one that does not. No annotator is as regular.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Box = Sequence[float]  # in 0..1 of the picture, 3 decimals
# The first step's picture as a data URL, and the boxes of every step, to what is in each box.
Eyes = Callable[[str, list[list[Box]]], list[list[str]]]

NOTHING, WHOLE = "no object", "The whole scene first."
_TRAINING = ("train", "several")  # streams of scenes; no others are annotated
_PIXEL = 1.5  # a final box is that of a thing within so many pixels: expansion works on whole ones


class Unseen(ValueError):
    """It cannot be told what is in a picture; the message says why."""


def texts(seen: Sequence[Sequence[str]], answer: str) -> list[str]:
    """A text for each step, from what was seen in its boxes; the last step's are what the question is about.

    The first step is the whole picture. The last text counts the things where there are several, and ends in the answer.
    """
    final = seen[-1]
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
        if len(fitting) != 1:
            raise Unseen(
                f"{len(fitting)} scenes have things at {steps[-1]}; scenes.json knows its own scenes only"
            )
        return [[_inside(fitting[0], box) for box in step] for step in steps]

    return look


def _thing(scene: tuple[int, int, list[dict[str, Any]]], box: Box) -> dict[str, Any] | None:
    width, height, things = scene
    size = (width, height, width, height)
    for thing in things:
        if all(abs(a * s - b) <= _PIXEL for a, b, s in zip(box, thing["box"], size, strict=True)):
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
