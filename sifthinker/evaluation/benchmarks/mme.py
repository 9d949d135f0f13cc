"""MME: 14 tasks of two yes-or-no questions a picture, one to be affirmed and one to be denied.

The release's folder `MME_Benchmark_release_version`: in every task's folder a text file beside each picture, or
`questions_answers_YN/` and `images/`, two lines a file:

    Is this artwork created by linard, jacques? Please answer yes or no.<tab>Yes
    Is this artwork created by hodler, ferdinand? Please answer yes or no.<tab>No

Or `lmms-lab-encoder/MME`, Parquet files with the images inside, `question_id` naming the picture in both of its rows:

    {"question_id": "artwork/10256.jpg", "image": {"bytes": b"...", "path": ...}, "category": "artwork",
     "question": "Is this artwork created by linard, jacques? Please answer yes or no.", "answer": "Yes"}

Asked as LLaVA's and Bunny's files have it: "Answer the question using a single word or phrase." instead of
"Please answer yes or no."

`official` is MME's rule (eval_tool/calculation.py): in small letters, exactly yes or no, else "yes" and then "no"
within the first four characters, so that "know" and "not" are no; else neither, which is wrong. A task scores
100 times the share of right answers plus 100 times the share of pictures with both right. Perception is the sum of
ten tasks, cognition of four. The pair is what is asked of one picture, not two neighbouring lines. A picture of whose
questions only one could be asked is no pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from sifthinker import config
from sifthinker.core.errors import BadRow
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import files, metrics, replies
from sifthinker.evaluation.benchmarks.question import Answer, Measure, Missing, Question, Result, Verdict

PUBLISHED = (
    "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation, "
    "https://huggingface.co/datasets/lmms-lab-encoder/MME (Parquet)"
)
PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
TOP = 200  # points of a task
INSTRUCTION = "\nAnswer the question using a single word or phrase."


def load(source: config.Benchmark) -> Iterator[Question | Reject]:
    """The questions of all tasks; see `question.Benchmark`. `images` is the same folder as `path`."""
    if parquet := files.shards(source):
        yield from _rows(source, parquet)
        return
    absent = [task for task in PERCEPTION + COGNITION if not (source.path / task).is_dir()]
    if absent:
        raise Missing(
            f"{source.name}: wants the folders {', '.join(absent)}, or data/test-*.parquet, in {source.path}; "
            f"published at {PUBLISHED}"
        )
    for task in PERCEPTION + COGNITION:
        folder = source.path / task
        texts = folder / "questions_answers_YN" if (folder / "questions_answers_YN").is_dir() else folder
        pictures = folder / "images" if (folder / "images").is_dir() else folder
        by_stem = {path.stem: path for path in sorted(pictures.iterdir()) if path.suffix.lower() in _PICTURES}
        for path in sorted(texts.glob("*.txt")):
            yield from _file(source, task, path, by_stem.get(path.stem))


def official(question: Question, answer: Answer) -> Verdict:
    """MME's calculation.py; see the module."""
    text = answer.text.lower()
    said = next((word for word in ("yes", "no") if text == word or word in text[:4]), "")
    return Verdict(float(said == question.reference), said, "" if said else "none-named")


def strict(question: Question, answer: Answer) -> Verdict:
    """The yes or the no in the reply."""
    return replies.judged_yes_no(question, answer)


def score(results: Sequence[Result]) -> list[Measure]:
    """Points of each task (of 200), perception (of 2,000) and cognition (of 800)."""
    tasks = metrics.groups(results)
    measures = [
        metrics.clustered(task, rows, _points(rows), "points", top=TOP) for task, rows in tasks.items()
    ]
    for name, members in (("perception", PERCEPTION), ("cognition", COGNITION)):
        parts = [tasks[task] for task in members if task in tasks]
        if len(parts) == len(members):
            measures.append(
                metrics.combined(
                    name, [(rows, _points(rows), 1) for rows in parts], "points", top=TOP * len(parts)
                )
            )
    return measures


def _rows(source: config.Benchmark, parquet: Sequence[Path]) -> Iterator[Question | Reject]:
    asked: Counter[str] = Counter()  # of each picture so far
    for path in parquet:
        for index, row in files.parquet(path):
            try:
                task, name = files.text(row, "category"), files.text(row, "question_id")
                label = files.text(row, "answer").strip().lower()
                if task not in PERCEPTION + COGNITION:
                    raise BadRow("bad-field", f"category: no task {task!r:.40}", "category")
                if label not in ("yes", "no"):
                    raise BadRow("bad-field", f"answer: wanted Yes or No, found {label!r:.40}", "answer")
                image = files.picture(row, "image")
                unit = f"{task}/{PurePosixPath(name).stem}"
                asked[unit] += 1
                yield _question(task, unit, asked[unit], files.text(row, "question"), label, image)
            except BadRow as error:
                yield files.reject(source.name, path, index, error)


def _question(task: str, unit: str, number: int, text: str, label: str, image: str | bytes) -> Question:
    """The `number`th question on the picture that `unit` names."""
    return Question(
        id=f"{unit}/{number}",
        group=task,
        text=text.replace("Please answer yes or no.", "").strip() + INSTRUCTION,
        image=image,
        reference=label,
        unit=unit,
        cluster=unit if isinstance(image, bytes) else "",
    )


_PICTURES = (".jpg", ".jpeg", ".png")


def _file(
    source: config.Benchmark, task: str, path: Path, picture: Path | None
) -> Iterator[Question | Reject]:
    try:
        # Not `splitlines`: a question may hold U+2028 and other characters that it takes for ends of lines.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        yield files.reject(source.name, path, -1, BadRow("not-utf-8", str(error)))
        return
    for number, line in enumerate(lines, start=1):
        text, _, label = line.rpartition("\t")
        label = label.strip().lower()
        if not text.strip() or label not in ("yes", "no") or picture is None:
            wanted = "question<tab>Yes or No" if picture else "a picture of the same name"
            problem = BadRow("bad-line" if picture else "image-missing", f"wanted {wanted}: {line!r:.80}")
            yield files.reject(source.name, path, number, problem)
            continue
        image = picture.relative_to(source.path).as_posix()
        yield _question(task, f"{task}/{path.stem}", number, text, label, image)


def _points(rows: Sequence[Result]) -> metrics.Statistic:
    """100 x accuracy + 100 x share of pictures with every question right.

    A question whose partner was rejected counts in the accuracy only: of its picture nobody knows whether both are right.
    """
    hits = np.array([verdict.score for _, verdict in rows])
    units: dict[str, list[int]] = {}
    for index, (question, _) in enumerate(rows):
        units.setdefault(question.unit, []).append(index)
    pairs = [pair for pair in units.values() if len(pair) > 1]
    both = np.array([hits[pair].min() for pair in pairs])
    first = np.array([pair[0] for pair in pairs], dtype=int)
    return lambda weights: 100 * metrics.mean(hits, weights) + 100 * metrics.mean(both, weights[first])
