"""A small part of real form for the tests of publish, export, draw and report."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sifthinker.core import chain, depth_maps, tables
from sifthinker.core.images import ImageLibrary
from sifthinker.core.records import WHOLE, Annotation, Box, DepthMap, Sample
from sifthinker.data import publish

BOX: Box = (0.25, 0.25, 0.75, 0.5)


@dataclass
class Part:
    samples: list[Sample]
    chains: list[Annotation]
    maps: list[DepthMap]
    images: dict[str, Path]

    def rows(self) -> list[object]:
        chains = map(asdict, self.chains)
        return list(publish.rows(self.samples, chains, self.maps, ImageLibrary(self.images, 1_000_000)))

    def write(self, path: Path) -> Path:
        tables.write(path, tables.SIF, self.rows(), batch=publish.ROW_GROUP)
        return path


def photo(shade: int, width: int = 64, height: int = 48) -> bytes:
    """JPEG of a grey gradient; another shade is another file."""
    pixels = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None].repeat(height, 0).repeat(3, 2)
    pixels[:, :, 0] = shade
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def part(
    folder: Path,
    per_image: Sequence[int] = (2, 1),
    dataset: str = "gqa",
    answer: str = "A cat",
    text: str = "Here.",
    question: str = "What is it?",
) -> Part:
    """`per_image[i]` questions about image i; the image files are written below `folder`."""
    made = Part([], [], [], {"photos": folder})
    slope = np.tile(np.linspace(0, 1, 48, dtype=np.float32)[:, None], (1, 64))
    for number, count in enumerate(per_image):
        data = photo(number)
        name = f"deep/{dataset} {number}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        sha = hashlib.sha256(data).hexdigest()
        made.maps.append(DepthMap(sha, 64, 48, depth_maps.encode(slope)))
        for row in range(count):
            id = f"photos/{dataset}/{number}.{row}"
            made.samples.append(
                Sample(id, "photos", dataset, "train", question, answer, name, sha, 64, 48, (BOX,))
            )
            regions = depth_maps.regions([(WHOLE,), (BOX,)], slope)
            said = chain.render(chain.Chain(tuple(chain.Step(step, text) for step in regions), answer))
            made.chains.append(Annotation(id, regions, said, "standin", 1, 100, 20, ()))
    return made
