"""The bridge between TRL's reward functions and `sifthinker.rewards`: all rewards of a step, scored together.

TRL calls the reward functions one after another with the same list of completions, on each rank with that rank's
own. The first of them scores the batch: the judge is asked about all completions at once, every reward of `REWARDS`
is computed, the outcome is gathered over the ranks, the book of scores is kept, and every completion goes into
`work/completions.jsonl` (rank 0). The other functions return what the first has found.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate.utils import gather_object
from datasets import Dataset

from sifthinker import llm
from sifthinker.config import LOCAL, STANDIN, Grpo
from sifthinker.core import chain, depth_maps, records
from sifthinker.core.errors import UserError
from sifthinker.llm import judge
from sifthinker.llm.bookkeeping import Place
from sifthinker.rewards import REWARDS, Batch, answer, columns, shown
from sifthinker.system import files
from sifthinker.training import json_files, outages, ranks

logger = logging.getLogger(__name__)

BOOK = "book.json"
_ROOM = 2 << 30  # bytes: a photograph of 12 megapixels takes 96 MB, one of VisCoT's 1.5 MB
_STEPS = 4  # whose completions are looked at for their form (rewards.least_format)
# Columns of `completions.parquet` before the rewards and what is kept beside them: see `completions_schema`.
_OF_COMPLETION = [
    ("step", pa.int64()),  # optimiser step, from 1
    ("epoch", pa.int64()),  # from 0
    ("id", pa.string()),
    ("dataset", pa.string()),
    ("text", pa.string()),
    ("tokens", pa.int64()),
]
BY_EPOCH = pa.schema(
    [
        ("epoch", pa.int64()),  # from 0
        ("dataset", pa.string()),  # of the source; "" = all
        ("reward", pa.string()),  # one of `rewards.shown()`: a reward, or "judge", the raw score
        ("completions", pa.int64()),
        ("mean", pa.float64()),  # of those that are not absent; None where all are
        ("spread", pa.float64()),  # their standard deviation
        ("absent", pa.float64()),  # share of None
    ]
)


def completions_schema() -> pa.Schema:
    """The schema of `completions.parquet`: one row a completion.

    The rewards follow in the order of `REWARDS`, None where one does not apply (the judge gave no score, say), then
    the columns that they keep beside them, None likewise.
    """
    names = [*REWARDS, *(column.name for column in columns())]
    return pa.schema([*_OF_COMPLETION, *((name, pa.float64()) for name in names)])


class Subject(NamedTuple):
    """What the rewards know of a sample."""

    id: str
    dataset: str
    question: str
    answer: str
    boxes: tuple[records.Box, ...]
    depth: depth_maps.SummedArea
    image_url: str


def kept(data: Dataset) -> int:
    """How many rows' depth tables a rank keeps: what `_ROOM` holds if all are as large as the largest, at least four.

    Args:
        data: with `width` and `height` in pixels.
    """
    pixels = max(((w + 1) * (h + 1) for w, h in zip(data["width"], data["height"], strict=True)), default=1)
    return min(256, max(4, _ROOM // (8 * pixels)))


class Scorer:
    """Scores completions of the rows of `data`, and remembers what it scored."""

    def __init__(
        self, data: Dataset, settings: Grpo, work: Path, ledger: Place, base_url: str | None
    ) -> None:
        """Takes the rows that are trained on, and where the judge and its ledger are.

        Args:
            data: rows of the SIF Parquet.
            settings: `rewards` and `judge` count.
            work: folder of `completions.jsonl`.
            ledger: where the judge's calls are recorded.
            base_url: the judge's endpoint; None: that of the settings.

        Raises:
            UserError: two rows have one id, or the judge is the stand-in and nobody started it.
        """
        self.data, self.settings = data, settings
        self.index = {id: index for index, id in enumerate(data["id"])}
        if len(self.index) < len(data):
            raise UserError(
                f"dataset: {len(data)} rows have {len(self.index)} different ids; ids must be unique"
            )
        if base_url is None and settings.judge.base_url in (STANDIN, LOCAL):
            raise UserError(
                f"judge_base_url: a {settings.judge.base_url} judge is not started by this program; give its address"
            )
        self.client = llm.Client(settings.judge, ledger, base_url, scope="judge")
        self.file = work / "completions.jsonl"
        self.book = answer.Book()
        self.subject = lru_cache(maxsize=kept(data))(self._subject)  # depth tables and data URLs, made once
        self.scored: dict[str, list[float | None]] = {}  # the rewards of the batch under way
        self.formats: deque[float] = deque(maxlen=_STEPS)  # mean r_format of the last steps

    def __enter__(self) -> Self:
        """Starts the judge's client."""
        self.client.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends the judge's client."""
        self.client.__exit__(*error)

    @property
    def functions(self) -> list[Callable[..., list[float | None]]]:
        """TRL's reward functions, in the order of `REWARDS`; TRL calls them in this order and logs them by name."""

        def first(completions, completion_ids, sample_id, trainer_state, log_metric, **_):
            texts = [completion[0]["content"] for completion in completions]
            lengths = [len(ids) for ids in completion_ids]
            step = trainer_state.global_step + 1
            self.scored = self.score(texts, lengths, sample_id, epoch_of(trainer_state), step, log_metric)

        def named(place: int, name: str) -> Callable[..., list[float | None]]:
            def function(**batch):
                if place == 0:
                    first(**batch)
                return self.scored[name]

            function.__name__ = name
            return function

        return [named(place, name) for place, name in enumerate(REWARDS)]

    def score(
        self,
        texts: Sequence[str],
        lengths: Sequence[int],
        ids: Sequence[str],
        epoch: int,
        step: int,
        log: Callable[[str, float], None],
    ) -> dict[str, list[float | None]]:
        """The rewards of this rank's completions, by name; every rank calls it in the same step.

        Args:
            texts: the completions; all sequences are (completions,).
            lengths: their tokens.
            ids: of their samples.
            epoch: from 0.
            step: from 1.
            log: takes the name and the value of a metric.

        Raises:
            UserError: the judge left more than `rewards.max_absent` of the step's completions without a score, or
                less than `rewards.least_format` of the last completions are chains.
            JudgeAway: the judge did not answer for longer than `judge_patience`.
        """
        subjects = [self.subject(id) for id in ids]
        batch = Batch(
            texts=texts,
            questions=[subject.question for subject in subjects],
            references=[subject.answer for subject in subjects],
            truths=[subject.boxes for subject in subjects],
            maps=[subject.depth for subject in subjects],
            scores=self.ask(texts, subjects),
            previous=[self.book.previous(id, epoch) for id in ids],
            settings=self.settings.rewards,
        )
        found: dict[str, Sequence[Any]] = {
            "id": ids,
            "dataset": [subject.dataset for subject in subjects],
            "text": texts,
            "tokens": lengths,
            **{name: reward.values(batch) for name, reward in REWARDS.items()},
        }
        for reward in REWARDS.values():
            found |= reward.details_of(batch)
        local = [
            {"step": step, "epoch": epoch, **dict(zip(found, values, strict=True))}
            for values in zip(*found.values(), strict=True)
        ]
        everyone: list[dict[str, Any]] = gather_object(local)
        self._check_absent(everyone, step)
        self._check_format(everyone, step)
        self._remember(everyone, epoch)
        for name, value in _metrics(everyone).items():
            log(name, value)
        return {name: neutral(name, local, everyone) for name in REWARDS}

    def ask(self, texts: Sequence[str], subjects: Sequence[Subject]) -> list[float | None]:
        """The judge's score of each completion, all asked at once.

        A completion without an answer is wrong, 0, and the judge is not asked about it. None where the judge failed
        or did not reply with a score. Every rank calls it at the same time, since all wait for a judge that is away.

        Raises:
            JudgeAway: it stayed away for longer than `judge_patience`.
        """
        answers = [chain.answer(text) for text in texts]
        asked = [index for index, found in enumerate(answers) if found is not None]
        most = self.settings.judge.judge_tokens
        requests = [
            judge.request(
                subjects[i].question,
                subjects[i].answer,
                answers[i] or "",
                subjects[i].image_url,
                max_tokens=most,
            )
            for i in asked
        ]
        scores: list[float | None] = [0.0] * len(texts)
        replies = outages.ask_all(
            self.client,
            requests,
            len(texts),
            self.settings.rewards.max_absent,
            self.settings.judge_patience,
        )
        for index, reply in zip(asked, replies, strict=True):
            if isinstance(reply, llm.Failure):
                logger.warning("judge: no score for a completion of %s: %s", subjects[index].id, reply)
                scores[index] = None
            else:
                scores[index] = judge.scored(reply)
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
        absent = sum(entry[answer.JUDGE] is None for entry in everyone)
        limit = self.settings.rewards.max_absent
        if absent > limit * len(everyone):
            raise UserError(
                f"step {step}: the judge gave no score for {absent} of {len(everyone)} completions, more than "
                f"rewards.max_absent = {limit}. See the warnings above; start again to go on from the last checkpoint"
            )

    def _check_format(self, everyone: list[dict[str, Any]], step: int) -> None:
        self.formats.append(statistics.fmean(entry["format"] for entry in everyone))
        limit, found = self.settings.rewards.least_format, statistics.fmean(self.formats)
        if len(self.formats) == _STEPS and found < limit:
            raise UserError(
                f"step {step}: {found:.2f} of the completions of the last {_STEPS} steps are chains, less than "
                f"rewards.least_format = {limit}. Lower grpo.learning_rate or raise grpo.beta; a start with the same "
                "settings would go on from the last checkpoint and end here again"
            )

    def _remember(self, everyone: list[dict[str, Any]], epoch: int) -> None:
        self.book.enter(everyone, epoch, self.settings.rewards.variant)
        if ranks.rank() == 0:
            with self.file.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in everyone)

    def save(self, folder: Path) -> None:
        """Adds the book to a checkpoint, whose completions are on the disk before it is complete."""
        if self.file.exists():
            files.sync(self.file)
        json_files.write_json(folder / BOOK, self.book.to_json())

    def restore(self, checkpoint: Path | None) -> None:
        """Goes back to where `checkpoint` was written; None is the very start."""
        step = 0
        if checkpoint:
            self.book = answer.Book.from_json(json.loads((checkpoint / BOOK).read_text(encoding="utf-8")))
            step = int(checkpoint.name.rpartition("-")[2])
        if ranks.rank() == 0:
            kept = [line for line in self._lines() if json.loads(line)["step"] <= step]
            part = self.file.with_suffix(".part")  # a kill or a full disk in between loses no step
            part.write_text("".join(kept), encoding="utf-8")
            files.sync(part)
            part.replace(self.file)

    def write_results(self, out: Path) -> int:
        """Writes `completions.parquet`, `rewards.parquet` and `book.json`; returns how many completions there were."""
        entries = [json.loads(line) for line in self._lines()]
        pq.write_table(pa.Table.from_pylist(by_epoch(entries), BY_EPOCH), out / "rewards.parquet")
        pq.write_table(
            pa.Table.from_pylist(entries, completions_schema()),
            out / "completions.parquet",
            compression="zstd",
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


def neutral(reward: str, local: list[dict[str, Any]], everyone: list[dict[str, Any]]) -> list[float | None]:
    """A reward of `local`, an absent one replaced by the mean of its sample's present ones (None where there is none).

    TRL sums None as 0, so a failure of the judge would count as a wrong answer within the group.
    """
    groups = defaultdict(list)
    for entry in everyone:
        if entry[reward] is not None:
            groups[entry["id"]].append(entry[reward])
    means = {id: sum(values) / len(values) for id, values in groups.items()}
    return [means.get(entry["id"]) if entry[reward] is None else entry[reward] for entry in local]


def by_epoch(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every reward's mean, spread and share of None in each epoch, over all completions and by source data set.

    The rows are those of `BY_EPOCH`.
    """
    groups = defaultdict(list)
    for entry in entries:
        groups[entry["epoch"], ""].append(entry)
        groups[entry["epoch"], entry["dataset"]].append(entry)
    found = []
    for (epoch, dataset), members in sorted(groups.items()):
        for reward in shown():
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
    """What TRL does not log itself: shares of None, and means of the columns that say so."""
    absent = {f"rewards/{name}/absent": _share(everyone, name) for name in REWARDS}
    absent |= {column.absent: _share(everyone, column.name) for column in columns() if column.absent}
    means = {}
    for column in columns():
        present = [entry[column.name] for entry in everyone if entry[column.name] is not None]
        if column.mean and present:
            means[column.mean] = sum(present) / len(present)
    return {**absent, **means}


def _share(everyone: list[dict[str, Any]], column: str) -> float:
    return sum(entry[column] is None for entry in everyone) / len(everyone)
