"""Boxes of picture files with an orientation: they go where the thing in the picture goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sifthinker import config
from sifthinker.core import boxes, images
from sifthinker.core.records import Box, Reject, Sample
from sifthinker.evaluation.benchmarks import BENCHMARKS
from sifthinker.evaluation.benchmarks.selection import open_benchmark
from tests.ingested import ingest
from tests.odd_pictures import UPRIGHT, Pixels, oriented

WIDTH, HEIGHT = 50, 30  # as stored
THING = (7, 3, 21, 11)  # pixels, as stored
TURNS = range(1, 9)


def scene(width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    """Black, with one thing in white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = THING
    pixels[y1:y2, x1:x2] = 255
    return pixels


def around(pixels: Pixels) -> tuple[int, int, int, int]:
    """The box of the thing in a picture, in pixels."""
    ys, xs = np.nonzero(pixels[..., 0] > 127)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def ingested(folder: Path, row: dict[str, Any], form: str = "viscot") -> Sample | Reject:
    (folder / "rows.json").write_text(json.dumps([row]))
    (out,) = ingest(
        [config.Source(name="s", format=form, path=folder / "rows.json", images=folder)], config.Ingest()
    )
    return out


def metadata(box: tuple[int, int, int, int], size: tuple[int, int] | None) -> dict[str, Any]:
    row = {"question": "What?", "answer": "A", "image": "a.png", "bboxs": [list(box)], "dataset": "vsr"}
    return {**row, "split": "train", **({"width": size[0], "height": size[1]} if size else {})}


def check(found: Sample | Reject, folder: Path) -> None:
    """The sample's box holds the thing, to the pixel, in the picture that everyone sees."""
    assert isinstance(found, Sample), found
    seen = np.asarray(images.rgb(images.read(folder, "a.png", 10_000).data))
    height, width = seen.shape[:2]
    assert (found.width, found.height) == (width, height)
    x1, y1, x2, y2 = found.boxes[0]
    assert (x1 * width, y1 * height, x2 * width, y2 * height) == pytest.approx(around(seen), abs=1e-9)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("form", ["viscot", "tallyqa"])
def test_boxes_that_go_with_the_stored_size_or_none_are_turned(
    tmp_path: Path, orientation: int, form: str
) -> None:
    (tmp_path / "a.png").write_bytes(oriented("PNG", orientation, scene())[0])
    for size in ((WIDTH, HEIGHT), None):
        check(ingested(tmp_path, metadata(THING, size), form), tmp_path)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_that_go_with_the_upright_size_are_of_the_upright_picture(
    tmp_path: Path, orientation: int
) -> None:
    data, upright = oriented("PNG", orientation, scene())
    (tmp_path / "a.png").write_bytes(data)
    check(ingested(tmp_path, metadata(around(upright), (HEIGHT, WIDTH))), tmp_path)


@pytest.mark.parametrize("orientation", TURNS)
def test_a_size_that_stored_and_upright_picture_share_goes_with_the_stored_one(
    tmp_path: Path, orientation: int
) -> None:
    (tmp_path / "a.png").write_bytes(oriented("PNG", orientation, scene(40, 40))[0])
    check(ingested(tmp_path, metadata(THING, (40, 40))), tmp_path)


@pytest.mark.parametrize("orientation", TURNS)
def test_a_size_that_is_neither_is_a_reject(tmp_path: Path, orientation: int) -> None:
    (tmp_path / "a.png").write_bytes(oriented("PNG", orientation, scene())[0])
    found = ingested(tmp_path, metadata(THING, (WIDTH, HEIGHT + 1)))
    assert isinstance(found, Reject) and found.reason == "size-mismatch"


@pytest.mark.parametrize("orientation", TURNS)
def test_a_conversation_s_box_is_compared_on_the_stored_canvas_and_turned(
    tmp_path: Path, orientation: int
) -> None:
    (tmp_path / "a.png").write_bytes(oriented("PNG", orientation, scene())[0])
    canvas = [round(v, 3) for v in boxes.to_padded(boxes.from_pixels(THING, WIDTH, HEIGHT), WIDTH, HEIGHT)]
    values = ["<image>\nWhat?", json.dumps(canvas), "<image>", "A"]
    turns = [{"from": who, "value": value} for who, value in zip(("human", "gpt") * 2, values, strict=True)]
    row = {"dataset": "gqa", "split": "train", "question_id": 1, "conversations": turns}
    check(ingested(tmp_path, {**row, "image": ["a.png", f"a.png###{list(THING)}"]}), tmp_path)


@pytest.mark.parametrize("orientation", TURNS)
def test_turned_and_turned_back_is_the_box(orientation: int) -> None:
    back = {6: 8, 8: 6}.get(orientation, orientation)
    width, height = (WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH)
    turned = boxes.turned(THING, WIDTH, HEIGHT, orientation)
    assert turned == around(UPRIGHT[orientation](scene()))
    assert boxes.turned(turned, width, height, back) == THING


def truth(name: str, reference: str, width: int, height: int) -> Box:
    """The box of a benchmark's reference, in pixels."""
    read = json.loads(reference)
    if name == "refcoco":
        return boxes.to_pixels(read, width, height)
    x, y, w, h = read["objects"][0][1]
    return x, y, x + w, y + h


def benchmark(name: str, folder: Path, box: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    x1, y1, x2, y2 = box
    if name == "refcoco":
        row = {"img_path": "a.png", "expression": "thing", "bbox": list(box), "dataset_name": "x/refcoco"}
        row |= {"width": size[0], "height": size[1], "sent_id": 1, "split": "val"}
        (folder / "REC_refcoco_unc_val.jsonl").write_text(json.dumps(row) + "\n")
        return
    picture = {"file_name": "a.png", "id": 1, "width": size[0], "height": size[1], "text": ["thing"]}
    thing = {"id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": 1, "image_id": 1}
    document = {"categories": [{"id": 1, "name": "thing"}], "images": [picture], "annotations": [thing]}
    (folder / "material.json").write_text(json.dumps(document))


@pytest.mark.parametrize("name", ["refcoco", "ovdeval"])
@pytest.mark.parametrize("orientation", TURNS)
def test_a_benchmark_s_boxes_go_with_its_pictures(tmp_path: Path, name: str, orientation: int) -> None:
    data, upright = oriented("PNG", orientation, scene())
    (tmp_path / "a.png").write_bytes(data)
    split = "refcoco_val" if name == "refcoco" else "material"
    height, width = upright.shape[:2]
    for box, size in ((THING, (WIDTH, HEIGHT)), (around(upright), (width, height))):
        if size == (width, height) == (WIDTH, HEIGHT) and box != THING:
            continue  # a size that both have goes with the stored pixels
        benchmark(name, tmp_path, box, size)
        source = config.Benchmark(name=name, path=tmp_path, images=tmp_path, split=split)
        job, rejects = open_benchmark(source, BENCHMARKS[name], None, 0)
        assert not rejects
        ((question, _),) = [item for item in job.questions() if isinstance(item, tuple)]
        assert (question.width, question.height) == (width, height)
        assert truth(name, question.reference, width, height) == pytest.approx(around(upright))
