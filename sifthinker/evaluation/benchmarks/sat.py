"""SAT, split "static": spatial questions about one synthetic picture, with the answers to choose from.

`SAT_static.parquet`, the images inside (`image_bytes`; `images` in SAT-v2). A row:

    {"image_bytes": [b"..."], "question": "Is the lamp to the left of the chair?", "answers": ["yes", "no"],
     "question_type": "other", "correct_answer": "no"}

The question is asked in the authors' words (release, eval_sat.py): the choices as a list, and "Answer strictly with
only one of the above options." The list is not in the file's order: SAT's generator writes the right answer first, and
its card says "please randomize this if you present as choices", as its own loader does. Each question has an order of
its own. `choices: official` asks in that loader's words, `choices: file` keeps the file's order, as the release does;
the position gives the answers away then, and the score has another name. Rows with several images are not asked, because the prompt has one place; they are
rejects, not wrong answers in the denominator (PAPER.md R7.4).

There is no official script for this split. `official` follows SAT's own for choices (models/eval_funcs.py,
QA_Accuracy_choice): the first word, in small letters and without brackets, is the right answer, so that an answer of
several words can never be right. The release instead counts an unreadable reply as right and takes the first listed
choice that occurs in it (R7.3, R7.5); that is not followed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from sifthinker import config
from sifthinker.core.errors import BadRow
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import files, metrics, replies
from sifthinker.evaluation.benchmarks.question import Answer, Measure, Question, Result, Verdict

_NAMES = {"shuffled": "static", "official": "static, SAT's prompt", "file": "static, file's order"}
_SEED = 0  # of the orders of choices: a changed one makes every question another one

PUBLISHED = "https://huggingface.co/datasets/array/SAT"


def load(source: config.Benchmark) -> Iterator[Question | Reject]:
    """The questions of `SAT_static.parquet`; see `question.Benchmark`."""
    path = files.find(source, "SAT_static.parquet", PUBLISHED)
    for index, row in files.parquet(path):
        try:
            yield _question(row, index, source.choices)
        except BadRow as error:
            yield files.reject(source.name, path, index, error)


def official(question: Question, answer: Answer) -> Verdict:
    """SAT's QA_Accuracy_choice; see the module."""
    word = _unbracketed(answer.text.split("###")[0].strip().lower()).strip().split(" ")[0]
    return Verdict(float(word == _unbracketed(question.reference.lower().strip())), word)


def strict(question: Question, answer: Answer) -> Verdict:
    """The choice that the reply names."""
    if answer.absent:
        return Verdict(0.0, unparsable=answer.absent)
    read = replies.choice(answer.text, question.options, question.text)
    if read.problem:
        return Verdict(0.0, unparsable=read.problem)
    named = question.options[int(read.value)][1]
    return Verdict(float(named == question.reference), named)


def score(results: Sequence[Result]) -> list[Measure]:
    """Accuracy over all questions (the paper's number), then of each type of question."""
    types = [metrics.accuracy(group, rows) for group, rows in metrics.groups(results).items()]
    name = results[0][0].id.rpartition("/")[0] if results else _NAMES["shuffled"]
    return [metrics.accuracy(name, results), *types]


def _asked(question: str, choices: Sequence[str], order: str) -> str:
    """The question as the model gets it: in the authors' words, or in those of SAT's own loader."""
    if order == "official":  # custom_datasets/dataloaders.py, format_prompts
        listed = " or ".join(f'"{choice}"' for choice in choices)
        return (
            f"{question} Answer the question using a single word or phrase. "
            f"Choose between the following options: {listed}."
        )
    listed = "\n".join(f"- {choice}" for choice in choices)
    return f"{question}\nChoices:\n{listed}\nAnswer strictly with only one of the above options."


def _shuffled(choices: Sequence[str], index: int) -> list[str]:
    """The choices of the row `index` in an order of its own, the same in every run."""
    keys = [hashlib.sha256(f"{_SEED}/{index}/{place}".encode()).digest() for place in range(len(choices))]
    return [choices[place] for place in sorted(range(len(choices)), key=keys.__getitem__)]


def _unbracketed(text: str) -> str:
    return text.replace("(", "").replace(")", "")


def _question(row: dict[str, Any], index: int, order: str) -> Question:
    pictures = row.get("image_bytes") or row.get("images") or []
    if len(pictures) != 1:
        reason = "several-images" if pictures else "image-missing"
        raise BadRow(reason, f"image_bytes: wanted one image, found {len(pictures)}", "image_bytes")
    choices, right = row.get("answers"), files.text(row, "correct_answer")
    if not isinstance(choices, list) or right not in choices:
        raise BadRow("bad-field", f"answers: {choices!r:.80} do not hold {right!r:.40}", "answers")
    if order != "file":
        choices = _shuffled(choices, index)
    return Question(
        id=f"{_NAMES[order]}/{index}",
        group=files.text(row, "question_type"),
        text=_asked(files.text(row, "question"), choices, order),
        image=files.picture({"image_bytes": pictures[0]}, "image_bytes"),
        reference=right,
        options=tuple(("", choice) for choice in choices),
    )
