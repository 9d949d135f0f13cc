"""Renders solids on a floor: a ray caster in numpy, exact to the pixel and the same in every run.

World frame: x right, y up, z away from the viewer; the floor is y = 0, a wall stands at `WALL`. Lengths are in
floor tiles. A ray's parameter t is its depth along the camera's axis, so the depth of a pixel is exact.

`look` says what each pixel's centre shows and how deep it lies; masks, boxes and depths come from it alone.
`render` gives the colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sifthinker.core import depth_maps

Floats = npt.NDArray[np.float64]

CAMERA = 3.6  # height of the camera above the floor
_EYE = np.array([[0.0], [CAMERA], [0.0]])
PITCH = math.radians(21)  # downwards
FOCAL = 1.2  # of the width of a 4:3 picture
WALL = 15.0  # z
FLOOR_ID, WALL_ID = -1, -2

SIZES = {"small": 0.5, "large": 0.9}  # half of a solid's width, in tiles
COLORS = {  # sRGB
    "red": (214, 40, 40),
    "orange": (250, 140, 20),
    "yellow": (250, 216, 50),
    "green": (44, 150, 62),
    "cyan": (60, 200, 215),
    "blue": (35, 80, 200),
    "purple": (130, 50, 165),
    "white": (245, 245, 245),
}
_GAMMA = (np.linspace(0, 1, 65536) ** (1 / 2.2) * 255).round().astype(np.uint8)  # linear -> sRGB
_TILES = (np.array([0.36, 0.33, 0.29]), np.array([0.45, 0.42, 0.37]))  # linear RGB
_WALL = np.array([0.40, 0.46, 0.52])
_SUN = np.array([-0.55, 1.0, -0.6])  # towards the light: above, from the left and from behind the viewer
_ACROSS = np.linalg.svd(_SUN[None, :])[2][1:]  # (2, 3): unit vectors across the sun's direction
_SUN_RADIUS = 0.10  # makes the shadows' edges soft
_SUN_SAMPLES = 3
_EDGE = 0.03  # smallest difference of linear brightness between neighbours that is sampled again
# Where an edge pixel is sampled: no two in one row or column, so that all edges come out smooth.
_SAMPLES = np.array([(1, 3), (3, 7), (5, 1), (7, 5)]) / 8


@dataclass(frozen=True, slots=True)
class Solid:
    """A solid that stands at (x, z) on the floor, turned by `turn` radians about the vertical."""

    shape: str  # one of SHAPES
    color: str  # one of COLORS
    size: str  # one of SIZES
    x: float
    z: float
    turn: float = 0.0

    @property
    def scale(self) -> float:
        """Half of its width, in tiles."""
        return SIZES[self.size]


@dataclass(frozen=True, slots=True)
class Hits:
    """What N rays meet."""

    unit: Floats  # (3, N): direction
    ids: npt.NDArray[np.int16]  # (N,): index of the solid, FLOOR_ID or WALL_ID
    distance: Floats  # (N,): depth along the camera's axis, in tiles
    points: Floats  # (3, N)
    normals: Floats  # (3, N)
    alone: tuple[npt.NDArray[np.bool_], ...]  # (N,) of each solid: rays that would meet it if it stood alone


@dataclass(frozen=True, slots=True)
class View:
    """What the pixels of a picture show, exactly: every pixel is asked at its centre."""

    solids: tuple[Solid, ...]
    width: int
    height: int
    hits: Hits  # row by row

    @property
    def ids(self) -> npt.NDArray[np.int16]:
        """(H, W): index of the solid, FLOOR_ID or WALL_ID."""
        return self.hits.ids.reshape(self.height, self.width)

    @property
    def distance(self) -> Floats:
        """(H, W): depth along the camera's axis, in tiles."""
        return self.hits.distance.reshape(self.height, self.width)

    def alone(self, index: int) -> npt.NDArray[np.bool_]:
        """(H, W): where a solid would be seen if it stood alone."""
        return self.hits.alone[index].reshape(self.height, self.width)

    @property
    def depth(self) -> npt.NDArray[np.float32]:
        """(H, W), 0 = nearest, 1 = farthest: what Depth Anything V2 would give if it made no errors."""
        return depth_maps.normalise(1 / self.distance)


def focal(width: int, height: int) -> float:
    """Focal length in pixels: the widest 4:3 view that fits, more room at the sides or above otherwise."""
    return FOCAL * min(width, height * 4 / 3)


def look(solids: Sequence[Solid], width: int, height: int) -> View:
    """What a picture of (height, width) pixels shows."""
    rows, columns = np.divmod(np.arange(width * height), width)
    return View(tuple(solids), width, height, _trace(solids, columns + 0.5, rows + 0.5, width, height))


def render(view: View) -> npt.NDArray[np.uint8]:
    """The picture, (H, W, 3) sRGB; pixels on edges are sampled several times to be smooth."""
    colour = _shade(view.solids, view.hits)
    edges = _edges(colour.mean(axis=0).reshape(view.ids.shape), view.ids)
    rows, columns = np.nonzero(edges)
    u = (columns[:, None] + _SAMPLES[:, 0]).ravel()
    v = (rows[:, None] + _SAMPLES[:, 1]).ravel()
    fine = _shade(view.solids, _trace(view.solids, u, v, view.width, view.height))
    colour[:, edges.ravel()] = fine.reshape(3, len(rows), len(_SAMPLES)).mean(axis=2)
    return _srgb(colour.T.reshape(view.height, view.width, 3))


def _trace(solids: Sequence[Solid], u: Floats, v: Floats, width: int, height: int) -> Hits:
    """What the rays through the pixel coordinates (N,), (N,) meet first."""
    f = focal(width, height)
    right, down = (u - width / 2) / f, (v - height / 2) / f
    sin, cos = math.sin(PITCH), math.cos(PITCH)
    rays = np.stack([right, -down * cos - sin, cos - down * sin])
    unit = rays / np.sqrt(_dot(rays, rays))

    # The room: the floor where a ray meets it before the wall.
    with np.errstate(divide="ignore"):
        floor = np.where(rays[1] < 0, -CAMERA / rays[1], np.inf)
    distance = np.minimum(floor, WALL / rays[2])
    on_floor = floor <= distance
    ids = np.where(on_floor, FLOOR_ID, WALL_ID).astype(np.int16)
    normals = np.stack([np.zeros(len(u)), on_floor * 1.0, on_floor - 1.0])
    alone = []
    for index, solid in enumerate(solids):
        # Only rays inside the cone around the solid's ball are worked out.
        middle, reach = _ball(solid)
        toward = middle - _EYE[:, 0]
        away = float(np.linalg.norm(toward))
        near = np.flatnonzero(toward / away @ unit > math.sqrt(1 - (reach / away) ** 2))
        hit, t, facing = _enter(solid, _EYE, rays[:, near])
        near = near[hit]
        mask = np.zeros(len(u), bool)
        mask[near] = True
        alone.append(mask)
        front = t < distance[near]
        near = near[front]
        distance[near], ids[near], normals[:, near] = t[front], index, facing[:, front]
    return Hits(unit, ids, distance, _EYE + distance * rays, normals, tuple(alone))


def _enter(solid: Solid, origins: Floats, rays: Floats) -> tuple[npt.NDArray[np.intp], Floats, Floats]:
    """Which rays (3, N) from `origins` (3, N or 1) enter the solid: indices (M,), t (M,), normals (3, M)."""
    # In the solid's own frame it stands upright on the origin with a half width of 1.
    sin, cos = math.sin(solid.turn), math.cos(solid.turn)
    turn = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    o = turn @ (origins - [[solid.x], [0], [solid.z]]) / solid.scale
    d = turn @ rays / solid.scale
    with np.errstate(divide="ignore", invalid="ignore"):
        t, normals = SHAPES[solid.shape][0](o, d)
        hit = np.flatnonzero(np.isfinite(t) & (t > 0))
    return hit, t[hit], turn.T @ normals[:, hit]


def _sphere(o: Floats, d: Floats) -> tuple[Floats, Floats]:
    c = o - [[0.0], [1.0], [0.0]]
    a, b = _dot(d, d), _dot(d, c)
    t = (-b - np.sqrt(b * b - a * (_dot(c, c) - 1))) / a
    return t, c + t * d


def _cube(o: Floats, d: Floats) -> tuple[Floats, Floats]:
    half = 0.82
    low, high = np.array([[-half], [0], [-half]]), np.array([[half], [2 * half], [half]])
    first, second = (low - o) / d, (high - o) / d
    near = np.minimum(first, second)
    t = near.max(axis=0)
    normals = np.where(np.arange(3)[:, None] == near.argmax(axis=0), -np.sign(d), 0.0)
    return np.where(t <= np.maximum(first, second).min(axis=0), t, np.inf), normals


def _cylinder(o: Floats, d: Floats) -> tuple[Floats, Floats]:
    radius, top = 0.8, 1.9
    a = d[0] ** 2 + d[2] ** 2
    b = o[0] * d[0] + o[2] * d[2]
    side = (-b - np.sqrt(b * b - a * (o[0] ** 2 + o[2] ** 2 - radius**2))) / a
    y = o[1] + side * d[1]
    side = np.where((y >= 0) & (y <= top), side, np.inf)
    lid = (top - o[1]) / d[1]
    lid = np.where((o[0] + lid * d[0]) ** 2 + (o[2] + lid * d[2]) ** 2 <= radius**2, lid, np.inf)
    t = np.minimum(side, lid)
    round_side = (o + t * d) * [[1 / radius], [0], [1 / radius]]
    return t, np.where(lid <= side, [[0.0], [1.0], [0.0]], round_side)


def _cone(o: Floats, d: Floats) -> tuple[Floats, Floats]:
    radius, top = 0.95, 2.0
    slope = radius / top
    below = top - o[1]
    a = d[0] ** 2 + d[2] ** 2 - (slope * d[1]) ** 2
    b = o[0] * d[0] + o[2] * d[2] + slope**2 * below * d[1]
    root = np.sqrt(b * b - a * (o[0] ** 2 + o[2] ** 2 - (slope * below) ** 2))
    t = np.full(d.shape[1], np.inf)
    for candidate in ((-b - root) / a, (-b + root) / a):
        y = o[1] + candidate * d[1]
        t = np.where((y >= 0) & (y <= top) & (candidate > 0) & (candidate < t), candidate, t)
    x, _, z = o + t * d
    out = np.hypot(x, z) * math.hypot(1, slope)
    return t, np.stack([x / out, np.full(len(t), slope / math.hypot(1, slope)), z / out])


# shape -> (where rays (3, N) from (3, N or 1) enter it: t (N,) and normals (3, N), for a half width of 1;
#           radius of a ball about (0, 1, 0) that holds it)
SHAPES: dict[str, tuple[Callable[[Floats, Floats], tuple[Floats, Floats]], float]] = {
    "cube": (_cube, 1.54),
    "sphere": (_sphere, 1.0),
    "cylinder": (_cylinder, 1.3),
    "cone": (_cone, 1.4),
}


def _shade(solids: Sequence[Solid], hits: Hits) -> Floats:
    """Linear RGB (3, N) of what the rays meet."""
    ids, points, normals = hits.ids, hits.points, hits.normals
    palette = np.array([_linear(COLORS[solid.color]) for solid in solids] + [_WALL, _TILES[0]]).T
    albedo = palette[:, ids]  # WALL_ID and FLOOR_ID count from the end
    floor = np.flatnonzero(ids == FLOOR_ID)
    x, z = points[0, floor], points[2, floor]
    odd = (np.floor(x).astype(int) + np.floor(z).astype(int)) & 1 == 1
    albedo[:, floor[odd]] = _TILES[1][:, None]

    sun = _SUN / np.linalg.norm(_SUN)
    lit = _dot(sun, normals).clip(0, None)
    facing = np.flatnonzero(lit)
    lit[facing] *= _sunlight(solids, points[:, facing] + 1e-3 * normals[:, facing])
    sky = 0.5 + 0.5 * normals[1]
    for solid in solids:  # a little darkness where a solid meets the floor
        away = ((x - solid.x) ** 2 + (z - solid.z) ** 2) / solid.scale**2
        close = np.flatnonzero(away < 4)
        sky[floor[close]] *= 1 - 0.55 * np.exp(-((away[close] / 0.9) ** 2))
    # The room is brighter on the left: a picture without a cue for left and right is harder to learn from.
    room = np.where(ids < 0, 1 - 0.035 * points[0], 1).clip(0.6, 1.4)
    colour = albedo * (room * (0.28 + 0.30 * sky + 0.85 * lit))

    shiny = np.flatnonzero((ids >= 0) & (lit > 0))
    half = sun[:, None] - hits.unit[:, shiny]
    gloss = _dot(normals[:, shiny], half) / np.sqrt(_dot(half, half))
    colour[:, shiny] += 0.35 * gloss.clip(0, None) ** 40
    return np.asarray(colour)


def _sunlight(solids: Sequence[Solid], points: Floats) -> Floats:
    """Share (N,) of the sun's disc that no solid hides from the points (3, N)."""
    angles = (np.arange(_SUN_SAMPLES) + 0.5) * 2 * math.pi / _SUN_SAMPLES
    seen = np.ones((_SUN_SAMPLES, points.shape[1]), bool)
    x, y = _ACROSS @ points
    for solid in solids:
        # Only points whose line to the sun passes the solid's ball are worked out.
        middle, reach = _ball(solid)
        across, up = _ACROSS @ middle
        near = np.flatnonzero((x - across) ** 2 + (y - up) ** 2 < (reach + 2 * _SUN_RADIUS) ** 2)
        for sample, angle in enumerate(angles):
            sun = _SUN + _SUN_RADIUS * np.array([math.cos(angle), 0, math.sin(angle)])
            hidden, *_ = _enter(solid, points[:, near], sun[:, None])
            seen[sample, near[hidden]] = False
    return np.asarray(seen.mean(axis=0))


def _edges(image: Floats, ids: npt.NDArray[np.int16]) -> npt.NDArray[np.bool_]:
    """(H, W): pixels that differ from a neighbour in brightness (H, W) or in what they show (H, W)."""
    edges = np.zeros(ids.shape, bool)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        step = (ids[one] != ids[other]) | (np.abs(image[one] - image[other]) > _EDGE)
        edges[one] |= step
        edges[other] |= step
    return edges


def _ball(solid: Solid) -> tuple[Floats, float]:
    """Centre (3,) and radius of a ball that holds the solid."""
    return np.array([solid.x, solid.scale, solid.z]), solid.scale * SHAPES[solid.shape][1]


def _dot(a: Floats, b: Floats) -> Floats:
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


def _linear(srgb: tuple[int, int, int]) -> Floats:
    return np.asarray((np.array(srgb) / 255) ** 2.2)


def _srgb(linear: Floats) -> npt.NDArray[np.uint8]:
    return _GAMMA[(linear.clip(0, 1) * 65535).astype(np.uint16)]
