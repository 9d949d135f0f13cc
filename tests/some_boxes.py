"""Boxes for the tests of geometry: the release's own outputs, and strategies that draw any."""

import json
from pathlib import Path

from hypothesis import strategies as st

from sifthinker.core.records import Box


def vectors(shared: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (shared / "vectors" / name).read_text().splitlines()]


@st.composite
def some_box(draw: st.DrawFn, decimals: int | None = None) -> Box:
    if decimals is not None:
        grid = 10**decimals
        x1, y1 = draw(st.integers(0, grid - 1)), draw(st.integers(0, grid - 1))
        x2, y2 = draw(st.integers(x1 + 1, grid)), draw(st.integers(y1 + 1, grid))
        return x1 / grid, y1 / grid, x2 / grid, y2 / grid
    x = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda v: abs(v[0] - v[1]) > 1e-5)))
    y = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda v: abs(v[0] - v[1]) > 1e-5)))
    return x[0], y[0], x[1], y[1]


some_boxes = st.lists(some_box(), min_size=1, max_size=6)
side = st.integers(1, 6000)
