"""Two judges on the same replies: what replacing one by the other changes.

The paper's judge is a model that a reader may not have. Scores of another judge are comparable only as far as the two agree,
which this module measures.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy import stats

from sifthinker import llm
from sifthinker.core import images
from sifthinker.core.errors import UserError
from sifthinker.core.tables import read
from sifthinker.llm import judge

CLOSE = 0.1  # scores that differ by at most so much are the same
RIGHT = 0.8  # from which an answer counts as right, as in annotation


@dataclass(frozen=True, slots=True)
class Judged:
    """A reply to be judged."""

    question: str
    reference: str
    answer: str
    image: Path | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of two judges, a and b. Shares and means are over the replies that both gave a score; NaN where there are none."""

    replies: int
    unscored: tuple[int, int]  # without a score of a, of b
    scored: int  # by both
    means: tuple[float, float]
    close: float  # share whose scores differ by at most `CLOSE`
    right: tuple[float, float]  # share that a, that b takes for right
    turned: float  # share that one takes for right and the other for wrong
    kappa: float  # Cohen's, of right and wrong: agreement beyond chance
    rank: float  # Spearman's correlation

    def table(self, names: tuple[str, str]) -> list[tuple[str, str, str]]:
        """Rows of a table: what, of the first judge, of the second (or of both)."""
        (none_a, none_b), (mean_a, mean_b), (right_a, right_b) = self.unscored, self.means, self.right
        return [
            ("judge", *names),
            ("no score", f"{none_a} of {self.replies}", f"{none_b} of {self.replies}"),
            ("mean score", _number(mean_a), _number(mean_b)),
            (f"right (from {RIGHT})", _percent(right_a), _percent(right_b)),
            (f"scores within {CLOSE}", _percent(self.close), ""),
            ("right for one, wrong for the other", _percent(self.turned), ""),
            ("Cohen's kappa of right and wrong", _number(self.kappa), ""),
            ("Spearman's rank correlation", _number(self.rank), ""),
        ]


def replies(file: Path, rows: int, seed: int = 0) -> list[Judged]:
    """A seeded sample of the replies of a file.

    Args:
        file: an evaluation's `predictions.parquet`, or JSON lines with question, reference, answer and, optionally, image: the
            path of a photograph, relative to the file.
        rows: most replies.
        seed: of the sample.

    Raises:
        UserError: it is neither, or has no reply with an answer and a reference.
    """
    found = [one for one in _read(file) if one.answer and one.reference]
    if not found:
        raise UserError(f"{file}: no reply has an answer and a reference answer")
    if len(found) <= rows:
        return found
    chosen = sorted(random.Random(seed).sample(range(len(found)), rows))
    return [found[index] for index in chosen]


def _read(file: Path) -> Iterator[Judged]:
    if file.suffix == ".parquet":
        try:
            for row in read(file, ["question", "reference", "answer"]):
                yield Judged(row["question"], row["reference"] or "", row["answer"] or "")
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{file}: cannot be read: {error}") from error
        except KeyError as error:
            raise UserError(
                f"{file}: has no column {error}; an evaluation's predictions.parquet has"
            ) from error
        return
    try:
        # Not `splitlines`: a text of a line may hold U+2028 and other characters that it takes for ends of lines.
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            texts = [row[name] for name in ("question", "reference", "answer")]
            image = row.get("image")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{file}, line {number}: {type(error).__name__}: {error}; each line is a JSON object with question, "
                "reference and answer"
            ) from error
        if not all(isinstance(text, str) for text in (*texts, image or "")):
            raise UserError(f"{file}, line {number}: question, reference, answer and image must be texts")
        yield Judged(texts[0], texts[1], texts[2], file.parent / image if image else None)


def scores(client: llm.Client, asked: Sequence[Judged]) -> list[float | None]:
    """The judge's score of each reply; None where it gave none.

    Raises: see `Client.ask`; UserError where a photograph cannot be read.
    """

    def requests() -> Iterator[llm.Request]:
        for one in asked:
            picture = judge.picture(_photo(one.image)) if one.image else None
            most = client.api.judge_tokens
            yield judge.request(one.question, one.reference, one.answer, picture, max_tokens=most)

    return [
        judge.scored(reply) if isinstance(reply, llm.Reply) else None for reply in client.answers(requests())
    ]


def _photo(path: Path) -> bytes:
    try:
        return images.photo(path.read_bytes(), 50_000_000, str(path)).data
    except (OSError, images.BadImage) as error:
        raise UserError(f"{path}: the photograph cannot be read: {error}") from error


def agreement(first: Sequence[float | None], second: Sequence[float | None]) -> Agreement:
    """How far two judges agree.

    Args:
        first: scores of the one, 0..1; None where it gave none.
        second: of the other, for the same replies.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    unscored = (sum(a is None for a in first), sum(b is None for b in second))
    if not pairs:
        nan = math.nan
        return Agreement(len(first), unscored, 0, (nan, nan), nan, (nan, nan), nan, nan, nan)
    a, b = np.array(pairs, dtype=float).T
    right_a, right_b = a >= RIGHT, b >= RIGHT
    same = float(np.mean(right_a == right_b))
    share_a, share_b = float(right_a.mean()), float(right_b.mean())
    chance = share_a * share_b + (1 - share_a) * (1 - share_b)
    varies = len(set(a)) > 1 and len(set(b)) > 1
    return Agreement(
        len(first),
        unscored,
        len(pairs),
        (float(a.mean()), float(b.mean())),
        float(np.mean(np.abs(a - b) <= CLOSE + 1e-9)),
        (share_a, share_b),
        1 - same,
        (same - chance) / (1 - chance) if chance < 1 else math.nan,
        float(stats.spearmanr(a, b).statistic) if varies else math.nan,
    )


def furthest(
    asked: Sequence[Judged], first: Sequence[float | None], second: Sequence[float | None], count: int
) -> list[tuple[Judged, float, float]]:
    """The replies on which the judges differ most."""
    pairs = [
        (one, a, b) for one, a, b in zip(asked, first, second, strict=True) if a is not None and b is not None
    ]
    return sorted((pair for pair in pairs if pair[1] != pair[2]), key=lambda pair: -abs(pair[1] - pair[2]))[
        :count
    ]


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{100 * value:.1f} %"
