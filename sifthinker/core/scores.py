"""The scores of an evaluation, as its `scores.json` holds them and as nights, ablation and report show them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal, TypedDict

FILE = "scores.json"


class Score(TypedDict):
    """One metric of a benchmark; all None and 0 where the benchmark was not scored."""

    benchmark: str
    metric: str  # "" where it was not scored
    official: float | None  # by the published rule; None: not defined
    strict: float | None  # what the replies say
    n: int  # questions
    unparsable: float  # of these, by the strict rule; a mean where several seeds are pooled
    rejected: int  # questions that could not be asked
    low: float | None  # of the 95 % interval of `strict`
    high: float | None
    unit: Literal["share", "points"]  # of 1, or points as the benchmark counts them
    limit: int | None  # a sample of so many questions; None = all
    missing: str | None  # why it was not scored; None where it was


class ModelScore(Score):
    """A score and the model that has it."""

    model: str


def read(evaluation: Path) -> list[Score]:
    """The scores in the folder of an evaluation."""
    scores: list[Score] = json.loads((evaluation / FILE).read_text(encoding="utf-8"))["scores"]
    return scores


def read_with_model(evaluation: Path) -> list[ModelScore]:
    """The scores in the folder of an evaluation, each with the model's name as reports show it."""
    model: str = json.loads((evaluation / FILE).read_text(encoding="utf-8"))["model"]
    return [{"model": model, **score} for score in read(evaluation)]


def factor(unit: str) -> int:
    """What the numbers of a score are multiplied by to be shown: shares are shown of 100, points as they are."""
    return 100 if unit == "share" else 1


def of_100(score: Score) -> Score:
    """The score as it is shown: see `factor`. What is no finite number is None."""

    def times(value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else value * factor(score["unit"])

    return {
        **score,
        "official": times(score["official"]),
        "strict": times(score["strict"]),
        "low": times(score["low"]),
        "high": times(score["high"]),
    }


def unparsable_rate(score: Score) -> float:
    """Per cent of the replies that could not be read; 0 where there are none."""
    return 100 * score["unparsable"] / score["n"] if score["n"] else 0.0
