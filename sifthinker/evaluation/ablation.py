"""The ablation of the paper's Table 5: configurations of its rows, and the table of their scores.

Each row is the same pipeline under a configuration that differs in a few fields, so that rows share every stage that
does not. The paper's rows without a reward, without progress and without the depth image could not be obtained; its
VQA-SFT, CoT-SFT and full rows are shown beside ours.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sifthinker.config import Config, Variant, changed
from sifthinker.core import tables
from sifthinker.core.scores import Score, factor, unparsable_rate
from sifthinker.core.scores import read as read_scores
from sifthinker.core.scores import rules as read_rules
from sifthinker.evaluation import gate, history, over_seeds
from sifthinker.evaluation.benchmarks import SAMPLED
from sifthinker.reporting import paper_results, plots

NOTICES = {  # by model.weights
    "tiny": "The base model is a random toy. It learns nothing: every row is chance, and differences mean nothing.",
    **dict.fromkeys(
        ("miniature", "miniature-looks"),
        "The base model is a miniature that was trained on rendered scenes: what holds here need not hold of the paper's model.",
    ),
}
SEEDS = "Behrens-Fisher over questions and seeds"  # the test where it is counted how far seeds are apart
Rows = Mapping[str, Mapping[int, Path]]  # by row, in order, and seed: the folder of its evaluation


def seeds(config: Config, variant: Variant) -> tuple[int, ...]:
    """The seeds that a row is made with: one, where nothing is trained."""
    found = config.ablation.seeds if variant.seeds is None else variant.seeds
    return found[:1] if variant.trained == "no" else found


def only(config: Config, wanted: Sequence[int]) -> Config:
    """The configuration with these seeds alone, for all rows."""
    variants = tuple(variant.model_copy(update={"seeds": None}) for variant in config.ablation.variants)
    ablation = config.ablation.model_copy(update={"seeds": tuple(wanted), "variants": variants})
    return config.model_copy(update={"ablation": ablation})


def configured(config: Config, variant: Variant, seed: int) -> Config:
    """The configuration of a row, trained with a seed.

    Raises:
        UserError: the row sets a field that there is not, or a wrong value.
    """
    name = f"{config.name}.{variant.name}" + (f".{seed}" if len(config.ablation.seeds) > 1 else "")
    fields = {"sft.seed": seed, "grpo.seed": seed, **variant.fields, "name": name}
    return changed(config, fields, f"ablation, row {variant.name}")


def write(out: Path, rows: Rows, reference: str, weights: str, untrained: Collection[str] = ()) -> str:
    """Writes `table.json`, `table.md` and `table.png` into `out`; returns the Markdown.

    Args:
        out: a folder.
        rows: the folders hold `scores.json` and `predictions.parquet`.
        reference: the row that the others are compared with, where it is there.
        weights: `model.weights`; what is no published model is named as such.
        untrained: the rows that depend on no seed.
    """
    scores = {name: pooled([read_scores(path) for path in of.values()]) for name, of in rows.items()}
    apart = _other_rules(rows, reference) if reference in rows else {}
    compared = _compared(rows, reference, untrained, apart) if reference in rows else {}
    columns = history.headlines([score for of in scores.values() for score in of])
    table = [
        {
            "row": name,
            "seeds": len(rows[name]),
            "scores": [s for s in of if (s["benchmark"], s["metric"]) in columns or "/" in s["metric"]],
            "missing": {s["benchmark"]: s["missing"] for s in of if s["missing"]},
            "compared": [asdict(c) for c in compared.get(name, [])],
        }
        for name, of in scores.items()
    ]
    limit = next((score["limit"] for of in scores.values() for score in of if score["limit"]), None)
    notice = NOTICES.get(weights, "")
    document = {"reference": reference, "notice": notice, "limit": limit, "rows": table}
    (out / "table.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = _markdown(table, columns, compared, reference, apart, notice, limit)
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    if columns:
        (out / "table.png").write_bytes(_plot(table, columns, limit))
    return text


class PooledScore(Score):
    """A score over the seeds of a row: means, with how far the seeds are apart."""

    by_seed: list[float | None]  # the strict scores
    error: float | None  # standard error of the mean of `by_seed`; None of one seed


def pooled(seeds: Sequence[Sequence[Score]]) -> list[PooledScore]:
    """The scores of a row over its seeds: means of `strict`, `official` and `unparsable`, and their spread.

    The interval `low` to `high` is that of one seed's questions, which all seeds share, widened by the seeds' spread
    as in `over_seeds`: few seeds say little of how far others would be apart.

    Raises:
        ValueError: the seeds were not scored on the same metrics and numbers of questions.
    """
    found = []
    for same in zip(*seeds, strict=True):
        first: Score = same[0]
        if len({(s["benchmark"], s["metric"], s["n"]) for s in same}) > 1:
            raise ValueError(f"the seeds' scores differ in {first['benchmark']} {first['metric']}")
        by_seed = [s["strict"] for s in same]
        score: PooledScore = {
            **first,
            "strict": _mean(by_seed),
            "official": _mean([s["official"] for s in same]),
            "unparsable": statistics.fmean(s["unparsable"] for s in same),
            "by_seed": by_seed,
            "error": None,
        }
        known = [value for value in by_seed if value is not None]
        if len(known) == len(by_seed) > 1:
            score["error"] = statistics.stdev(known) / math.sqrt(len(known))
            score["low"] = _widened(score, [s["low"] for s in same], -1)
            score["high"] = _widened(score, [s["high"] for s in same], 1)
        found.append(score)
    return found


def _widened(score: PooledScore, bounds: Sequence[float | None], sign: int) -> float | None:
    """One end of a pooled score's interval: `bounds` are that end of each seed's, `sign` is -1 for low and 1 for high."""
    halves = [
        None if bound is None else abs(bound - strict)
        for bound, strict in zip(bounds, score["by_seed"], strict=True)
        if strict is not None
    ]
    half = _mean(halves)
    if half is None or score["strict"] is None or score["error"] is None:
        return bounds[0]
    if not score["error"]:
        return score["strict"] + sign * half
    from scipy import stats  # a second to import, and every command imports this module

    questions = over_seeds.Part((half / float(stats.norm.ppf(0.975))) ** 2, math.inf)
    spread = over_seeds.Part(score["error"] ** 2, len(bounds) - 1)
    end = score["strict"] + sign * over_seeds.half_width([questions, spread])
    return min(max(end, 0.0), 1.0) if score["unit"] == "share" else end


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _replies(of: Mapping[int, Path], but: Collection[str]) -> dict[str, dict[int, list[gate.ScoredReply]]]:
    """The scored replies of a row by benchmark (and what it scores of a reply) and seed, `but` some benchmarks'."""
    found: dict[str, dict[int, list[gate.ScoredReply]]] = {}
    for seed, path in of.items():
        for benchmark, replies in _scored(path / "predictions.parquet", but).items():
            found.setdefault(benchmark, {})[seed] = replies
    return found


def _means(seeds: over_seeds.Seeds) -> list[gate.ScoredReply]:
    """Each question's mean over the seeds, of those that all seeds have."""
    by_seed = [{reply.question: reply for reply in of} for of in seeds.values()]
    return [
        replace(reply, strict=statistics.fmean(of[question].strict for of in by_seed))
        for question, reply in by_seed[0].items()
        if all(question in of for of in by_seed)
    ]


def _scored(predictions: Path, but: Collection[str]) -> dict[str, list[gate.ScoredReply]]:
    """`gate.load` with every part of a reply's score as a benchmark of its own: "sif answer", "sif boxes"."""
    found: dict[str, list[gate.ScoredReply]] = {}
    for row in tables.read(predictions, [*gate.COLUMNS, "parts"]):
        if row["strict"] is None or row["benchmark"] in but:
            continue
        of = tuple(row[name] for name in gate.COLUMNS[1:-1])
        scores = [(f"{row['benchmark']} {name}", value) for name, value in row["parts"] or ()]
        for name, value in scores or [(row["benchmark"], row["strict"])]:
            found.setdefault(name, []).append(gate.ScoredReply(of, row["image_sha256"], value))
    return found


def _other_rules(rows: Rows, reference: str) -> dict[str, list[str]]:
    """By row the benchmarks that it scored by other rules than the reference: their scores would differ for the rules."""
    found: dict[str, dict[str, set[int]]] = {}
    for name, of in rows.items():
        for path in of.values():
            for benchmark, version in read_rules(path).items():
                found.setdefault(name, {}).setdefault(benchmark, set()).add(version)
    before = found[reference]
    return {
        name: [benchmark for benchmark in of if of[benchmark] != before.get(benchmark, of[benchmark])]
        for name, of in found.items()
    }


def _compared(
    rows: Rows, reference: str, untrained: Collection[str], apart: Mapping[str, Collection[str]]
) -> dict[str, list[gate.Comparison]]:
    """Every other row against the reference, benchmark by benchmark; Holm over the whole table, no margin.

    Questions are paired, each with its mean over the seeds. Where the row or the reference has several seeds, interval
    and p are those of `over_seeds`. Else they are about other questions alone.
    """
    replies = {name: _replies(of, apart[name]) for name, of in rows.items()}
    made: list[tuple[str, gate.Comparison]] = []
    for name, of in replies.items():
        trained = reference not in untrained, name not in untrained
        for benchmark in of if name != reference else ():
            before = replies[reference].get(benchmark)
            comparison = _comparison(benchmark, reference, before, of[benchmark], trained) if before else None
            if comparison is not None:
                made.append((name, comparison))
    judged = gate.judge([comparison for _, comparison in made], level=0.05)
    found: dict[str, list[gate.Comparison]] = {}
    for (name, _), comparison in zip(made, judged, strict=True):
        found.setdefault(name, []).append(comparison)
    return found


def _comparison(
    benchmark: str,
    reference: str,
    before: over_seeds.Seeds,
    after: over_seeds.Seeds,
    trained: tuple[bool, bool],
) -> gate.Comparison | None:
    before, after = over_seeds.shared(before, after)
    found = gate.compare(benchmark, reference, _means(before), _means(after), 0.0)
    tested = over_seeds.compare(before, after, trained) if found else None
    if found is None or tested is None or not tested.by_seeds:
        return found
    return replace(found, low=tested.low, high=tested.high, p=tested.p_fell, test=SEEDS, least=0.0)


def _markdown(
    table: Sequence[Mapping[str, Any]],
    columns: Sequence[tuple[str, str]],
    compared: Mapping[str, Sequence[gate.Comparison]],
    reference: str,
    apart: Mapping[str, Collection[str]],
    notice: str,
    limit: int | None,
) -> str:
    lines = [f"**{notice}**", ""] if notice else []
    lines += [f"**This is {history.quick_look(limit)}.**", ""] if limit else []
    lines += _lines(table, columns)
    if others := [f"{name} ({', '.join(benchmarks)})" for name, benchmarks in apart.items() if benchmarks]:
        lines += [
            "",
            f"Scored by other rules than {reference}, and not compared with it: {', '.join(others)}.",
        ]
    lines += [
        "",
        "Strict score of 100 (MME: points; official in brackets where it differs), unparsable replies in per cent.",
    ]
    if most := max((row["seeds"] for row in table), default=1) - 1:
        lines[-1] += (
            f" Means over {most + 1} seeds, with the standard error over them where a row was trained."
        )
    parts: dict[tuple[str, str], dict[tuple[str, str], None]] = {}  # columns by benchmark and what is scored
    for row in table:
        for score in row["scores"]:
            whole, slash, _ = score["metric"].partition("/")
            if slash:
                of = parts.setdefault((score["benchmark"], whole), {})
                of[score["benchmark"], score["metric"]] = None
    for (benchmark, whole), of in parts.items():
        heads = [metric.partition("/")[2] for _, metric in of]
        lines += ["", f"{benchmark} {whole} by the data set that the question is from:", ""]
        lines += _lines(table, [*of], heads)
    worse = [
        f"| {name} | {c.benchmark} | {100 * c.difference:+.1f} | {100 * c.low:+.1f} to {100 * c.high:+.1f} | {c.adjusted:.2g} |"
        for name, of in compared.items()
        for c in of
    ]
    if worse:
        lines += [
            "",
            f"Mean strict score against {reference}, questions paired; p one-sided (not worse), Holm over the table. "
            f"{_of_what(table, compared, reference)}",
            "",
            "| | benchmark | difference | 95 % interval | p |",
            "|---|---|---:|---|---:|",
            *worse,
        ]
    return "\n".join([*lines, "", _published(table)])


def _of_what(
    table: Sequence[Mapping[str, Any]], compared: Mapping[str, Sequence[gate.Comparison]], reference: str
) -> str:
    """Whether the intervals and p of a table count how far seeds are apart."""
    seeds = {row["row"]: row["seeds"] for row in table}
    alone = [name for name in compared if seeds[name] == seeds[reference] == 1]
    if len(alone) == len(compared):
        return "Intervals and p are over questions alone: how far other seeds would be apart is not known."
    return "Intervals and p are over questions and seeds."


def _published(table: Sequence[Mapping[str, Any]]) -> str:
    """The paper's numbers, where its benchmark was asked; rendered look-alikes are other questions."""
    asked = {s["benchmark"] for row in table for s in row["scores"] if not s["rendered"]}
    if "viscot" not in asked:
        return "The paper's Table 5 is of VisCoT-s, which was not asked here: its numbers are not comparable."
    published = [
        f"{n.metric} {n.value:g} of 1, " + ", ".join(f"{name} {value:g}" for name, value in n.baselines)
        for n in paper_results.NUMBERS
        if n.table == 5
    ]
    return f"The paper's Table 5, {paper_results.QWEN}: full run, {'; '.join(published)}. Its other rows are not known."


def _lines(
    table: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]], heads: Sequence[str] = ()
) -> list[str]:
    """A Markdown table of these columns."""
    lines = [f"| | {' | '.join(heads or map(' '.join, columns))} |", f"|---|{'---:|' * len(columns)}"]
    for row in table:
        found = {(s["benchmark"], s["metric"]): s for s in row["scores"]}
        lines.append(f"| {row['row']} | {' | '.join(_cell(found.get(column)) for column in columns)} |")
    return lines


def _cell(score: PooledScore | None) -> str:
    if score is None or score["strict"] is None:
        return "n/a"
    times = factor(score["unit"])
    official = "n/a" if score["official"] is None else f"{score['official'] * times:.1f}"
    official = "" if score["official"] == score["strict"] else f" ({official})"
    error = f" ± {score['error'] * times:.1f}" if score["error"] is not None else ""
    return f"{score['strict'] * times:.1f}{error}{official}, {unparsable_rate(score):.0f} %"


def _plot(table: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]], limit: int | None) -> bytes:
    """One panel a metric, one line a row: the strict score of 100 with its 95 % interval; sampled replies below it."""
    names = [row["row"] for row in table]
    panels = dict.fromkeys((benchmark.removesuffix(SAMPLED), metric) for benchmark, metric in columns)
    figure = plots.figure(1.6 + 2.3 * len(panels), 1.0 + 0.34 * len(names))
    for axes, (benchmark, metric) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False).flat, panels, strict=True
    ):
        for place, row in enumerate(table):
            found = {(s["benchmark"], s["metric"]): s for s in row["scores"]}
            for suffix, color, offset in (("", plots.BLUE, 0.0), (SAMPLED, plots.ORANGE, 0.28)):
                score = found.get((benchmark + suffix, metric))
                if score is None or score["strict"] is None:
                    continue
                times = factor(score["unit"])
                if score["low"] is not None and score["high"] is not None:
                    ends = score["low"] * times, score["high"] * times
                    axes.hlines(place + offset, *ends, color=color, alpha=0.4, linewidth=3)
                axes.scatter([score["strict"] * times], [place + offset], color=color, s=20, zorder=3)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)
        plots.style(axes, f"{benchmark} {metric}".strip(), "x", ink="black")
    notes = [history.quick_look(limit)] if limit else []
    if len(panels) < len(columns):
        notes.append("blue: greedy replies, orange: sampled ones")
    if notes:
        figure.supxlabel("; ".join(notes), fontsize=8, color=plots.GREY)
    return plots.png(figure, ground="white")
