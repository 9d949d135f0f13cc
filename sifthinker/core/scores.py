"""The scores of an evaluation, as its `scores.json` holds them and as nights, ablation and report show them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal, TypedDict

FILE = "scores.json"


class Score(TypedDict):
    """One metric of a benchmark; all None and 0 where the benchmark was not scored."""

    benchmark: str
    metric: str  # "" where it was not scored
    official: float | None  # by the published rule; None: not defined
    strict: float | None  # what the replies say
    n: int  # questions
    unparsable: float  # of these, by the strict rule; a mean where several seeds are pooled
    refused: int  # of the unparsable: replies that decline, or say that they see no picture
    rules: int  # version of the benchmark's scoring rules (evaluation/benchmarks/question.py)
    rejected: int  # questions that could not be asked
    low: float | None  # of the 95 % interval of `strict`
    high: float | None
    unit: Literal["share", "points"]  # of 1, or points as the benchmark counts them
    limit: int | None  # a sample of so many questions; None = all
    missing: str | None  # why it was not scored; None where it was
    rendered: bool  # the questions are rendered scenes in the benchmark's form, and not the published ones
    shrunk: float | None  # share of the pictures that have more pixels than the model sees; None: not known
    shrunk_to: float | None  # the median part of their side at which it sees those; None where there are none


class ModelScore(Score):
    """A score, the model that has it, and how it was asked."""

    model: str
    box_frame: str  # in which its boxes were read
    think: bool  # it was asked for a chain
    max_pixels: int | None  # most pixels that it sees of a picture; None: of a fixed size, or not known


def read(evaluation: Path) -> list[Score]:
    """The scores in the folder of an evaluation.

    Older ones have one version of the rules for all benchmarks; those from before the rules had versions, version 1.
    """
    summary = _summary(evaluation)
    scores: list[Score] = summary["scores"]
    for score in scores:
        score.setdefault("refused", 0)
        score.setdefault("rules", summary.get("rules", 1))
        score.setdefault("rendered", False)
        score.setdefault("shrunk", None)
        score.setdefault("shrunk_to", None)
    return scores


def read_with_model(evaluation: Path) -> list[ModelScore]:
    """The scores in the folder of an evaluation, each with the model's name as reports show it."""
    summary = _summary(evaluation)
    model, frame, think = summary["model"], summary.get("box_frame", "image"), summary.get("think", True)
    most = summary.get("max_pixels")
    return [
        {"model": model, "box_frame": frame, "think": think, "max_pixels": most, **score}
        for score in read(evaluation)
    ]


def rules(evaluation: Path) -> dict[str, int]:
    """The version of the rules by which each benchmark of an evaluation was scored, by the name of its scores."""
    return {score["benchmark"]: score["rules"] for score in read(evaluation)}


def _summary(evaluation: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((evaluation / FILE).read_text(encoding="utf-8"))
    return summary


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
