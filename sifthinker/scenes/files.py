"""Writes scenes and questions as the files that data sets and benchmarks come in (PAPER.md F2.1, F2.3, M7.1, M7.4, M7.6).

    viscot.json            one-object questions, VisCoT conversations: pixel box and box on the padded square
    tallyqa.json           counting questions, a box for every counted thing
    images/scenes/*.jpg    what those two are about
    depth/scenes/*.png     exact depth of the same pictures, 16-bit, 0 = nearest, 65535 = farthest
    sif/                   held out: viscot.json, images/scenes/*.jpg; the data set of a row names how many things
                           its scene has, "scenes-3"
    vstar/                 V*Bench: test_questions.jsonl, a folder a category
    refcoco/               RefCOCO+ testB: expressions, images/
    spatialbench/          positional, existence, counting, size: .json, images, and depth in millimetres (_d)
    scenes.json            the settings, and every scene's objects: the truth behind all of the above

Training and each benchmark draw their scenes from streams of random numbers of their own; so do the scenes that the
miniature was pre-trained on and held out from (`stream`).
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sifthinker import config
from sifthinker.core import boxes, depth_maps, errors
from sifthinker.scenes import layout, questions, render
from sifthinker.scenes.layout import Scene
from sifthinker.scenes.questions import Question

_LOG = logging.getLogger(__name__)
_STREAMS = ("train", "vstar", "refcoco", "spatialbench", "pretrain", "pretrain-held-out", "sif")
_PER_SCENE = 4  # training questions about one picture, of which the last counts
_OFFERING = 1 / 3  # of the training questions are asked as benchmarks ask them
_REFCOCO = "REC_refcoco+_unc_testB.jsonl"
_BOX_SENTENCE = (
    "Please provide the bounding box coordinate of the region that can help you answer the question better."
)
_MM = 1000  # a floor tile is taken for a metre


def write(out: Path, config: config.Scenes) -> dict[str, int]:
    """Renders the scenes into the folder `out`; returns how many rows each file has, by name, and "scenes".

    The folder appears whole or not at all. An earlier one of the same settings is replaced.

    Raises:
        UserError: `out` exists and is something else.
    """
    _check(out, config)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        folder = _Folder(Path(temporary) / "new", config)
        rows = _train(folder)
        for name in config.benchmarks:
            rows |= _BENCHMARKS[name](folder)
        folder.finish()
        if out.exists():
            out.rename(Path(temporary) / "old")
        folder.root.rename(out)
    _LOG.info("%d scenes in %s: %s", len(folder.records), out, rows)
    return {**rows, "scenes": len(folder.records)}


def sources(folder: Path) -> tuple[config.Source, ...]:
    """A written folder's training files for the pipeline."""
    images = folder / "images"
    return (
        config.Source(name="scenes", format="viscot", path=folder / "viscot.json", images=images),
        config.Source(name="scenes-counting", format="tallyqa", path=folder / "tallyqa.json", images=images),
    )


def benchmarks(folder: Path) -> tuple[config.Benchmark, ...]:
    """A written folder's benchmarks for the pipeline."""
    known = (
        config.Benchmark(name="sif", path=folder / "sif" / "viscot.json", images=folder / "sif" / "images"),
        config.Benchmark(name="vstar", path=folder / "vstar", images=folder / "vstar"),
        config.Benchmark(
            name="refcoco",
            path=folder / "refcoco" / _REFCOCO,
            images=folder / "refcoco" / "images",
            split="refcoco+_testB",
        ),
        config.Benchmark(name="spatialbench", path=folder / "spatialbench", images=folder / "spatialbench"),
    )
    return tuple(benchmark for benchmark in known if (folder / benchmark.name).is_dir())


def stream(
    name: str,
    seed: int,
    width: int,
    height: int,
    start: int = 0,
    fewest: int = layout.FEWEST,
    most: int = layout.MOST,
) -> Iterator[tuple[Scene, np.random.Generator]]:
    """Scenes without end from number `start` on, each with the random numbers for its questions.

    No two streams share random numbers, whatever their seeds: the name is part of every scene's own seed.
    """
    # SeedSequence takes no negative numbers.
    entropy = (seed % 2**64, _STREAMS.index(name))
    for index in itertools.count(start):
        rng = np.random.default_rng((*entropy, index))
        yield layout.draw(rng, width, height, fewest, most), rng


class _Folder:
    """The folder being written."""

    def __init__(self, root: Path, settings: config.Scenes) -> None:
        self.root = root
        self.settings = settings
        self.records: list[dict[str, Any]] = []
        root.mkdir()

    def stream(self, name: str) -> Iterator[tuple[Scene, np.random.Generator]]:
        """`stream` of these settings."""
        at = self.settings
        return stream(name, at.seed, at.width, at.height, fewest=at.fewest, most=at.most)

    def save(self, scene: Scene, stream: str, image: str) -> None:
        """Writes the picture (path in the folder) and notes the scene."""
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
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def array(self, path: str, rows: Iterable[Any]) -> None:
        """A JSON array, one row a line."""
        self.bytes(path, ("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n").encode())

    def lines(self, path: str, rows: Iterable[Any]) -> None:
        self.bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def finish(self) -> None:
        settings = self.settings.model_dump_json()
        records = ",\n".join(json.dumps(record) for record in self.records)
        self.bytes("scenes.json", f'{{"settings": {settings},\n"scenes": [\n{records}\n]}}\n'.encode())


def _check(out: Path, settings: config.Scenes) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        earlier = json.loads((out / "scenes.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.UserError(
            f"{out}: exists and is no folder of scenes; name another or move it away"
        ) from error
    if earlier != settings.model_dump(mode="json"):
        raise errors.UserError(
            f"{out}: holds scenes of other settings, {earlier}; name another folder or move it away"
        )


def _train(folder: _Folder) -> dict[str, int]:
    one_object: list[dict[str, Any]] = []
    counting: list[dict[str, Any]] = []
    used: Counter[tuple[str, ...]] = Counter()
    scenes = folder.stream("train")
    for index in itertools.count():
        missing = folder.settings.rows - len(one_object) - len(counting)
        if not missing:
            break
        scene, rng = next(scenes)
        asked = [tuple(questions.one_object(scene))] * (_PER_SCENE - 1) + [tuple(questions.counts(scene))]
        chosen: list[Question] = []
        for candidates in asked[:missing]:
            if question := questions.pick([q for q in candidates if q not in chosen], used, rng):
                chosen.append(question)
        stem = f"scenes/scene_{index:06d}"
        for question in chosen:
            if rng.random() < _OFFERING:
                question = _as_benchmarks_ask(question, rng)
            if question.kind == "count":
                counting.append(_tallyqa(scene, question, f"{stem}.jpg", len(counting)))
            else:
                one_object.append(_viscot(scene, question, f"{stem}.jpg", len(one_object), "scenes", "train"))
        folder.save(scene, "train", f"images/{stem}.jpg")
        folder.bytes(f"depth/{stem}.png", depth_maps.encode(scene.view.depth))
    folder.array("viscot.json", one_object)
    folder.array("tallyqa.json", counting)
    return {"viscot": len(one_object), "tallyqa": len(counting)}


def _as_benchmarks_ask(question: Question, rng: np.random.Generator) -> Question:
    if question.answer in ("yes", "no"):
        return replace(
            question, text=f"{question.text} Answer with Yes or No.", answer=question.answer.capitalize()
        )
    text, answer = questions.offering(question.kind, question.text, question.answer, rng)
    return replace(question, text=text, answer=answer)


def _sif(folder: _Folder) -> dict[str, int]:
    rows: list[dict[str, Any]] = []
    used: Counter[tuple[str, ...]] = Counter()
    for index, (scene, rng) in enumerate(folder.stream("sif")):
        missing = folder.settings.benchmark_rows - len(rows)
        if not missing:
            break
        asked = tuple(questions.one_object(scene))
        image, things = f"scenes/scene_{index:06d}.jpg", f"scenes-{len(scene.things)}"
        chosen: list[Question] = []
        for _ in range(min(missing, _PER_SCENE - 1)):
            if question := questions.pick([q for q in asked if q not in chosen], used, rng):
                chosen.append(question)
                rows.append(_viscot(scene, question, image, len(rows), things, "test"))
        folder.save(scene, "sif", f"sif/images/{image}")
    folder.array("sif/viscot.json", rows)
    return {"sif": len(rows)}


def _viscot(
    scene: Scene, question: Question, image: str, number: int, dataset: str, split: str
) -> dict[str, Any]:
    (thing,) = question.things
    box = scene.things[thing].box
    view = scene.view
    padded = boxes.to_padded(boxes.from_pixels(box, view.width, view.height), view.width, view.height)
    turns = (
        f"<image>\n{question.text} {_BOX_SENTENCE}",
        "[" + ", ".join(f"{value:.3f}" for value in padded) + "]",
        "<image>",
        question.answer,
    )
    return {
        "dataset": dataset,
        "split": split,
        "question_id": number,
        "image": [f"cot/{image}", f"cot/{image}###{list(box)}"],
        "conversations": [
            {"from": speaker, "value": value}
            for speaker, value in zip(("human", "gpt", "human", "gpt"), turns, strict=True)
        ],
    }


def _tallyqa(scene: Scene, question: Question, image: str, number: int) -> dict[str, Any]:
    return {
        "question_id": number,
        "question": question.text,
        "answer": int(question.answer),
        "image": image,
        "width": scene.view.width,
        "height": scene.view.height,
        "bboxs": [scene.things[thing].box for thing in question.things],
        "dataset": "scenes-counting",
        "split": "train",
    }


def _vstar(folder: _Folder) -> dict[str, int]:
    rows: list[dict[str, Any]] = []
    used: Counter[tuple[str, ...]] = Counter()
    scenes = folder.stream("vstar")
    while len(rows) < folder.settings.benchmark_rows:
        scene, rng = next(scenes)
        number = len(rows)
        spatial = number % 5 in (1, 3)  # 115 to 76 in the real one
        asked = questions.sides(scene) if spatial else (*questions.colors(scene), *questions.shapes(scene))
        question = questions.pick(tuple(asked), used, rng)
        if question is None:
            continue
        category = "relative_position" if spatial else "direct_attributes"
        known = {"color": [*render.COLORS], "shape": [*render.SHAPES], "side": ["left", "right"]}
        others = [option for option in known[question.kind] if option != question.answer]
        wrong = [str(option) for option in rng.permutation(others)[:3]]
        # The right letter goes round, so that no letter is right more often than the others.
        right = used[(category,)] % (len(wrong) + 1)
        used[(category,)] += 1
        options = [*wrong[:right], question.answer, *wrong[right:]]
        text = question.text.replace("to the left or to the right of", "on the left or right side of")
        image = f"{category}/scene_{number:06d}"
        rows.append(
            {
                "image": f"{image}.jpg",
                "text": "\n".join([text, *questions.lettered(options), questions.LETTER]),
                "category": category,
                "label": "ABCD"[right],
                "question_id": number,
            }
        )
        folder.save(scene, "vstar", f"vstar/{image}.jpg")
        thing = scene.things[question.things[0]]
        x1, y1, x2, y2 = thing.box
        target = questions.phrase(thing.solid.size, thing.solid.color, thing.solid.shape)
        beside = {  # as published, the right option first
            "target_object": [target],
            "bbox": [[x1, y1, x2 - x1, y2 - y1]],
            "question": text,
            "options": [question.answer, *wrong],
        }
        folder.bytes(f"vstar/{image}.json", json.dumps(beside).encode())
    folder.lines("vstar/test_questions.jsonl", rows)
    return {"vstar": len(rows)}


def _refcoco(folder: _Folder) -> dict[str, int]:
    rows: list[dict[str, Any]] = []
    scenes = folder.stream("refcoco")
    for number in itertools.count():
        missing = folder.settings.benchmark_rows - len(rows)
        if not missing:
            break
        scene, rng = next(scenes)
        image = f"scene_{number:06d}.jpg"
        # Two things a scene, each called by up to two names, as several people describe one thing in RefCOCO.
        named = [
            (index, words)
            for index in rng.permutation(len(scene.things))[:2]
            for words in questions.expressions(scene, int(index))[:2]
        ]
        rows += [
            {
                "img_path": image,
                "expression": words,
                "bbox": [float(value) for value in scene.things[index].box],
                "dataset_name": "scenes/refcocoplus",
                "height": scene.view.height,
                "width": scene.view.width,
                "image_id": number,
                "sent_id": len(rows) + offset,
                "split": "testB",
            }
            for offset, (index, words) in enumerate(named[:missing])
        ]
        folder.save(scene, "refcoco", f"refcoco/images/{image}")
    folder.lines(f"refcoco/{_REFCOCO}", rows)
    return {"refcoco": len(rows)}


def _spatialbench(folder: _Folder) -> dict[str, int]:
    ask: dict[str, Callable[[Scene], Iterator[tuple[Question, ...]]]] = {
        "positional": lambda scene: (
            (question,) for question in (*questions.sides(scene), *questions.orders(scene))
        ),
        "existence": questions.existence_pairs,
        "counting": lambda scene: ((question,) for question in questions.counts(scene)),
        "size": questions.size_pairs,
    }
    rows: dict[str, list[dict[str, Any]]] = {category: [] for category in ask}
    used: Counter[tuple[str, ...]] = Counter()
    scenes = folder.stream("spatialbench")
    # 34, 40, 20 and 40 rows in the real one.
    turns = itertools.cycle(("existence", "positional", "size", "counting", "positional"))
    for number in itertools.count():
        missing = folder.settings.benchmark_rows - sum(map(len, rows.values()))
        if not missing:
            break
        category = next(turns)
        if missing == 1 and category in ("existence", "size"):
            continue
        scene, rng = next(
            (scene, rng) for scene, rng in scenes if next(ask[category](scene), None) is not None
        )
        groups = list(ask[category](scene))
        first = questions.pick([group[0] for group in groups], used, rng)
        fitting = [group for group in groups if group[0] == first]
        image = f"scene_{number:06d}"
        for question in fitting[rng.integers(len(fitting))]:
            rows[category].append(_spatialbench_row(category, question, f"{category}/{image}.jpg", rng))
        folder.save(scene, "spatialbench", f"spatialbench/{category}/{image}.jpg")
        millimetres = (scene.view.distance * _MM).round().astype(np.uint16)
        folder.bytes(f"spatialbench/{category}_d/{image}.png", _png(millimetres))
    for category, written in rows.items():
        folder.array(f"spatialbench/{category}.json", written)
    return {"spatialbench": sum(map(len, rows.values()))}


def _spatialbench_row(
    category: str, question: Question, image: str, rng: np.random.Generator
) -> dict[str, Any]:
    if category == "counting":
        return {
            "image": image,
            "question": f"{question.text} Answer with a number.",
            "answer": int(question.answer),
        }
    if category == "positional":
        options = ["left", "right"] if question.kind == "side" else ["in front", "behind"]
        if rng.integers(2):
            options.reverse()
        text = " ".join([question.text, *questions.lettered(options), questions.LETTER])
        return {"image": image, "question": text, "answer": "AB"[options.index(question.answer)]}
    return {"image": image, "question": f"{question.text} Answer with Yes or No.", "answer": question.answer}


_BENCHMARKS: dict[str, Callable[[_Folder], dict[str, int]]] = {
    "sif": _sif,
    "vstar": _vstar,
    "refcoco": _refcoco,
    "spatialbench": _spatialbench,
}


def jpeg(scene: Scene) -> bytes:
    """The picture of a scene as a file."""
    buffer = io.BytesIO()
    Image.fromarray(render.render(scene.view)).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _png(values: np.ndarray[Any, np.dtype[np.uint16]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()
