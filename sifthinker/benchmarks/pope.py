"""POPE: is an object in the picture? Three ways to choose the absent ones: random, popular, adversarial.

`coco_pope_{random,popular,adversarial}.json`, one object a line in spite of their names; images of COCO val2014:

    {"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a snowboard in the image?",
     "label": "yes"}

The labels are those of the same line, so an older question file cannot be paired with a newer label file.

`official` is POPE's rule (AoiDou/POPE, evaluate.py): up to the first full stop, without commas, "No", "no" or "not"
as a word is no and everything else is yes, an empty reply included. The score is F1 with yes as positive, per
category, and the mean of the three. `strict` wants a yes or a no; what is neither counts against its label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sifthinker import config
from sifthinker.benchmarks import files, metrics, replies
from sifthinker.benchmarks.question import Answer, Measure, Question, Result, Verdict
from sifthinker.sample import Reject
from sifthinker.statistics import Weights

PUBLISHED = "https://github.com/AoiDou/POPE (output/coco), https://cocodataset.org (val2014)"
CATEGORIES = ("random", "popular", "adversarial")
INSTRUCTION = "\nAnswer the question using a single word or phrase."  # Bunny's and LLaVA's question files


def load(source: config.Benchmark) -> Iterator[Question | Reject]:
    """The questions of the three files; see `question.Benchmark`."""
    files.image_folder(source, PUBLISHED)
    paths = {name: files.find(source, f"coco_pope_{name}.json", PUBLISHED) for name in CATEGORIES}
    for category, path in paths.items():
        for line, row in files.jsonl(path, source.name):
            if isinstance(row, Reject):
                yield row
                continue
            try:
                label = files.text(row, "label").lower()
                if label not in ("yes", "no"):
                    raise files.BadRow("bad-field", f"label: wanted yes or no, found {label!r}", "label")
                yield Question(
                    id=f"{category}/{files.integer(row, 'question_id')}",
                    group=category,
                    text=files.text(row, "text") + INSTRUCTION,
                    image=files.text(row, "image"),
                    reference=label,
                )
            except files.BadRow as error:
                yield files.reject(source.name, path, line, error)


def official(question: Question, answer: Answer) -> Verdict:
    """POPE's evaluate.py; see the module."""
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
