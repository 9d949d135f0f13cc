"""MMBench (English and Chinese, dev and test): multiple choice, every question asked with its options rotated.

`MMBench_DEV_EN.tsv`, `MMBench_TEST_EN.tsv` or their legacy forms; `path` is the file. Columns: index, question, hint,
A to D, answer (dev only), category, image, l2-category, split. The image is a base64 JPEG, or the index of the row
that has it. Row g + k * 1,000,000 is the k-th rotation of row g.

Or `lmms-lab-encoder/MMBench`, Parquet files with the image inside every row, the same columns (`L2-category`, `source` and
`comment` among them), `index` as a text in `en` and as a number in `cn`: `path` is a configuration's folder, `MMBench/en`
or `MMBench/cn` (with `dev-00000-of-00001.parquet` and `test-...`), or one of the files; `split` is "dev" (default) or "test".
`lmms-lab-encoder/MMBench_EN` has the legacy rows in the same form (4,377 in dev where the others have 4,329).

Asked as Bunny and LLaVA do: hint, question, "A. ..." lines and the instruction, which is Chinese in the Chinese files
(folder `cn` or `_CN` in the file's name). Their scores are named `dev_cn` and `test_cn`.

`official` reads letters by VLMEvalKit's rules (vlmeval/utils/matching_util.py, can_infer): the one option letter
among the words if it is one of the last four, else the letter after "answer is", else the one option whose text occurs
in a reply that is not long; without the GPT judge that it asks next, what the rules leave open is wrong. CircularEval, both ways: a question is right when all its rotations are.
Where the answers are hidden (test), nothing is scored and `mmbench_submission.tsv` is written: the given columns and
`prediction`, which MMBench's server wants as a workbook.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sifthinker import config
from sifthinker.core import errors
from sifthinker.core.errors import BadRow
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import files, metrics, replies
from sifthinker.evaluation.benchmarks.question import Answer, Measure, Missing, Question, Result, Verdict

PUBLISHED = (
    "https://github.com/open-compass/MMBench (MMBench_DEV_EN.tsv, MMBench_TEST_EN.tsv, "
    "their legacy forms, and _CN for Chinese), "
    "https://huggingface.co/datasets/lmms-lab-encoder/MMBench (Parquet)"
)
INSTRUCTION = "Answer with the option's letter from the given choices directly."
CHINESE = "请直接回答选项字母。"  # LLaVA's model_vqa_mmbench.py, --lang cn
ROTATION = 1_000_000

# vlmeval/utils/matching_util.py
_NO_REPLY = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_ANSWER_IS = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", re.I)


def load(source: config.Benchmark) -> Iterator[Question | Reject]:
    """The rows of one file, rotations included; see `question.Benchmark`."""
    pictures: dict[str, str] = {}
    for path in _files(source):
        chinese = _is_chinese(path)
        for line, row in _rows(path):
            try:
                yield _question(row, source.split or row.get("split") or "", pictures, chinese)
            except BadRow as error:
                yield files.reject(source.name, path, line, error)


def official(question: Question, answer: Answer) -> Verdict:
    """VLMEvalKit's can_infer; see the module."""
    letter = _inferred(answer.text, dict(question.options))
    return Verdict(float(letter == question.reference), letter, "" if letter else "not-inferred")


def strict(question: Question, answer: Answer) -> Verdict:
    """The option that the reply names."""
    return replies.judged_choice(question, answer)


def score(results: Sequence[Result]) -> list[Measure]:
    """CircularEval of each split, and the accuracy of single rows beside it, which is several points higher."""
    measures = []
    for split, rows in _by_split(results).items():
        measures.append(metrics.clustered(split, rows, _circular(rows), "share"))
        measures.append(metrics.accuracy(f"{split} single rows", rows))
    return measures


def submission(source: config.Benchmark, readings: Sequence[tuple[Question, str]]) -> tuple[str, bytes]:
    """Name and content of the file for MMBench's server; rows that were not asked are left out."""
    said = {question.id.rsplit("/", 1)[-1]: letter for question, letter in readings}
    out = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for path in _files(source):
        for _, row in _rows(path):
            if row["index"] not in said:
                continue
            shown = {key: value for key, value in row.items() if key != "image"} | {
                "prediction": said[row["index"]]
            }
            if writer is None:
                writer = csv.DictWriter(out, list(shown), delimiter="\t", lineterminator="\n")
                writer.writeheader()
            writer.writerow(shown)
    name = "mmbench_submission_cn.tsv" if _is_chinese(_files(source)[0]) else "mmbench_submission.tsv"
    return name, out.getvalue().encode()


def _inferred(reply: str, options: dict[str, str]) -> str:
    """The letter of an option; "Z" for a refusal, which is no option; "" where the rules leave it open."""
    if _NO_REPLY not in reply:
        if any(refusal in reply for refusal in _REFUSALS):
            return "Z"
        words = re.sub(r"[.()\[\],:;!*#{}]", " ", reply).split()
        named = [letter for letter in options if letter in words]
        if len(named) == 1 and words.index(named[0]) > len(words) - 5:
            return named[0]
        if not named and "Z" in words:
            return "Z"
        if (cue := _ANSWER_IS.search(reply)) and cue.group(1).upper() in options:
            return cue.group(1).upper()
    text = reply.lower()
    if len(text) > 2 * sum(map(len, options.values())):
        return ""
    named = [letter for letter, option in options.items() if option.lower() in text]
    return named[0] if len(named) == 1 else ""


def _by_split(results: Sequence[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result[0].id.split("/")[0], []).append(result)
    return found


def _circular(rows: Sequence[Result]) -> metrics.Statistic:
    hits = np.array([verdict.score for _, verdict in rows])
    _, first, unit = np.unique(
        [question.unit for question, _ in rows], return_index=True, return_inverse=True
    )
    every = np.ones(len(first))
    np.minimum.at(every, unit, hits)
    return lambda weights: metrics.mean(every, weights[first])


def _files(source: config.Benchmark) -> list[Path]:
    parquet = files.shards(source, source.split or "dev")
    if parquet or source.path.is_file():
        return parquet or [source.path]
    raise Missing(
        f"{source.name}: wants a file like MMBench_DEV_EN.tsv, or a folder with "
        f"{source.split or 'dev'}-*.parquet, at {source.path}; published at {PUBLISHED}"
    )


def _is_chinese(path: Path) -> bool:
    return path.parent.name == "cn" or "_CN" in path.name


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their places; every field a text but an embedded image."""
    if path.suffix == ".parquet":
        for index, row in files.parquet(path):
            yield (
                index,
                {
                    key: value if key == "image" else "" if value is None else str(value)
                    for key, value in row.items()
                },
            )
        return
    csv.field_size_limit(sys.maxsize)  # pictures are fields
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        absent = {"index", "question", "A", "B", "image"} - set(reader.fieldnames or ())
        if absent:
            raise errors.UserError(f"{path}: columns {', '.join(sorted(absent))} are missing; fetch it again")
        try:
            for row in reader:
                yield reader.line_num, {key: value or "" for key, value in row.items() if key}
        except (csv.Error, UnicodeDecodeError) as error:
            raise errors.UserError(
                f"{path}: broken after line {reader.line_num}: {error}; fetch it again"
            ) from error


def _image(row: dict[str, Any], index: int, pictures: dict[str, str]) -> Any:
    picture = row.get("image")
    if not isinstance(picture, str):  # embedded
        return picture
    if len(picture) < 64:  # the index of the row that has it
        picture = pictures.get(picture, "")
    else:
        pictures[str(index)] = picture if index < ROTATION else ""
    try:
        return base64.b64decode(picture, validate=True)
    except binascii.Error as error:
        raise BadRow("image-broken", f"image: not base64: {error}", "image") from error


def _question(row: dict[str, Any], split: str, pictures: dict[str, str], chinese: bool) -> Question:
    split += "_cn" if chinese else ""
    index = files.integer(row, "index")
    data = _image(row, index, pictures)
    # Empty cells read "nan" in files that went through pandas.
    options = tuple((letter, row.get(letter, "").strip()) for letter in "ABCD")
    options = tuple((letter, text) for letter, text in options if text not in ("", "nan"))
    reference = row.get("answer", "").strip()
    if reference in ("nan", ""):
        reference = ""
    elif reference not in dict(options):
        raise BadRow("bad-field", f"answer: {reference!r} is none of the options", "answer")
    hint = row.get("hint", "").strip()
    lines = [hint] if hint not in ("", "nan") else []
    lines += [
        files.text(row, "question"),
        *(f"{letter}. {text}" for letter, text in options),
        CHINESE if chinese else INSTRUCTION,
    ]
    return Question(
        id=f"{split}/{index}",
        group=row.get("category", ""),
        text="\n".join(lines),
        image=files.picture({"image": data}, "image"),
        reference=reference,
        options=options,
        unit=f"{split}/{index % ROTATION}",
        cluster=f"{split}/{index % ROTATION}",
    )
