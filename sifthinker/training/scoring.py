"""The bridge between TRL's reward functions and `sifthinker.rewards`: all four rewards of a step, scored together.

TRL calls the reward functions one after another with the same list of completions, on each rank with that rank's
own. The first call scores the batch: the judge is asked for all completions at once, the outcome is gathered over the
ranks, the book of judge scores is kept, and every completion goes into `work/completions.jsonl` (rank 0).
"""

from __future__ import annotations

import json
import logging
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate.utils import gather_object
from datasets import Dataset

from sifthinker import llm
from sifthinker.config import STANDIN, Grpo
from sifthinker.core import chain, depth_maps, records
from sifthinker.core.errors import UserError
from sifthinker.llm import judge
from sifthinker.rewards import REWARDS, answer, grounding
from sifthinker.training import json_files, ranks

logger = logging.getLogger(__name__)

BOOK = "book.json"
COMPLETIONS = pa.schema(
    [
        ("step", pa.int64()),  # optimiser step, from 1
        ("epoch", pa.int64()),  # from 0
        ("id", pa.string()),
        ("dataset", pa.string()),
        ("text", pa.string()),
        ("tokens", pa.int64()),
        ("format", pa.float64()),
        ("answer", pa.float64()),  # None: the judge gave no score
        ("grounding", pa.float64()),
        ("depth", pa.float64()),
        ("judge", pa.float64()),  # the raw score, None as above
        ("previous", pa.float64()),  # the sample's mean score in the last epoch, None in the first
        ("first_hiou", pa.float64()),  # the two parts of grounding, None where there is no chain
        ("last_hiou", pa.float64()),
    ]
)

BY_EPOCH = pa.schema(
    [
        ("epoch", pa.int64()),  # from 0
        ("dataset", pa.string()),  # of the source; "" = all
        ("reward", pa.string()),  # a name of REWARDS, or "judge", the raw score
        ("completions", pa.int64()),
        ("mean", pa.float64()),  # of those that are not absent; None where all are
        ("spread", pa.float64()),  # their standard deviation
        ("absent", pa.float64()),  # share of None
    ]
)


class Subject(NamedTuple):
    """What the rewards know of a sample."""

    id: str
    dataset: str
    question: str
    answer: str
    boxes: tuple[records.Box, ...]
    depth: depth_maps.SummedArea
    image_url: str


class Scorer:
    """Scores completions of the rows of `data`, and remembers what it scored."""

    def __init__(self, data: Dataset, settings: Grpo, work: Path, ledger: Path, base_url: str | None) -> None:
        """Raises:
        UserError: two rows have one id, or the judge is the stand-in and nobody started it.
        """
        self.data, self.settings = data, settings
        self.index = {id: index for index, id in enumerate(data["id"])}
        if len(self.index) < len(data):
            raise UserError(
                f"dataset: {len(data)} rows have {len(self.index)} different ids; ids must be unique"
            )
        if base_url is None and settings.judge.base_url == STANDIN:
            raise UserError(
                "judge_base_url: the stand-in judge is not started by this program; give its address"
            )
        self.client = llm.Client(settings.judge, ledger, base_url, scope="judge")
        self.file = work / "completions.jsonl"
        self.book = answer.Book()
        self.subject = lru_cache(maxsize=256)(self._subject)  # depth tables and data URLs, made once
        self.scored: Any = None
        self.columns: dict[str, list[float | None]] = {}

    def __enter__(self) -> Self:
        self.client.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.client.__exit__(*error)

    @property
    def functions(self) -> list[Callable[..., list[float | None]]]:
        """TRL's reward functions, in the order of `REWARDS`; TRL logs them by their names."""

        def named(name: str) -> Callable[..., list[float | None]]:
            def function(completions, completion_ids, sample_id, trainer_state, log_metric, **_):
                if completions is not self.scored:
                    texts = [completion[0]["content"] for completion in completions]
                    lengths = [len(ids) for ids in completion_ids]
                    epoch = epoch_of(trainer_state)
                    step = trainer_state.global_step + 1
                    self.columns = self.score(texts, lengths, sample_id, epoch, step, log_metric)
                    self.scored = completions
                return self.columns[name]

            function.__name__ = name
            return function

        return [named(name) for name in REWARDS]

    def score(
        self,
        texts: Sequence[str],
        lengths: Sequence[int],
        ids: Sequence[str],
        epoch: int,
        step: int,
        log: Callable[[str, float], None],
    ) -> dict[str, list[float | None]]:
        """The four rewards of this rank's completions; every rank calls it in the same step.

        Raises:
            UserError: the judge left more than `rewards.max_absent` of the step's completions without a score.
        """
        wanted = self.settings.rewards
        subjects = [self.subject(id) for id in ids]
        truths = [subject.boxes for subject in subjects]
        scores = self.ask(texts, subjects)
        previous = [self.book.previous(id, epoch) for id in ids]
        parts = [
            grounding.scores(text, truth, wanted.variant) for text, truth in zip(texts, truths, strict=True)
        ]
        columns: dict[str, list[Any]] = {
            "id": list(ids),
            "dataset": [subject.dataset for subject in subjects],
            "text": list(texts),
            "tokens": list(lengths),
            "format": REWARDS["format"](texts, wanted.variant),
            "answer": REWARDS["answer"](scores, previous, wanted.variant, wanted.progress),
            "grounding": REWARDS["grounding"](texts, truths, wanted.variant),
            "depth": REWARDS["depth"](
                texts, [subject.depth for subject in subjects], wanted.variant, wanted.depth_tolerance
            ),
            "judge": scores,
            "previous": previous,
            "first_hiou": [part and part[0] for part in parts],
            "last_hiou": [part and part[1] for part in parts],
        }
        local = [
            {"step": step, "epoch": epoch, **dict(zip(columns, values, strict=True))}
            for values in zip(*columns.values(), strict=True)
        ]
        everyone: list[dict[str, Any]] = gather_object(local)
        self._check_absent(everyone, step)
        self._remember(everyone, epoch)
        for name, value in _metrics(everyone).items():
            log(name, value)
        columns["answer"] = neutral(local, everyone)
        return {name: columns[name] for name in REWARDS}

    def ask(self, texts: Sequence[str], subjects: Sequence[Subject]) -> list[float | None]:
        """The judge's score of each completion, all asked at once. A reply without one answer is wrong, 0, and is
        not sent; None where the judge failed, or did not answer with a score."""
        answers = [chain.answer(text) for text in texts]
        asked = [index for index, found in enumerate(answers) if found is not None]
        requests = [
            judge.request(subjects[i].question, subjects[i].answer, answers[i] or "", subjects[i].image_url)
            for i in asked
        ]
        scores: list[float | None] = [0.0] * len(texts)
        for index, reply in zip(asked, self.client.ask_all(requests), strict=True):
            if isinstance(reply, llm.Failure):
                logger.warning("judge: no score for a completion of %s: %s", subjects[index].id, reply)
                scores[index] = None
            else:
                scores[index] = judge.score(reply.text)
        return scores

    def _subject(self, id: str) -> Subject:
        row = self.data[self.index[id]]
        return Subject(
            id=id,
            dataset=row["dataset"],
            question=row["question"],
            answer=row["answer"],
            boxes=records.boxes(row["boxes"]),
            depth=depth_maps.SummedArea(depth_maps.decode_bytes(row["depth_map"], name=f"depth map of {id}")),
            image_url=judge.picture(row["image"]["bytes"]),
        )

    def _check_absent(self, everyone: list[dict[str, Any]], step: int) -> None:
        absent = sum(entry["judge"] is None for entry in everyone)
        limit = self.settings.rewards.max_absent
        if absent > limit * len(everyone):
            raise UserError(
                f"step {step}: the judge gave no score for {absent} of {len(everyone)} completions, more than "
                f"rewards.max_absent = {limit}. See the warnings above; start again to go on from the last checkpoint"
            )

    def _remember(self, everyone: list[dict[str, Any]], epoch: int) -> None:
        # The release's progress compares with the mean of the rewards, the paper's with that of the scores.
        source = "answer" if self.settings.rewards.variant == "release" else "judge"
        for entry in everyone:
            self.book.add(entry["id"], epoch, [entry[source]])
        if ranks.rank() == 0:
            with self.file.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in everyone)

    def save(self, folder: Path) -> None:
        """Adds the book to a checkpoint."""
        json_files.write_json(folder / BOOK, self.book.to_json())

    def restore(self, checkpoint: Path | None) -> None:
        """Goes back to where `checkpoint` was written; None is the very start."""
        step = 0
        if checkpoint:
            self.book = answer.Book.from_json(json.loads((checkpoint / BOOK).read_text(encoding="utf-8")))
            step = int(checkpoint.name.rpartition("-")[2])
        if ranks.rank() == 0:
            kept = [line for line in self._lines() if json.loads(line)["step"] <= step]
            self.file.write_text("".join(kept), encoding="utf-8")

    def write_results(self, out: Path) -> int:
        """Writes `completions.parquet`, `rewards.parquet` and `book.json`; returns how many completions there were."""
        entries = [json.loads(line) for line in self._lines()]
        pq.write_table(pa.Table.from_pylist(by_epoch(entries), BY_EPOCH), out / "rewards.parquet")
        pq.write_table(
            pa.Table.from_pylist(entries, COMPLETIONS), out / "completions.parquet", compression="zstd"
        )
        json_files.write_json(out / BOOK, self.book.to_json())
        return len(entries)

    def _lines(self) -> list[str]:
        """Whole lines: a killed run may have left half of one at the end."""
        if not self.file.exists():
            return []
        lines = self.file.read_text(encoding="utf-8").splitlines(keepends=True)
        return [line for line in lines if line.endswith("\n")]


def epoch_of(state: Any) -> int:
    """The epoch under way, from 0, of a trainer's state (whose `epoch` is a float)."""
    return int((state.epoch or 0) + 1e-6)


def neutral(local: list[dict[str, Any]], everyone: list[dict[str, Any]]) -> list[float | None]:
    """r_ans of `local`, an absent one replaced by the mean of its sample's present ones (None where there is none).

    TRL sums None as 0, so a failure of the judge would count as a wrong answer within the group.
    """
    groups = defaultdict(list)
    for entry in everyone:
        if entry["answer"] is not None:
            groups[entry["id"]].append(entry["answer"])
    means = {id: sum(values) / len(values) for id, values in groups.items()}
    return [means.get(entry["id"]) if entry["answer"] is None else entry["answer"] for entry in local]


def by_epoch(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every reward's mean, spread and share of None in each epoch, over all completions and by source data set."""
    groups = defaultdict(list)
    for entry in entries:
        groups[entry["epoch"], ""].append(entry)
        groups[entry["epoch"], entry["dataset"]].append(entry)
    found = []
    for (epoch, dataset), members in sorted(groups.items()):
        for reward in (*REWARDS, "judge"):
            known = [entry[reward] for entry in members if entry[reward] is not None]
            found.append(
                {
                    "epoch": epoch,
                    "dataset": dataset,
                    "reward": reward,
                    "completions": len(members),
                    "mean": statistics.fmean(known) if known else None,
                    "spread": statistics.pstdev(known) if known else None,
                    "absent": _share(members, reward),
                }
            )
    return found


def _metrics(everyone: list[dict[str, Any]]) -> dict[str, float]:
    """What TRL does not log itself: shares of None, the judge's raw score, and the two parts of grounding."""
    absent = {f"rewards/{name}/absent": _share(everyone, name) for name in REWARDS}
    absent["rewards/answer/progress_absent"] = _share(everyone, "previous")
    parts = {"judge/score": "judge", "grounding/first_hiou": "first_hiou", "grounding/last_hiou": "last_hiou"}
    means = {}
    for name, column in parts.items():
        present = [entry[column] for entry in everyone if entry[column] is not None]
        if present:
            means[name] = sum(present) / len(present)
    return {**absent, **means}


def _share(everyone: list[dict[str, Any]], column: str) -> float:
    return sum(entry[column] is None for entry in everyone) / len(everyone)
