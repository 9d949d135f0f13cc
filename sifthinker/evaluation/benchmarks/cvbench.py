r"""CV-Bench: 2,638 questions on relations and counts (2D: ADE20K, COCO) and on depth and distance (3D: Omni3D).

`test_2d.parquet` and `test_3d.parquet` with the images inside, or `test_2d.jsonl` and `test_3d.jsonl` with `filename`
relative to the image folder. A row:

    {"idx": 0, "type": "2D", "task": "Count", "source": "ADE20K", "filename": "img/2D/count/ade20k_10.png",
     "question": "How many organs are in the image?", "choices": ["3", "2", "1", "0"], "answer": "(C)",
     "prompt": "How many organs are in the image? Select from the following choices.\n(A) 3\n(B) 2\n(C) 1\n(D) 0"}

`official` is cambrian's rule (eval/eval/{ade,coco,omni}/*_test.py): the first character of what follows the last
"answer is" or "answer:", in small letters, so that "A red car" is read as A. omni_test.py alone also takes the right
option's text where that is one character. CV-Bench = (2D + 3D) / 2 with 2D = (ADE20K + COCO) / 2; not the share of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sifthinker import config
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import files, metrics, replies
from sifthinker.evaluation.benchmarks.question import Answer, Measure, Missing, Question, Result, Verdict

PUBLISHED = "https://huggingface.co/datasets/nyu-visionx/CV-Bench"
INSTRUCTION = (
    "\nAnswer with the option's letter from the given choices directly."  # cambrian's question files
)
_2D = {"ADE20K": 0.5, "COCO": 0.5}  # source, its factor
_ALL = {"ADE20K": 0.25, "COCO": 0.25, "Omni3D": 0.5}


def load(source: config.Benchmark) -> Iterator[Question | Reject]:
    """The questions of both files; see `question.Benchmark`. `split` names one, "2d" or "3d"."""
    for part in [source.split] if source.split else ["2d", "3d"]:
        path = _file(source, part)
        for index, row in (
            files.parquet(path) if path.suffix == ".parquet" else files.jsonl(path, source.name)
        ):
            if isinstance(row, Reject):
                yield row
                continue
            try:
                yield _question(row, path.suffix == ".parquet")
            except files.BadRow as error:
                yield files.reject(source.name, path, index, error)


def official(question: Question, answer: Answer) -> Verdict:
    """Cambrian's test scripts; see the module."""
    text = answer.text.lower().strip()
    for cue in ("answer is", "answer is:", "answer:"):
        text = text.rsplit(cue, 1)[-1]
    text = text.strip().rstrip(".:,").lstrip("(").rstrip(")")[:1]
    by_text = question.group == "Omni3D" and text == dict(question.options)[question.reference]
    right = text == question.reference.lower() or by_text
    return Verdict(float(right), text)


def strict(question: Question, answer: Answer) -> Verdict:
    """The option that the reply names."""
    return replies.judged_choice(question, answer)


def score(results: Sequence[Result]) -> list[Measure]:
    """Accuracy of each source, and the official averages of those that were asked."""
    by_source = metrics.groups(results)
    measures = [metrics.accuracy(source, rows) for source, rows in by_source.items()]
    for name, members in (("2D", _2D), ("average", _ALL)):
        if set(members) <= set(by_source):
            parts = [
                (by_source[part], metrics.share(by_source[part]), factor) for part, factor in members.items()
            ]
            measures.append(metrics.combined(name, parts, "share"))
    return measures


def _file(source: config.Benchmark, part: str) -> Path:
    for suffix in (".parquet", ".jsonl"):
        path = source.path / f"test_{part}{suffix}"
        if path.is_file():
            if suffix == ".jsonl":
                files.image_folder(source, PUBLISHED)
            return path
    raise Missing(
        f"{source.name}: wants test_{part}.parquet (or .jsonl with img/) in {source.path}; published at {PUBLISHED}"
    )


def _question(row: dict[str, Any], embedded: bool) -> Question:
    choices = row.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise files.BadRow("bad-field", f"choices: wanted a list of texts, found {choices!r:.80}", "choices")
    options = tuple((chr(ord("A") + i), choice) for i, choice in enumerate(choices))
    letter = files.text(row, "answer").strip("() ")
    if letter not in dict(options):
        raise files.BadRow("bad-field", f"answer: {letter!r} is none of the options", "answer")
    name = files.text(row, "filename")
    return Question(
        id=f"{files.text(row, 'type')}/{files.integer(row, 'idx')}",
        group=files.text(row, "source"),
        text=files.text(row, "prompt") + INSTRUCTION,
        image=files.picture(row, "image") if embedded else name,
        reference=letter,
        options=options,
        cluster=name,
    )
