"""A picture of the artifacts behind one: the users' data and weights on top, the artifact at the bottom.

The artifacts stand in layers, each as close as it can be to what is made from it. A line that passes a layer has a lane of
its own there, so that it crosses no box. Sizes are in pixels; a page shows two of them as one.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

from PIL import Image, ImageDraw, ImageFont

from sifthinker.store.lineage import SHORT, Node

WIDTH, HEIGHT, GAP, BETWEEN, LANE, MARGIN = 560, 192, 44, 72, 30, 24
PAPER, INK, QUIET, EDGE = "#ffffff", "#1d2125", "#626a73", "#aab2ba"
DATA, MODEL, FINAL, GONE, DOUBT = "#e9edf0", "#e4f0f8", "#cfe6d8", "#fdecea", "#8a5a00"


def picture(nodes: Mapping[str, Node]) -> bytes:
    """PNG of a chain of artifacts.

    Args:
        nodes: as `sifthinker.store.lineage.trace` gives them, the artifact itself first.
    """
    layers, links = _layers(nodes)
    widths = [sum(_width(name) for name in layer) + GAP * (len(layer) - 1) for layer in layers]
    size = (max(widths) + 2 * MARGIN, len(layers) * (HEIGHT + BETWEEN) - BETWEEN + 2 * MARGIN)
    places: dict[str, tuple[int, int]] = {}  # the upper left corner
    for number, (layer, width) in enumerate(zip(layers, widths, strict=True)):
        x = (size[0] - width) // 2
        for name in layer:
            places[name] = (x, MARGIN + number * (HEIGHT + BETWEEN))
            x += _width(name) + GAP
    drawn = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(drawn)
    for upper, lower in links:
        (x1, y1), (x2, y2) = places[upper], places[lower]
        start, end = (x1 + _width(upper) / 2, y1 + HEIGHT), (x2 + _width(lower) / 2, y2)
        pen.line(_curve(start, end), fill=EDGE, width=4, joint="curve")
        if upper not in nodes:  # a lane: the line goes on through the layer
            pen.line([(start[0], y1), start], fill=EDGE, width=4)
        if lower in nodes:
            pen.polygon([(end[0] - 9, y2 - 15), (end[0] + 9, y2 - 15), (end[0], y2)], fill=EDGE)
    final = next(iter(nodes))
    for name, node in nodes.items():
        _box(pen, places[name], node, final=name == final)
    out = io.BytesIO()
    few = drawn.quantize(
        64, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
    )  # half the bytes, half the time
    few.save(out, "PNG")
    return out.getvalue()


def _width(name: str) -> int:
    return WIDTH if "/" in name else LANE


def _layers(nodes: Mapping[str, Node]) -> tuple[list[list[str]], list[tuple[str, str]]]:
    """Names by layer, lanes ("lane 7") among them; and the links between neighbouring layers."""
    level: dict[str, int] = {}  # from the artifact upwards
    for name, node in nodes.items():  # what is made from others comes before them
        level.setdefault(name, 0)
        for _, of in node.inputs:
            level[of] = max(level.get(of, 0), level[name] + 1)
    top = max(level.values())
    layers: list[list[str]] = [[] for _ in range(top + 1)]
    for name in nodes:
        layers[top - level[name]].append(name)
    links: list[tuple[str, str]] = []
    lanes = 0
    for name, node in nodes.items():
        for of in dict.fromkeys(of for _, of in node.inputs):
            lower = name
            for between in range(level[name] + 1, level[of]):
                lane = f"lane {(lanes := lanes + 1)}"
                layers[top - between].append(lane)
                links.append((lane, lower))
                lower = lane
            links.append((of, lower))
    for sweep in range(8):  # each between its neighbours: few crossings
        downwards = sweep % 2 == 0
        for number in range(1, len(layers)) if downwards else range(len(layers) - 2, -1, -1):
            beside = layers[number - 1] if downwards else layers[number + 1]
            place = {name: (n + 0.5) / len(beside) for n, name in enumerate(beside)}
            layer = layers[number]

            def middle(name: str, place: Mapping[str, float] = place, layer: Sequence[str] = layer) -> float:
                near = [place[a] for a, b in links if b == name and a in place]
                near += [place[b] for a, b in links if a == name and b in place]
                return fmean(near) if near else (layer.index(name) + 0.5) / len(layer)

            layers[number] = sorted(layer, key=middle)
    return layers, links


def _curve(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    """Points of a curve that leaves and arrives upright."""
    (x1, y1), (x2, y2) = start, end
    points = []
    for step in range(25):
        t = step / 24
        bend = t * t * (3 - 2 * t)
        points.append((x1 + (x2 - x1) * bend, y1 + (y2 - y1) * t))
    return points


def _box(pen: ImageDraw.ImageDraw, corner: tuple[int, int], node: Node, final: bool) -> None:
    x, y = corner
    fill = GONE if node.manifest is None else FINAL if final else MODEL if node.is_model else DATA
    pen.rounded_rectangle((x, y, x + WIDTH, y + HEIGHT), 14, fill=fill, outline=EDGE, width=3)
    pen.text((x + 20, y + 12), node.label, INK, _font("DejaVuSans-Bold", 30))
    if node.doubts:
        font = _font("DejaVuSans", 21)
        pen.text((x + WIDTH - 20 - font.getlength(node.doubts), y + 20), node.doubts, DOUBT, font)
    lines = [f"key {node.key[:SHORT]}   digest {node.digest[:SHORT]}", node.made, node.rows, node.code]
    for number, line in enumerate(lines):
        mono = "DejaVuSansMono" if number == 0 else "DejaVuSans"
        pen.text((x + 20, y + 56 + 31 * number), line, INK if number == 0 else QUIET, _font(mono, 22))


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Of those that matplotlib carries; importing it would take longer than the drawing."""
    found = find_spec("matplotlib")
    assert found and found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"{name}.ttf"), size)
