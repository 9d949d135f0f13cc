"""SEED-Bench, the part on images (SEED-I): nine types of question with four options.

`SEED-Bench.json`; pictures are named by `data_id` in the folder SEED-Bench-image:

    {"questions": [{"answer": "A", "choice_a": "One", "choice_b": "Two", "choice_c": "Three", "choice_d": "Four",
      "data_id": "1454426_2591111986", "data_type": "image", "question": "How many towels are in the image?",
      "question_id": "101669", "question_type_id": 5}], "question_type": {"Instances Counting": 5, ...}}

Or `lmms-lab-encoder/SEED-Bench`, Parquet files of the same fields with `image`, a list of the images themselves; they have no
names of the types.

Rows on videos are not part of SEED-I and are passed over. `official` is the comparison of LLaVA's and SpatialBot's
scripts (eval/seed-bench/convert_seed_for_submission.py): the reply is the letter and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sifthinker import config
from sifthinker.core import errors
from sifthinker.core.errors import BadRow
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import files, metrics, replies
from sifthinker.evaluation.benchmarks.question import Answer, Measure, Question, Result, Verdict

PUBLISHED = "https://huggingface.co/datasets/AILab-CVC/SEED-Bench, .../lmms-lab-encoder/SEED-Bench (Parquet)"
# SEED-Bench.json, question_type: those on images.
TYPES = {
    1: "Scene Understanding",
    2: "Instance Identity",
    3: "Instance Attributes",
    4: "Instance Location",
    5: "Instances Counting",
    6: "Spatial Relation",
    7: "Instance Interaction",
    8: "Visual Reasoning",
    9: "Text Understanding",
}


def load(source: config.Benchmark) -> Iterator[Question | Reject]:
    """The image questions of `SEED-Bench.json` or of the Parquet files; see `question.Benchmark`."""
    if parquet := files.shards(source):
        for path in parquet:
            yield from _questions(source, path, files.parquet(path), TYPES)
        return
    path = files.find(source, "SEED-Bench.json", PUBLISHED)
    files.image_folder(source, PUBLISHED)
    document = files.json_document(path)
    if not isinstance(document, dict) or not isinstance(document.get("questions"), list):
        raise errors.UserError(f"{path}: wanted an object with a list of `questions`; fetch it again")
    types = {number: name for name, number in document.get("question_type", {}).items()}
    yield from _questions(source, path, enumerate(document["questions"]), types)


def _questions(
    source: config.Benchmark, path: Path, rows: Iterable[tuple[int, Any]], types: dict[int, str]
) -> Iterator[Question | Reject]:
    for index, row in rows:
        if isinstance(row, dict) and row.get("data_type") == "video":
            continue
        try:
            if not isinstance(row, dict):
                raise BadRow("not-an-object", f"wanted an object, found {type(row).__name__}")
            yield _question(row, types)
        except BadRow as error:
            yield files.reject(source.name, path, index, error)


def official(question: Question, answer: Answer) -> Verdict:
    """LLaVA's comparison; see the module."""
    return Verdict(float(answer.text == question.reference), answer.text)


def strict(question: Question, answer: Answer) -> Verdict:
    """The option that the reply names."""
    return replies.judged_choice(question, answer)


def score(results: Sequence[Result]) -> list[Measure]:
    """Accuracy over all image questions, then of each type."""
    types = [metrics.accuracy(group, rows) for group, rows in metrics.groups(results).items()]
    return [metrics.accuracy("image", results), *types]


def _question(row: dict[str, Any], types: dict[int, str]) -> Question:
    options = tuple((letter, str(row.get(f"choice_{letter.lower()}", "")).strip()) for letter in "ABCD")
    if not all(text for _, text in options):
        raise BadRow("bad-field", f"choices: one of the four is empty: {options!r:.120}", "choice_a")
    letter = files.text(row, "answer").strip()
    if letter not in dict(options):
        raise BadRow("bad-field", f"answer: {letter!r} is none of the options", "answer")
    kind = files.integer(row, "question_type_id")
    name, image = files.text(row, "data_id"), row.get("image")
    if isinstance(image, list) and len(image) != 1:
        raise BadRow("several-images", f"image: wanted one image, found {len(image)}", "image")
    listed = "\n".join(f"{mark}. {text}" for mark, text in options)
    return Question(
        id=str(row.get("question_id", "")),
        group=types.get(kind, f"type {kind}"),
        text=f"{files.text(row, 'question')}\n{listed}\nAnswer with the option's letter from the given choices directly.",
        image=files.picture({"image": image[0]}, "image") if image else name,
        reference=letter,
        options=options,
        cluster=name,
    )
