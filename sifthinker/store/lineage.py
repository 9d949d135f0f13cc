"""What an artifact was made from, back to the users' files and the pre-trained weights: as a tree, and as a picture.

It is read from the manifests alone, so that what is long gone from the store is still in the chain, as a gap.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from sifthinker.store.digests import sha256
from sifthinker.store.manifest import Ref

SHORT = 10  # hex digits of a key or a digest that are shown
Manifests = Callable[[str, str], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Node:
    """An artifact in the chain."""

    name: str  # <stage>/<key>
    digest: str
    manifest: Mapping[str, Any] | None  # None: gone from the store, and what it was made from is not known
    inputs: tuple[tuple[str, str], ...]  # what it was to its maker ("base"), and its name

    @property
    def label(self) -> str:
        return str(self.manifest["label"]) if self.manifest else self.name.partition("/")[0]

    @property
    def key(self) -> str:
        return self.name.partition("/")[2]

    @property
    def is_model(self) -> bool:
        named = [*self.manifest["files"], *self.manifest.get("external", ())] if self.manifest else []
        return any(name.endswith(".safetensors") or name == "path" for name in named)

    @property
    def made(self) -> str:
        """When, and how long it took."""
        if self.manifest is None:
            return "gone from the store"
        at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.manifest["made"]))
        return f"{at}, {self.manifest['seconds']:,.1f} s"

    @property
    def rows(self) -> str:
        if self.manifest is None:
            return ""
        rows = self.manifest["rows"]
        lost = sum(rows["rejected"].values())
        return f"{rows['in']:,} in, {rows['kept']:,} kept" + (f", {lost:,} rejected" if lost else "")

    @property
    def code(self) -> str:
        """The digest of all modules that it was made with, and torch where it was there."""
        if self.manifest is None:
            return ""
        code = sha256(self.manifest["identity"]["code"])[:SHORT]
        torch = self.manifest["versions"].get("torch")
        return f"code {code}" + (f", torch {torch}" if torch else "")

    @property
    def doubts(self) -> str:
        """What about it was not the real thing."""
        notes = self.manifest["notes"] if self.manifest else {}
        said = {
            "toy": "random toy",
            "miniature": "miniature",
            "standin": "answers of the stand-in",
        }
        return ", ".join(text for name, text in said.items() if notes.get(name))


def named(store: Store, text: str) -> Ref | None:
    """The artifact of <stage>/<key>, whose key may be cut short; None where the text is of another form.

    Raises:
        UserError: the store has none of that name, or several.
    """
    if not re.fullmatch(r"[a-z_]+(\.parts)?/[0-9a-f]+", text):
        return None
    stage, _, start = text.partition("/")
    keys = [str(m["key"]) for m in store.manifests(stage) if str(m["key"]).startswith(start)]
    if not keys and (manifest := store.manifest(stage, start)):  # on the remote alone
        keys = [str(manifest["key"])]
    if len(keys) != 1:
        found = (
            f"fits {', '.join(keys)}; write more of it" if keys else "is not in the store; see `sif status`"
        )
        raise UserError(f"artifact {text}: {found}")
    manifest = store.manifest(stage, keys[0])
    assert manifest
    return Ref(stage=stage, key=keys[0], digest=manifest["digest"])


def trace(manifests: Manifests, ref: Ref) -> dict[str, Node]:
    """The artifact and everything that it was made from, by name: what is made from others before them, it itself first.

    Args:
        manifests: the manifest of a stage and a key, None where there is none (`Store.manifest`).
        ref: of the artifact.
    """
    nodes: dict[str, Node] = {}
    ahead = [ref]
    while ahead:
        ref = ahead.pop(0)
        name = f"{ref.stage}/{ref.key}"
        if name in nodes:
            continue
        try:
            manifest = manifests(ref.stage, ref.key)
        except ValueError:  # not JSON: as good as gone
            manifest = None
        given = {role: Ref(**of) for role, of in manifest["inputs"].items()} if manifest else {}
        inputs = tuple((role, f"{of.stage}/{of.key}") for role, of in given.items())
        nodes[name] = Node(name, ref.digest, manifest, inputs)
        ahead += given.values()
    depth: dict[str, int] = {}

    def below(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((below(of) for _, of in nodes[name].inputs), default=0)
        return depth[name]

    return {name: nodes[name] for name in sorted(nodes, key=below, reverse=True)}


def tree(nodes: Mapping[str, Node]) -> Iterator[tuple[str, Node | None]]:
    """Lines of a tree, and the node of each; one that stands above already is named again without its own inputs."""
    seen: set[str] = set()

    def lines(name: str, role: str, first: str, rest: str) -> Iterator[tuple[str, Node | None]]:
        node = nodes[name]
        what = f"{role}: {node.label}" if role else node.label
        if name in seen:
            yield f"{first}{what} {node.key[:SHORT]} (above)", None
            return
        seen.add(name)
        yield f"{first}{what} {node.key[:SHORT]}", node
        files = node.manifest["identity"].get("files", {}) if node.manifest else {}
        last = len(node.inputs) + len(files) - 1
        for number, (role_, input_) in enumerate(node.inputs):
            end = number == last
            yield from lines(
                input_, role_, f"{rest}{'└─ ' if end else '├─ '}", f"{rest}{'   ' if end else '│  '}"
            )
        for number, (file, digest) in enumerate(files.items(), len(node.inputs)):
            yield f"{rest}{'└─ ' if number == last else '├─ '}file {file}: {digest[:SHORT]}", None

    yield from lines(next(iter(nodes)), "", "", "")


def table(nodes: Mapping[str, Node]) -> str:
    """The same in Markdown, a row an artifact."""
    head = ["| artifact | from | made | rows | with | digest |", "|---|---|---|---|---|---|"]
    return "\n".join(
        head
        + [
            f"| **{node.label}** `{node.name}` | {', '.join(dict.fromkeys(nodes[of].label for _, of in node.inputs))} "
            f"| {node.made} | {node.rows} | {'; '.join(filter(None, (node.code, node.doubts)))} "
            f"| `{node.digest[:SHORT]}` |"
            for node in nodes.values()
        ]
    )


# --- the picture ------------------------------------------------------------------------------------------------
# Layers from top to bottom, each artifact as close as it can be to what is made from it; a line that passes a layer
# has a place of its own there, so that it crosses no box. Sizes in pixels; a page shows two of them as one.

WIDTH, HEIGHT, GAP, BETWEEN, LANE, MARGIN = 560, 192, 44, 72, 30, 24
PAPER, INK, QUIET, EDGE = "#ffffff", "#1d2125", "#626a73", "#aab2ba"
DATA, MODEL, FINAL, GONE, DOUBT = "#e9edf0", "#e4f0f8", "#cfe6d8", "#fdecea", "#8a5a00"


def picture(nodes: Mapping[str, Node]) -> bytes:
    """PNG of the chain: the users' data and weights on top, the artifact at the bottom."""
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
