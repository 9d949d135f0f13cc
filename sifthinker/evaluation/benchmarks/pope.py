"""POPE: is an object in the picture? Three ways to choose the absent ones: random, popular, adversarial.

`coco_pope_{random,popular,adversarial}.json`, one object a line in spite of their names; images of COCO val2014:

    {"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a snowboard in the image?",
     "label": "yes"}

Or `lmms-lab-encoder/POPE`, Parquet files with the images inside, in one split with `category`, or in the three of `Full/`:

    {"id": "0", "question_id": "1", "question": "Is there a snowboard in the image?", "answer": "yes",
     "image_source": "COCO_val2014_000000310196", "image": {"bytes": b"...", "path": ...}, "category": "adversarial"}

The labels are those of the same line, so an older question file cannot be paired with a newer label file.

`official` is POPE's rule (AoiDragon/POPE, evaluate.py): up to the first full stop, without commas, "No", "no" or "not"
as a word is no and everything else is yes, an empty answer included. The score is F1 with yes as positive, per
category, and the mean of the three. `strict` wants a yes or a no; what is neither counts against its label. So does, in
both, a reply that has no answer (refused, cut off, a chain without one): the script knows none, and would take it for a yes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sifthinker import config
from sifthinker.core.errors import BadRow
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import files, metrics, replies
from sifthinker.evaluation.benchmarks.question import Answer, Measure, Question, Result, Verdict
from sifthinker.evaluation.statistics import Weights

PUBLISHED = (
    "https://github.com/AoiDragon/POPE (output/coco) with https://cocodataset.org (val2014), "
    "https://huggingface.co/datasets/lmms-lab-encoder/POPE (Parquet)"
)
CATEGORIES = ("random", "popular", "adversarial")
INSTRUCTION = "\nAnswer the question using a single word or phrase."  # Bunny's and LLaVA's question files


def load(source: config.Benchmark) -> Iterator[Question | Reject]:
    """The questions of the three categories; see `question.Benchmark`."""
    full = [sorted(source.path.glob(f"Full/{name}-*.parquet")) for name in CATEGORIES]
    if all(full):  # where both folders are there, the one whose files say their categories
        parquet = [path for paths in full for path in files.one_upload(source.name, paths)]
    else:
        parquet = files.shards(source)
    if parquet:
        for path in parquet:
            for index, embedded in files.parquet(path):
                try:
                    yield _embedded(embedded)
                except BadRow as error:
                    yield files.reject(source.name, path, index, error)
        return
    paths = {name: files.find(source, f"coco_pope_{name}.json", PUBLISHED) for name in CATEGORIES}
    files.image_folder(source, PUBLISHED)
    for category, path in paths.items():
        for line, row in files.jsonl(path, source.name):
            if isinstance(row, Reject):
                yield row
                continue
            try:
                label = _label(row, "label")
                yield Question(
                    id=f"{category}/{files.integer(row, 'question_id')}",
                    group=category,
                    text=files.text(row, "text") + INSTRUCTION,
                    image=files.text(row, "image"),
                    reference=label,
                )
            except BadRow as error:
                yield files.reject(source.name, path, line, error)


def _embedded(row: dict[str, Any]) -> Question:
    category = files.text(row, "category")
    if category not in CATEGORIES:
        raise BadRow("bad-field", f"category: no category {category!r:.40}", "category")
    return Question(
        id=f"{category}/{files.integer(row, 'question_id')}",
        group=category,
        text=files.text(row, "question") + INSTRUCTION,
        image=files.picture(row, "image"),
        reference=_label(row, "answer"),
        cluster=files.text(row, "image_source"),
    )


def _label(row: dict[str, Any], field: str) -> str:
    label = files.text(row, field).strip().lower()
    if label not in ("yes", "no"):
        raise BadRow("bad-field", f"{field}: wanted yes or no, found {label!r}", field)
    return label


def official(question: Question, answer: Answer) -> Verdict:
    """POPE's evaluate.py; see the module."""
    if answer.absent:
        return Verdict(0.0, unparsable=answer.absent)
    words = answer.text.split(".")[0].replace(",", "").split(" ")
    said = "no" if {"No", "no", "not"} & set(words) else "yes"
    return Verdict(float(said == question.reference), said)


def strict(question: Question, answer: Answer) -> Verdict:
    """The yes or the no in the reply."""
    return replies.judged_yes_no(question, answer)


def score(results: Sequence[Result]) -> list[Measure]:
    """F1 of each category and their mean, with the accuracies beside."""
    parts = metrics.groups(results)
    measures = []
    for category, rows in parts.items():
        measures.append(metrics.clustered(category, rows, _f1(rows), "share"))
        measures.append(metrics.accuracy(f"{category} accuracy", rows))
    if len(parts) < len(CATEGORIES):
        return measures
    thirds = [(rows, _f1(rows), 1 / len(CATEGORIES)) for rows in parts.values()]
    return [*measures, metrics.combined("average", thirds, "share")]


def _f1(rows: Sequence[Result]) -> metrics.Statistic:
    yes = np.array([question.reference == "yes" for question, _ in rows])
    right = np.array([verdict.score == 1 for _, verdict in rows])

    def f1(weights: Weights) -> float:
        hit, wrong = float(weights[yes & right].sum()), float(weights[~right].sum())
        # wrong: absent objects found and present ones missed; 2 TP / (2 TP + FP + FN)
        return 2 * hit / (2 * hit + wrong) if hit else 0.0

    return f1
