r"""VisCoT-s: free questions on details, from five sources, scored by a judge.

The benchmark files of Visual-CoT, `<source>.json`, a JSON array; `path` is the folder or one file, `split` names
sources, comma-separated; empty means the five of the paper's table. Images are `<images>/gqa/2316539.jpg`, that is,
`images` is the folder cot_image_data:

    {"dataset": "gqa", "split": "val", "question_id": 7,
     "image": ["cot/gqa/2316539.jpg", "cot/gqa/2316539.jpg###[217, 343, 242, 393]"],
     "conversations": [{"from": "human", "value": "<image>\nWhat are the tree branches in front of? Please provide
                         the bounding box coordinate of the region that can help you answer the question better."},
                       {"from": "gpt", "value": "[0.542, 0.686, 0.592, 0.786]"},
                       {"from": "human", "value": "<image>"}, {"from": "gpt", "value": "window"}]}

`official` is Visual-CoT's scoring (llava/eval/eval_cot_score.py): a judge sees question, standard answer and answer
without the image; exactly one "score: <number>" in its reply counts, anything else is 0; above 1 is 1. `strict` is
the paper's judge (Fig. 7, `sifthinker.llm.judge`), which sees the image too. Where a judge refuses or is cut off, or
the paper's gives no score, that is the judge's failure (`asking`): 0 in its own score, counted under the judge's reason, and
nothing in the other one's. An answer that is not there is 0 without asking. A source's score is the mean, the average that of
the sources.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sifthinker import config
from sifthinker.core import prompts
from sifthinker.core.errors import BadRow
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import files, metrics
from sifthinker.evaluation.benchmarks.question import Answer, Measure, Question, Result, Verdict
from sifthinker.llm import Request, judge

PUBLISHED = (
    "https://github.com/deepcs233/Visual-CoT (viscot_benchmark/benchmark) with "
    "https://huggingface.co/datasets/deepcs233/Visual-CoT (cot_images_tar_split)"
)
SOURCES = ("flickr30k", "gqa", "openimages", "vsr", "cub")


def load(source: config.Benchmark) -> Iterator[Question | Reject]:
    """The questions of the wanted sources; see `question.Benchmark`."""
    wanted = [name.strip() for name in source.split.split(",") if name.strip()] or list(SOURCES)
    paths = [source.path] if source.path.is_file() else _paths(source, wanted)
    files.image_folder(source, PUBLISHED)
    for path in paths:
        for index, row in files.json_array(path, source.name):
            if isinstance(row, Reject):
                yield row
                continue
            try:
                yield _question(row)
            except BadRow as error:
                yield files.reject(source.name, path, index, error)


def judge_requests(question: Question, answer: Answer, image_url: str) -> tuple[Request, Request]:
    """What the judge is asked for `official` and for `strict`."""
    text = prompts.VISCOT_JUDGE_USER.format(
        question=question.text, reference=question.reference, answer=answer.text
    )
    messages = [{"role": "system", "content": prompts.VISCOT_JUDGE_SYSTEM}, {"role": "user", "content": text}]
    ours = judge.request(question.text, question.reference, answer.text, image_url)
    return Request(messages, 0.0, judge.MAX_TOKENS), ours


def official(question: Question, answer: Answer) -> Verdict:
    """Visual-CoT's eval_cot_score.py; see the module."""
    if absent := _absent(answer, 0):
        return Verdict(0.0, unparsable=absent)
    found = re.findall(r"score: ([\d.]+)", answer.judged[0].lower())
    try:
        value = float(found[0]) if len(found) == 1 else 0.0
    except ValueError:  # "1.0." with the full stop behind it: that script would stop here
        value = 0.0
    return Verdict(min(1.0, value), answer.text)


def strict(question: Question, answer: Answer) -> Verdict:
    """The paper's judge."""
    if absent := _absent(answer, 1):
        return Verdict(0.0, unparsable=absent)
    value = judge.score(answer.judged[1])
    return Verdict(value or 0.0, answer.text, "judge-unreadable" if value is None else "")


def _absent(answer: Answer, place: int) -> str:
    """Why there is no score of the judge at a place in `judge_requests`; "" where it said something."""
    if answer.absent or not answer.judged:
        return answer.absent or "empty"
    return answer.unjudged[place] if answer.unjudged else ""


def score(results: Sequence[Result]) -> list[Measure]:
    """Mean score of each source, and the plain mean of the sources' means."""
    parts = metrics.groups(results)
    measures = [metrics.clustered(name, rows, metrics.share(rows), "share") for name, rows in parts.items()]
    if set(parts) != set(SOURCES):
        return measures
    fifths = [(rows, metrics.share(rows), 1 / len(parts)) for rows in parts.values()]
    return [*measures, metrics.combined("average", fifths, "share")]


def _paths(source: config.Benchmark, wanted: Sequence[str]) -> list[Path]:
    return [files.find(source, f"{name}.json", PUBLISHED) for name in wanted]


def _question(row: dict[str, Any]) -> Question:
    turns, pictures = row.get("conversations"), row.get("image")
    if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, dict) for turn in turns):
        raise BadRow("bad-field", f"conversations: wanted turns, found {turns!r:.80}", "conversations")
    if not isinstance(pictures, list) or not pictures or not isinstance(pictures[0], str):
        raise BadRow("bad-field", f"image: wanted a list with the path, found {pictures!r:.80}", "image")
    # The script cuts at the same words; the sentence asks for a box, which our prompt asks for in its own way.
    question = (
        files.text(turns[0], "value").removeprefix("<image>").split(" Please provide the bounding box")[0]
    )
    dataset = files.text(row, "dataset")
    return Question(
        id=f"{dataset}/{files.integer(row, 'question_id')}",
        group=dataset,
        text=question.strip(),
        image=pictures[0].removeprefix("cot/"),
        reference=files.text(turns[-1], "value"),
    )
