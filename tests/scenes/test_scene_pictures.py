"""Drawn scenes: pixels, boxes, depths and colours are exact, and things are compared only where they differ clearly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sifthinker.scenes import layout, questions, render


def inside(solid: render.Solid, points: np.ndarray) -> np.ndarray:
    """Whether world points (..., 3) lie in the solid: its definition, written a second time."""
    x, y, z = np.moveaxis(points - [solid.x, 0, solid.z], -1, 0) / render.SIZES[solid.size]
    cos, sin = math.cos(solid.turn), math.sin(solid.turn)
    x, z = cos * x - sin * z, sin * x + cos * z
    match solid.shape:
        case "sphere":
            return np.asarray(x**2 + (y - 1) ** 2 + z**2 < 1)
        case "cube":
            return np.asarray((abs(x) < 0.82) & (abs(z) < 0.82) & (y > 0) & (y < 1.64))
        case "cylinder":
            return np.asarray((x**2 + z**2 < 0.64) & (y > 0) & (y < 1.9))
        case _:
            return np.asarray((np.hypot(x, z) < 0.95 * (1 - y / 2)) & (y > 0) & (y < 2))


def ray(row: int, column: int, width: int, height: int) -> np.ndarray:
    """From the eye through the middle of a pixel, one tile deep along the camera's axis."""
    f = 1.2 * min(width, height * 4 / 3)
    forward = np.array([0, -math.sin(render.PITCH), math.cos(render.PITCH)])
    up = np.array([0, math.cos(render.PITCH), math.sin(render.PITCH)])
    return forward + (column + 0.5 - width / 2) / f * np.array([1, 0, 0]) - (row + 0.5 - height / 2) / f * up


@pytest.mark.parametrize("shape", render.SHAPES)
@pytest.mark.parametrize("size", render.SIZES)
def test_a_pixel_shows_a_solid_exactly_where_its_ray_enters_it(shape: str, size: str) -> None:
    solid = render.Solid(shape, "red", size, 0.7, 8.0, 0.4)
    view = render.look([solid], 60, 45)
    eye = np.array([0, render.CAMERA, 0])
    for row in range(0, 45, 2):
        for column in range(0, 60, 2):
            direction, t = ray(row, column, 60, 45), view.distance[row, column]
            before = eye + np.linspace(0, t - 1e-6, 1500)[:, None] * direction
            assert not inside(solid, before).any()  # nothing was passed over
            if view.ids[row, column] == 0:
                assert inside(solid, eye + (t + 1e-6) * direction)
            elif view.ids[row, column] == render.FLOOR_ID:
                assert (eye + t * direction)[1] == pytest.approx(0, abs=1e-9)
            else:
                assert (eye + t * direction)[2] == pytest.approx(render.WALL)


@pytest.mark.parametrize("seed", range(4))
def test_boxes_depths_and_visible_shares_are_those_of_the_masks(seed: int) -> None:
    scene = layout.draw(np.random.default_rng(seed), 120, 96)
    for index, thing in enumerate(scene.things):
        pixels = np.argwhere(scene.view.ids == index)
        (top, left), (bottom, right) = pixels.min(axis=0), pixels.max(axis=0) + 1
        assert thing.box == (left, top, right, bottom)
        assert thing.depth == pytest.approx(np.mean([scene.view.depth[tuple(p)] for p in pixels]), abs=1e-6)
        alone = render.look([thing.solid], 120, 96)
        assert thing.visible == len(pixels) / np.count_nonzero(alone.ids == 0)
        assert thing.visible >= layout.VISIBLE


@pytest.mark.parametrize(("width", "height"), [(64, 64), (300, 64), (64, 300)])
def test_every_shape_of_picture_gets_scenes_with_everything_inside(width: int, height: int) -> None:
    scene = layout.draw(np.random.default_rng(1), width, height)
    assert render.render(scene.view).shape == (height, width, 3)
    for thing in scene.things:
        x1, y1, x2, y2 = thing.box
        assert 0 < x1 < x2 < width
        assert 0 < y1 < y2 < height


def test_depth_is_the_normalised_inverse_distance() -> None:
    view = layout.draw(np.random.default_rng(3), 120, 96).view
    disparity = 1 / view.distance
    expected = 1 - (disparity - disparity.min()) / (disparity.max() - disparity.min())
    assert view.depth.dtype == np.float32
    np.testing.assert_allclose(view.depth, expected, atol=1e-6)
    assert view.depth[np.unravel_index(view.distance.argmin(), view.distance.shape)] == 0


def test_colours_are_seen_where_the_objects_are() -> None:
    scene = layout.draw(np.random.default_rng(5), 224, 168)
    picture = render.render(scene.view)
    for index, thing in enumerate(scene.things):
        mean = picture[scene.view.ids == index].mean(axis=0)
        distances = {
            color: np.linalg.norm(mean / mean.max() - np.array(rgb) / max(rgb))
            for color, rgb in render.COLORS.items()
        }
        assert min(distances, key=distances.__getitem__) == thing.solid.color


def test_two_things_are_compared_only_where_they_differ_clearly() -> None:
    for seed in range(6):
        scene = layout.draw(np.random.default_rng(seed), 120, 96)
        for a in range(len(scene.things)):
            assert not questions.side(scene, a, a)
            for b in range(len(scene.things)):
                # What holds of a and b, the opposite holds of b and a.
                opposite = {
                    "left": "right",
                    "right": "left",
                    "in front": "behind",
                    "behind": "in front",
                    "": "",
                }
                assert questions.side(scene, b, a) == opposite[questions.side(scene, a, b)]
                assert questions.order(scene, b, a) == opposite[questions.order(scene, a, b)]
                assert not (questions.larger(scene, a, b) and questions.larger(scene, b, a))
                if questions.order(scene, a, b):
                    assert abs(scene.things[a].depth - scene.things[b].depth) >= questions.DEEPER
