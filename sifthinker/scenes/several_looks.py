"""Questions that one look does not answer: how many, how many beside a thing, more or fewer (VisCoT's metadata form).

A row's boxes are all that the answer rests on, from left to right, since a list of boxes has to have an order to be learnt;
where two kinds are compared, first those of the one that is named first. Its
data set names the kind and how many things the scene has ("count-5"), so that tables of scores show both. What else makes
scenes harder is set for all of them (`config.Scenes`): how many things, how alike they are, how much of a thing
others may hide, the size of the picture.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from sifthinker import config
from sifthinker.core import depth_maps
from sifthinker.scenes import questions
from sifthinker.scenes.folder import SceneFolder
from sifthinker.scenes.layout import Scene
from sifthinker.scenes.questions import Question

TRAIN = "several"  # stream
HELD_OUT = {"report": "several-held-out", "tuning": "several-tuning"}  # by config.Scenes.held_out
_PER_SCENE = 3  # questions about one picture


def training_rows(folder: SceneFolder) -> list[dict[str, Any]]:
    """Those to train on, with their pictures and depth maps written."""
    return _written(folder, TRAIN, count(folder.settings, folder.settings.rows), "", "train")


def held_out_rows(folder: SceneFolder, below: str) -> list[dict[str, Any]]:
    """Those held out, with their pictures written into the folder `below`."""
    return _written(
        folder,
        HELD_OUT[folder.settings.held_out],
        count(folder.settings, folder.settings.benchmark_rows),
        below,
        "test",
    )


def count(settings: config.Scenes, rows: int) -> int:
    """How many of so many questions need several looks."""
    return round(settings.several * rows)


def _written(folder: SceneFolder, stream: str, count: int, below: str, split: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    used: Counter[tuple[str, ...]] = Counter()
    for index, (scene, rng) in enumerate(folder.stream(stream)):
        if len(rows) == count:
            break
        asked, chosen = tuple(questions.several(scene)), list[Question]()
        image = f"several/scene_{index:06d}.jpg"
        for _ in range(min(count - len(rows), _PER_SCENE)):
            if question := questions.pick([q for q in asked if q not in chosen], used, rng):
                chosen.append(question)
                rows.append(_row(scene, question, image, split))
        folder.save(scene, stream, f"{below}images/{image}")
        if split == "train":
            folder.bytes(f"depth/{image.removesuffix('.jpg')}.png", depth_maps.encode(scene.view.depth))
    return rows


def _row(scene: Scene, question: Question, image: str, split: str) -> dict[str, Any]:
    return {
        "question": question.text,
        "answer": question.answer,
        "image": image,
        "width": scene.view.width,
        "height": scene.view.height,
        "bboxs": [list(scene.things[index].box) for index in question.things],
        "dataset": f"{question.kind}-{len(scene.things)}",
        "split": split,
    }
