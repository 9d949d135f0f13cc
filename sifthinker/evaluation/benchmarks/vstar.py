r"""V*Bench: 191 questions on high-resolution images, 115 on attributes (4 options), 76 on relations (2 options).

A row of `test_questions.jsonl`:

    {"image": "direct_attributes/sa_4690.jpg", "text": "What is the material of the glove?\n(A) rubber\n(B) cotton
     \n(C) kevlar\n(D) leather\nAnswer with the option's letter from the given choices directly.",
     "category": "direct_attributes", "label": "A", "question_id": 0}

The original metric takes the option with the least loss (penghao-wu/vstar, vstar_bench_eval.py), which a served
model cannot give. `official` therefore follows the generative port of lmms-eval (tasks/vstar_bench/utils.py):
its patterns in their order on the upper-cased reply, so that "Answer: B" is read as A and "red." as D.
The per-image JSON files, whose first option is the right one, are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sifthinker import config
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import files, metrics, replies
from sifthinker.evaluation.benchmarks.question import Answer, Measure, Question, Result, Verdict

PUBLISHED = "https://huggingface.co/datasets/craigwu/vstar_bench"

# lmms-eval, tasks/vstar_bench/utils.py, extract_answer_letter: the first that matches decides.
_PATTERNS = (
    r"^([A-D])\s*[\.)\]]*",
    r"(?:THE\s+)?(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])",
    r"\(([A-D])\)",
    r"([A-D])\s*(?:\.|\)|])",
    r"(?:^|\s)([A-D])(?:\s|$)",
)


def load(source: config.Benchmark) -> Iterator[Question | Reject]:
    """The questions of `test_questions.jsonl`; see `question.Benchmark`."""
    path = files.find(source, "test_questions.jsonl", PUBLISHED)
    files.image_folder(source, PUBLISHED)
    for line, row in files.jsonl(path, source.name):
        if isinstance(row, Reject):
            yield row
            continue
        try:
            text, label = files.text(row, "text"), files.text(row, "label").strip()
            options = replies.options_in(text)
            if label not in {letter for letter, _ in options}:
                raise files.BadRow("bad-field", f"label {label!r} is none of the options", "label")
            category = files.text(row, "category")
            number = files.integer(row, "question_id")
            yield Question(
                id=f"{category}/{number}",
                group=category,
                text=text,
                image=files.text(row, "image"),
                reference=label,
                options=options,
            )
        except files.BadRow as error:
            yield files.reject(source.name, path, line, error)


def official(question: Question, answer: Answer) -> Verdict:
    """The letter that lmms-eval's port finds; see the module."""
    text = answer.text.strip().upper()
    letter = next((match.group(1) for p in _PATTERNS if (match := re.search(p, text))), "")
    if not letter:
        letters = re.findall(r"[A-D]", text)
        letter = letters[0] if len(letters) == 1 else ""
    return Verdict(float(letter == question.reference), letter, "" if letter else "none-named")


def strict(question: Question, answer: Answer) -> Verdict:
    """The option that the reply names."""
    return replies.judged_choice(question, answer)


def score(results: Sequence[Result]) -> list[Measure]:
    """Accuracy of each category, as the paper reports, and pooled."""
    parts = [metrics.accuracy(group, rows) for group, rows in metrics.groups(results).items()]
    return [*parts, metrics.accuracy("overall", results)]
