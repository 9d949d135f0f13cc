"""The folder that scenes are written into: their random streams, their pictures, and what each of them holds."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sifthinker import config
from sifthinker.scenes import layout, render
from sifthinker.scenes.layout import Scene

# A stream's place is part of its scenes' seeds: new ones come last.
STREAMS = (
    "train",
    "vstar",
    "refcoco",
    "spatialbench",
    "pretrain",
    "pretrain-held-out",
    "sif",
    "several",
    "several-held-out",
    "tuning",
    "several-tuning",
)


def stream(
    name: str,
    seed: int,
    width: int,
    height: int,
    start: int = 0,
    fewest: int = layout.FEWEST,
    most: int = layout.MOST,
    visible: float = layout.VISIBLE,
    alike: float = 0.0,
) -> Iterator[tuple[Scene, np.random.Generator]]:
    """Scenes without end from number `start` on, each with the random numbers for its questions.

    No two streams share random numbers, whatever their seeds: the name is part of every scene's own seed.
    """
    # SeedSequence takes no negative numbers.
    entropy = (seed % 2**64, STREAMS.index(name))
    for index in itertools.count(start):
        rng = np.random.default_rng((*entropy, index))
        yield layout.draw(rng, width, height, fewest, most, visible, alike), rng


class SceneFolder:
    """The folder being written."""

    def __init__(self, root: Path, settings: config.Scenes) -> None:
        """Creates the folder `root`."""
        self.root = root
        self.settings = settings
        self.records: list[dict[str, Any]] = []
        root.mkdir()

    def stream(self, name: str) -> Iterator[tuple[Scene, np.random.Generator]]:
        """`stream` of these settings."""
        at = self.settings
        return stream(name, at.seed, at.width, at.height, 0, at.fewest, at.most, at.visible, at.alike)

    def save(self, scene: Scene, stream: str, image: str) -> None:
        """Writes the picture of a scene to `image`, a path in the folder, and records what it shows."""
        self.bytes(image, jpeg(scene))
        distance = scene.view.distance
        self.records.append(
            {
                "stream": stream,
                "image": image,
                "nearest": round(float(distance.min()), 4),  # tiles along the camera's axis
                "farthest": round(float(distance.max()), 4),
                "objects": [
                    {
                        "shape": thing.solid.shape,
                        "color": thing.solid.color,
                        "size": thing.solid.size,
                        "position": [thing.solid.x, thing.solid.z],  # tiles: right, away from the viewer
                        "turn": thing.solid.turn,
                        "box": thing.box,  # pixels
                        "depth": round(thing.depth, 6),
                        "visible": round(thing.visible, 4),
                    }
                    for thing in scene.things
                ],
            }
        )

    def bytes(self, path: str, data: bytes) -> None:
        """Writes a file, by its path in the folder."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def array(self, path: str, rows: Iterable[Any]) -> None:
        """Writes a JSON array, one row a line."""
        self.bytes(path, ("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n").encode())

    def lines(self, path: str, rows: Iterable[Any]) -> None:
        """Writes JSON lines."""
        self.bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def finish(self) -> None:
        """Writes `scenes.json`: the settings, and what every scene shows."""
        settings = json.dumps(written(self.settings), separators=(",", ":"))
        records = ",\n".join(json.dumps(record) for record in self.records)
        self.bytes("scenes.json", f'{{"settings": {settings},\n"scenes": [\n{records}\n]}}\n'.encode())


def written(settings: config.Scenes) -> dict[str, Any]:
    """The settings as they are written down: without fields that came later and have their default."""
    return json.loads(json.dumps(config.identity(settings)))  # type: ignore[no-any-return]


def jpeg(scene: Scene) -> bytes:
    """The picture of a scene as a file."""
    buffer = io.BytesIO()
    Image.fromarray(render.render(scene.view)).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def png(values: np.ndarray[Any, np.dtype[np.uint16]]) -> bytes:
    """A 16-bit grey picture (H, W) as a file."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()
