"""Writes questions with boxes in the formats of VisCoT and TallyQA (PAPER.md F2.1, F2.3): to train on, and held out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from sifthinker.core import boxes, depth_maps
from sifthinker.scenes import questions, several_looks
from sifthinker.scenes.folder import SceneFolder
from sifthinker.scenes.layout import Scene
from sifthinker.scenes.questions import Question

_PER_SCENE = 4  # training questions about one picture; the last of them asks for a number
_OFFERING = 1 / 3  # share of the training questions that are asked as benchmarks ask them
_BOX_SENTENCE = (
    "Please provide the bounding box coordinate of the region that can help you answer the question better."
)


_HELD_OUT = {"report": "sif", "tuning": "tuning"}  # streams by config.Scenes.held_out


def write_training(folder: SceneFolder) -> dict[str, int]:
    """Writes `viscot.json` and `tallyqa.json`, with the pictures and depth maps that both are about."""
    several = several_looks.training_rows(folder)
    rows = folder.settings.rows - len(several)
    one_object: list[dict[str, Any]] = []
    counting: list[dict[str, Any]] = []
    used: Counter[tuple[str, ...]] = Counter()
    counted = _in_turn if several else questions.counts
    scenes = folder.stream("train")
    for index in itertools.count():
        missing = rows - len(one_object) - len(counting)
        if not missing:
            break
        scene, rng = next(scenes)
        asked = [tuple(questions.one_object(scene))] * (_PER_SCENE - 1) + [tuple(counted(scene))]
        chosen: list[Question] = []
        for candidates in asked[:missing]:
            if question := questions.pick([q for q in candidates if q not in chosen], used, rng):
                chosen.append(question)
        stem = f"scenes/scene_{index:06d}"
        for question in chosen:
            if rng.random() < _OFFERING:
                question = _as_benchmarks_ask(question, rng)
            if question.kind == "count":
                counting.append(_tallyqa_row(scene, question, f"{stem}.jpg", len(counting)))
            else:
                one_object.append(
                    _viscot_row(scene, question, f"{stem}.jpg", len(one_object), "scenes", "train")
                )
        folder.save(scene, "train", f"images/{stem}.jpg")
        folder.bytes(f"depth/{stem}.png", depth_maps.encode(scene.view.depth))
    folder.array("viscot.json", one_object + several)
    folder.array("tallyqa.json", counting)
    found = {"viscot": len(one_object + several), "tallyqa": len(counting)}
    return found | {"several": len(several)} if several else found


def _in_turn(scene: Scene) -> Iterator[Question]:
    """Questions how many, where questions of several looks are asked too: things are counted in the same order everywhere."""
    for question in questions.counts(scene):
        if things := questions.in_turn(scene, question.things):
            yield replace(question, things=things)


def _as_benchmarks_ask(question: Question, rng: np.random.Generator) -> Question:
    if question.answer in ("yes", "no"):
        return replace(
            question, text=f"{question.text} Answer with Yes or No.", answer=question.answer.capitalize()
        )
    text, answer = questions.offering(question.kind, question.text, question.answer, rng)
    return replace(question, text=text, answer=answer)


def write_sif(folder: SceneFolder) -> dict[str, int]:
    """Writes `sif/`: held-out questions in VisCoT's format; the data set of a row tells how many things there are."""
    rows: list[dict[str, Any]] = []
    used: Counter[tuple[str, ...]] = Counter()
    several = several_looks.held_out_rows(folder, "sif/")
    stream = _HELD_OUT[folder.settings.held_out]
    for index, (scene, rng) in enumerate(folder.stream(stream)):
        missing = folder.settings.benchmark_rows - len(several) - len(rows)
        if not missing:
            break
        asked = tuple(questions.one_object(scene))
        image, things = f"scenes/scene_{index:06d}.jpg", f"scenes-{len(scene.things)}"
        chosen: list[Question] = []
        for _ in range(min(missing, _PER_SCENE - 1)):
            if question := questions.pick([q for q in asked if q not in chosen], used, rng):
                chosen.append(question)
                rows.append(_viscot_row(scene, question, image, len(rows), things, "test"))
        folder.save(scene, stream, f"sif/images/{image}")
    folder.array("sif/viscot.json", rows + several)
    return {"sif": len(rows + several)}


def _viscot_row(
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


def _tallyqa_row(scene: Scene, question: Question, image: str, number: int) -> dict[str, Any]:
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
