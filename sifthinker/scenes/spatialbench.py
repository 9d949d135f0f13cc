"""Writes SpatialBench's format (PAPER.md M7.1)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sifthinker.scenes import questions
from sifthinker.scenes.folder import SceneFolder, png
from sifthinker.scenes.layout import Scene
from sifthinker.scenes.questions import Question

_MM = 1000  # in a tile of the floor, which counts as a metre


def write_spatialbench(folder: SceneFolder) -> dict[str, int]:
    """Writes `spatialbench/`: for each category the questions, the pictures, and their depth in millimetres."""
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
    # SpatialBench has 40 rows about existence, 34 positional ones, 40 about size and 20 that count.
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
        folder.bytes(f"spatialbench/{category}_d/{image}.png", png(millimetres))
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
