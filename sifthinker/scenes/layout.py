"""Where solids stand: scenes whose every object is inside the picture and visible enough to be asked about."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sifthinker.scenes import render

FEWEST, MOST = 4, 6  # solids in a scene, where nothing else is asked for: more are harder
VISIBLE = 0.5  # smallest share of a solid that the others leave to be seen
_TRIES = 40  # for the place of one solid


@dataclass(frozen=True, slots=True)
class Thing:
    """A solid as it is seen."""

    solid: render.Solid
    box: tuple[int, int, int, int]  # pixels, of what is seen; x2 and y2 are the first pixel outside
    depth: float  # mean over the seen pixels, 0 = nearest, 1 = farthest of the picture
    visible: float  # share of the pixels that it would have alone


@dataclass(frozen=True, slots=True)
class Scene:
    """Things that stand on the floor, and what the camera sees of them."""

    things: tuple[Thing, ...]
    view: render.View


def draw(
    rng: np.random.Generator,
    width: int,
    height: int,
    fewest: int = FEWEST,
    most: int = MOST,
    visible: float = VISIBLE,
    alike: float = 0.0,
) -> Scene:
    """A random scene: nothing touches, nothing leaves the picture, and enough of every solid is seen.

    Args:
        rng: draws it.
        width: of the picture, pixels.
        height: of the picture, pixels.
        fewest: solids.
        most: solids.
        visible: smallest share of a solid that the others leave to be seen; less is harder.
        alike: share of the solids that take the shape or the colour of an earlier one; more is harder.
    """
    while True:
        solids = _solids(rng, fewest, most, alike)
        if len(solids) < fewest:
            continue
        view = render.look(solids, width, height)
        if any(_touches_border(view.alone(index)) for index in range(len(solids))):
            continue
        things = see(view)
        if things and all(thing.visible >= visible for thing in things):
            return Scene(things, view)


def see(view: render.View) -> tuple[Thing, ...]:
    """The solids with the exact box, depth and visible share that the view's masks give; none if one is hidden."""
    depth = view.depth
    things = []
    for index, solid in enumerate(view.solids):
        mask = view.ids == index
        if not mask.any():  # hidden by the others
            return ()
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        visible = mask.sum() / view.alone(index).sum()
        things.append(Thing(solid, box, float(depth[mask].mean(dtype=np.float64)), float(visible)))
    return tuple(things)


def _touches_border(mask: npt.NDArray[np.bool_]) -> bool:
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def _solids(rng: np.random.Generator, fewest: int, most: int, alike: float) -> tuple[render.Solid, ...]:
    solids: list[render.Solid] = []
    for _ in range(rng.integers(fewest, most + 1)):
        shape, color, size = (
            str(rng.choice(list(names))) for names in (render.SHAPES, render.COLORS, render.SIZES)
        )
        if (
            alike and solids and rng.random() < alike
        ):  # no number is drawn for scenes of before there was a choice
            like = solids[rng.integers(len(solids))]
            shape, color = (like.shape, color) if rng.random() < 0.5 else (shape, like.color)
        scale = render.SIZES[size]
        for _ in range(_TRIES):
            z = rng.uniform(5.2 + scale, 12.5)
            # Half of the picture's width in tiles at that depth, less the solid itself.
            half = (z * math.cos(render.PITCH) + render.CAMERA * math.sin(render.PITCH)) / (2 * render.FOCAL)
            x = rng.uniform(-1, 1) * (half - 1.35 * scale)
            if all(
                math.hypot(x - other.x, z - other.z) > 1.2 * (scale + other.scale) + 0.1 for other in solids
            ):
                turn = rng.uniform(0, math.pi / 2)
                solids.append(render.Solid(shape, color, size, round(x, 4), round(z, 4), round(turn, 4)))
                break
    return tuple(solids)
