"""The paper's Tables 1 to 4, row by row: our scores beside the paper's numbers, and what differs in the measurement.

A row stands here although its benchmark was not evaluated, and then says so: what is missing is seen. Rendered look-alikes of
a benchmark are other questions. Their scores never stand in these tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sifthinker.core.scores import ModelScore, of_100
from sifthinker.reporting import paper_results

TITLES = {
    1: "Spatial understanding",
    2: "Fine-grained perception",
    3: "Grounding and detection",
    4: "General benchmarks",
}
SPLITS = {  # of RefCOCO, by the metric of the files that have the paper's split, or it and Google's together
    "RefCOCO val": ("refcoco_val", "refcoco_val+google"),
    "RefCOCO testA": ("refcoco_testA",),
    "RefCOCO testB": ("refcoco_testB",),
    "RefCOCO+ val": ("refcoco+_val",),
    "RefCOCO+ testA": ("refcoco+_testA",),
    "RefCOCO+ testB": ("refcoco+_testB",),
    "RefCOCOg val": ("refcocog_val", "refcocog_val+google"),
    "RefCOCOg test": ("refcocog_test",),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of one of the paper's tables."""

    table: int
    label: str  # as the table names it
    benchmark: str
    metrics: tuple[str, ...]  # of ours; the first that there is
    differs: tuple[str, ...] = ()  # how our measurement is another than the paper's or the release's


_REC = (
    "which splits the paper reports is not known",
    "boxes are scored on the picture itself; the release's script scores them on the padded square",
)
ROWS = (
    Row(
        1,
        "SpatialBench",
        "spatialbench",
        ("average",),
        ("an answer that is missing is wrong; the release counts it as right",),
    ),
    Row(
        1,
        "SAT, static",
        "sat",
        ("static", "static, SAT's prompt", "static, file's order"),
        (
            "the choices are shuffled for each question; the release lists the right one first",
            "scored by SAT's own rule, and strictly; the release counts a missing answer as right",
        ),
    ),
    Row(1, "CV-Bench", "cvbench", ("average",), ("cambrian's rule; the authors released no script",)),
    Row(2, "VisCoT-s", "viscot", ("average",)),
    Row(
        2,
        "V*, attributes",
        "vstar",
        ("direct_attributes",),
        ("letters by lmms-eval's rules; in the release a letter anywhere in the answer is right",),
    ),
    Row(
        2,
        "V*, relations",
        "vstar",
        ("relative_position",),
        ("letters by lmms-eval's rules; in the release a letter anywhere in the answer is right",),
    ),
    *(Row(3, f"{label}, Acc@0.5", "refcoco", metrics, _REC) for label, metrics in SPLITS.items()),
    Row(
        3,
        "OVDEval, NMS-AP",
        "ovdeval",
        ("average",),
        (
            "how the paper gives labels to boxes is not known; here the field labels of the benchmark says how",
        ),
    ),
    Row(4, "MME, perception", "mme", ("perception",)),
    Row(4, "MME, cognition", "mme", ("cognition",)),
    Row(
        4,
        "MMBench, test",
        "mmbench",
        ("test",),
        (
            "the answers are hidden; the server that has them also asks a GPT model to read replies",
            "the file for it holds the letter that the strict rule reads, else the answer as it stands",
        ),
    ),
    Row(4, "MMBench, dev", "mmbench", ("dev",), ("no GPT model reads what the rules leave open",)),
    Row(4, "SEED-Bench, images", "seed", ("image",)),
    Row(
        4,
        "VQAv2",
        "vqav2",
        ("overall",),
        (
            "which split the paper reports is not known",
            "where answers are hidden, the file for the server holds the strict reading, else the answer as it stands",
        ),
    ),
    Row(
        4,
        "POPE",
        "pope",
        ("average",),
        ("mean F1 of the three sets; which figure the paper reports is not known",),
    ),
)
_GOOGLE = "UNC's or UMD's split and Google's 5,000 objects together, as the Parquet files have them"
_GENERAL = "asked for a chain, with the depth picture; the release asks these questions plainly"


def tables(scores: Iterable[ModelScore], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tables for a template, all numbers of 100 (MME: points).

    Args:
        scores: of our models; those of rendered look-alikes are left out.
        config: the resolved configuration: the judge, and the base model.

    Returns:
        By table its number, title, rows, and how many scores of ours are in it (`scored`). A row has `label`, `ours` (a model's scores each, or why there are none),
        `paper` (a base model's number each) and `differs`.
    """
    known = list(scores)
    judge = ((config.get("evaluate") or {}).get("judge") or {}).get("model", "")
    made: list[dict[str, Any]] = [
        {"table": row.table, "label": row.label}
        | {"ours": _ours(row, known), "paper": _paper(row), "differs": _differs(row, known, judge)}
        for row in ROWS
    ]
    found = []
    for number, title in TITLES.items():
        rows = [row for row in made if row["table"] == number]
        scored = sum(ours["score"] is not None for row in rows for ours in row["ours"])
        found.append({"number": number, "title": title, "rows": rows, "scored": scored})
    return found


def _ours(row: Row, scores: Sequence[ModelScore]) -> list[dict[str, Any]]:
    """The score of each of our models, or the reason why there is none."""
    of = [score for score in scores if score["benchmark"] == row.benchmark]
    real = [score for score in of if not score.get("rendered")]
    found: list[dict[str, Any]] = []
    for model in dict.fromkeys(score["model"] for score in real):
        mine = {score["metric"]: score for score in real if score["model"] == model}
        score = next((mine[metric] for metric in row.metrics if metric in mine), None)
        if score is not None and not score.get("missing"):
            found.append({"model": model, "score": of_100(score), "why": ""})
        else:
            reasons = [score["missing"] for score in mine.values() if score.get("missing")]
            found.append({"model": model, "score": None, "why": "; ".join(map(str, reasons)) or "not scored"})
    if not found:
        why = "only a rendered look-alike was asked" if of else "not evaluated"
        found.append({"model": "", "score": None, "why": why})
    return found


def _paper(row: Row) -> list[dict[str, Any]]:
    numbers = [number for metric in row.metrics for number in paper_results.published(row.benchmark, metric)]
    return [paper_results.of_100(number) for number in numbers]


def _differs(row: Row, scores: Sequence[ModelScore], judge: str) -> list[str]:
    """What differs in the measurement of a row, of what was measured and in general."""
    of = [
        s
        for s in scores
        if s["benchmark"] == row.benchmark and not s.get("rendered") and not s.get("missing")
    ]
    mine = [score for score in of if score["metric"] in row.metrics]
    said = list(row.differs)
    if row.benchmark == "viscot":
        said.append(
            f"judged by {judge or 'no judge'}: with the picture and the paper's prompt (strict), and with Visual-CoT's "
            "prompt, which its script sends to gpt-3.5-turbo (official)"
        )
    if any(score["metric"].endswith("+google") for score in mine):
        said.append(_GOOGLE)
    if any(score["metric"] in ("static, file's order", "static, SAT's prompt") for score in mine):
        said.append(f"asked as: {mine[0]['metric']}")
    plain = [score for score in of if not score.get("think", True)]
    if row.table == 4 and not plain:
        said.append(_GENERAL)
    elif plain and row.table != 4:
        said.append("asked plainly, without a chain")
    if limit := next((score["limit"] for score in mine if score["limit"]), None):
        said.append(f"a seeded sample of at most {limit} questions")
    if shrunk := _shrunk(mine):
        said.append(shrunk)
    if frame := next((s["box_frame"] for s in mine if s.get("box_frame", "image") != "image"), ""):
        said.append(f"boxes read in the frame {frame}")
    return said


def _shrunk(scores: Sequence[ModelScore]) -> str:
    """That a benchmark's pictures have more pixels than a model saw of them; "" where none has, or nothing is known."""
    score = next((score for score in scores if score.get("max_pixels") and score.get("shrunk") != 0), None)
    if score is None:
        return ""
    said = f"at most {score['max_pixels']:,} pixels of a picture are seen (model.max_pixels)"
    share, side = score.get("shrunk"), score.get("shrunk_to")
    if share is None or side is None:
        return said
    return f"{said}: {100 * share:.0f} % of the pictures were shrunk, at the median to {100 * side:.0f} % of their side"
