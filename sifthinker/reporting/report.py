"""The report of a reproduction: one HTML file that needs nothing else, no network and no script.

Everything that comes from data (questions, chains, completions, names) is untrusted text: Jinja escapes all of
it, and the page's own policy forbids scripts and every address but `data:`.
"""

from __future__ import annotations

import html
import io
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from sifthinker.core import chain, drawing, durations, images
from sifthinker.core.images import data_url
from sifthinker.core.records import Box, Region, boxes
from sifthinker.core.scores import ModelScore, of_100, unparsable_rate
from sifthinker.core.tables import read as read_table
from sifthinker.data import publish
from sifthinker.reporting import bought, outcome, pages, paper_results, paper_tables, plots
from sifthinker.reporting.markdown import inline
from sifthinker.reporting.score_gaps import apart
from sifthinker.rewards import REWARDS

COMPLETIONS = 6  # shown, spread over the training
PAGE_EXAMPLES = 3  # on the short page
RENDERED = " (rendered look-alike)"  # behind the name of a benchmark whose questions are rendered scenes
CLIP = 2000  # characters of a completion shown


@dataclass(frozen=True)
class Facts:
    """What a report is made from.

    Attributes:
        stages: manifests in order: stage, label, key, digest, seconds, rows, notes.
        title: name of the reproduction.
        dataset: parts of SIF-50K.
        examples: chains drawn.
        histories: history.jsonl of the training stages, by stage; see `plots.curves`.
        completions: completions.parquet of GRPO: step, id, text and the rewards.
        scores: of the evaluation, with the name of the model.
        before: of the models before it that were evaluated too: `base`, `sft`.
        headlines: the metrics that stand for their benchmarks in the first table (benchmark, metric); none: all.
        shown: shown.parquet of the evaluation: replies drawn on their pictures; an old one has none.
        predictions: predictions.parquet of the evaluation: replies that the two scores read apart are shown.
        config: resolved; holds names of environment variables, never keys.
        versions: of what ran, by name.
        commit: of the checkout, where it is known.
        machine: that wrote the report.
        standins: statements at the top: what was not the real thing, and what that means.
        lineage: PNG of the artifacts behind the final model; see `lineage_picture.picture`.
    """

    stages: Sequence[Mapping[str, Any]]
    title: str = "reproduction"
    dataset: Sequence[Path] = ()
    examples: int = 8
    histories: Mapping[str, Path] = field(default_factory=dict)
    completions: Path | None = None
    scores: Sequence[ModelScore] = ()
    before: Mapping[str, Sequence[ModelScore]] = field(default_factory=dict)
    headlines: Sequence[tuple[str, str]] = ()
    predictions: Path | None = None
    shown: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    machine: str = ""
    standins: Sequence[str] = ()
    lineage: bytes = b""


def write(out: Path, facts: Facts) -> None:
    """Writes the report to the file `out`; equal facts give equal bytes."""
    statistics = publish.statistics(facts.dataset)
    text = pages.render(
        "report.html.jinja",
        facts=facts,
        outcome=_side_by_side(facts),
        replies=_replies(facts),
        made=_made(facts.stages),
        cost=bought.line(facts.stages, bool((facts.config.get("evaluate") or {}).get("judge"))),
        stages=[_stage(manifest) for manifest in facts.stages],
        seconds=durations.in_words(sum(map(bought.seconds, facts.stages))),
        statistics=statistics,
        charts=_charts(statistics),
        examples=[_example(row) for row in _examples(facts)],
        curves=_curves(facts.histories),
        lineage=data_url(facts.lineage, "image/png") if facts.lineage else "",
        completions=_completions(facts),
        benchmarks=_scores([*(s for of in facts.before.values() for s in of), *facts.scores]),
        paper=paper_tables.tables(facts.scores, facts.config),
        box_frame=next((score["box_frame"] for score in facts.scores if score.get("box_frame")), ""),
        max_pixels=next((score["max_pixels"] for score in facts.scores if score.get("max_pixels")), None),
        apart=apart(facts.scores, facts.predictions) if facts.predictions else [],
        config=yaml.safe_dump(
            json.loads(json.dumps(facts.config, default=str)), sort_keys=False, allow_unicode=True
        ),
    )
    out.write_text(text, encoding="utf-8")


def _side_by_side(facts: Facts) -> dict[str, Any]:
    return outcome.side_by_side({**facts.before, "grpo": facts.scores}, facts.headlines)


def _replies(facts: Facts) -> dict[str, list[dict[str, Any]]]:
    if facts.shown is None or not facts.shown.exists():
        return {"right": [], "wrong": []}
    return outcome.replies(facts.shown, facts.examples)


def _made(stages: Iterable[Mapping[str, Any]]) -> str:
    """When the last of the artifacts was made."""
    times = [manifest["made"] + manifest["seconds"] for manifest in stages if "made" in manifest]
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(max(times))) if times else ""


def page(facts: Facts) -> str:
    """The models side by side, scores, curves and some examples as Markdown with the pictures inside, for the UI of the orchestrator.

    Equal facts give equal text.
    """
    parts = [f"> {html.escape(statement)}" for statement in facts.standins]
    if beside := outcome.markdown(_side_by_side(facts)):
        parts.append(beside)
    parts.append(_score_table(facts.scores))
    for curve in _curves(facts.histories):
        if curve["picture"]:
            parts.append(f"**{curve['stage']}**\n\n![curves of {curve['stage']}]({curve['picture']})")
    for row in islice(_examples(facts), PAGE_EXAMPLES):
        example = _opened(row)
        picture = drawing.chain_picture(example.photo, example.relief, example.steps, example.truth)
        parts.append(
            f"**Question.** {inline(row['question'])}\n\n**Answer.** {inline(row['answer'])}\n\n"
            f"![boxes in order, ground truth dashed; depth picture beside]({data_url(drawing.encode(picture, 75))})\n\n"
            f"<pre>{html.escape(row['chain'][:CLIP])}</pre>"  # escaped: what a model writes is never interpreted
        )
    return "\n\n".join(parts) + "\n"


def _score_table(scores: Iterable[ModelScore]) -> str:
    lines = [
        "| benchmark | metric | official | strict | questions | unparsable |",
        "|---|---|---|---|---|---|",
    ]
    for benchmark, metrics in _scores(scores).items():
        unit = " points" if pages.in_points(benchmark) else ""
        for metric in metrics:
            for row in metric["rows"]:
                official, strict = (
                    "-" if row[k] is None else f"{row[k]:.1f}" for k in ("official", "strict")
                )
                why = f" ({html.escape(row['missing'])})" if row["missing"] else ""
                lines.append(
                    f"| {benchmark}{RENDERED if row['rendered'] else ''}{why} | {outcome.literally(metric['metric'])}{unit} | {official} | {strict} | {row['n']} "
                    f"| {row['unparsable_rate']:.0f} % |"
                )
    return "\n".join(lines)


def _stage(manifest: Mapping[str, Any]) -> dict[str, Any]:
    rows = manifest["rows"]
    rejected = dict(sorted(rows["rejected"].items(), key=lambda item: (-item[1], item[0])))
    lost = sum(rejected.values())
    return {
        "label": manifest.get("label") or manifest["stage"],
        "key": manifest["key"],
        "digest": manifest["digest"],
        "seconds": durations.in_words(bought.seconds(manifest)),
        "tries": bought.tries(manifest),
        "in": rows["in"],
        "kept": rows["kept"],
        "rejected": rejected,
        "lost": lost,
        "adds_up": rows["in"] == rows["kept"] + lost,
        "notes": _notes(bought.notes(manifest)),
    }


def _notes(notes: Mapping[str, Any]) -> list[str]:
    """What a stage noted in single values; tables it noted stay in its manifest."""
    return [
        f"{name}: {f'{value:.4g}' if isinstance(value, float) else value}"
        for name, value in notes.items()
        if isinstance(value, (str, int, float)) and value != ""
    ]


def _charts(statistics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Bar lists: a title and (name, count, share of the longest bar in percent) each."""
    titles = {
        "dataset": "Rows by data set",
        "source": "Rows by source",
        "answers": "Kind of answer",
        "chain_steps": "Steps in a chain",
        "boxes_per_step": "Boxes in a step",
        "truth_boxes": "Ground-truth boxes",
        "attempts": "Annotator calls a chain took",
        "model": "Written by",
    }
    return [
        {"title": title, "bars": _bars(statistics[key])} for key, title in titles.items() if key in statistics
    ]


def _bars(counts: Mapping[str, int]) -> list[tuple[str, int, float]]:
    names = sorted(
        counts, key=lambda name: (0, int(name), "") if name.isdecimal() else (1, -counts[name], name)
    )
    return [(name, counts[name], 100 * counts[name] / max(counts.values())) for name in names]


def _examples(facts: Facts) -> Iterator[dict[str, Any]]:
    """Rows spread over the data sets, the same ones every time."""
    if facts.dataset and facts.examples:
        yield from publish.read(facts.dataset, publish.subset(facts.dataset, facts.examples, seed=0))


@dataclass(frozen=True)
class _Opened:
    """A row's pictures and boxes."""

    photo: Image.Image
    relief: Image.Image
    regions: list[list[Region]]
    truth: tuple[Box, ...]

    @property
    def steps(self) -> list[tuple[Box, ...]]:
        return [boxes(region.box for region in step) for step in self.regions]


def _opened(row: Mapping[str, Any]) -> _Opened:
    pictures = []
    for name in ("image", "depth_image"):
        pictures.append(images.rgb(row[name]["bytes"]))
    regions = [[Region(tuple(r["box"]), r["depth"]) for r in step] for step in row["steps"]]
    return _Opened(pictures[0], pictures[1], regions, boxes(row["boxes"]))


def _example(row: Mapping[str, Any]) -> dict[str, Any]:
    """A chain on its picture; its texts one by one where the chain can be read, else the text as it is."""
    opened = _opened(row)
    photo, relief, regions = opened.photo, opened.relief, opened.regions
    steps, truth = opened.steps, opened.truth
    try:
        parsed = chain.parse(row["chain"])
        texts, answer = [step.text for step in parsed.steps], parsed.answer
    except chain.Malformed:
        texts, answer = [], ""
    return {
        "id": row["id"],
        "question": row["question"],
        "reference": row["answer"],
        "answer": answer,
        "raw": row["chain"],
        "pictures": [data_url(drawing.encode(p)) for p in drawing.overview(photo, relief, steps, truth)],
        "steps": [
            {
                "panel": data_url(drawing.encode(panel, quality=80)),
                "colour": drawing.colour(number),
                "regions": regions[number],
                "text": texts[number] if number < len(texts) else "",
            }
            for number, panel in enumerate(drawing.panels(photo, steps, truth, side=400))
        ],
    }


def _curves(histories: Mapping[str, Path]) -> list[dict[str, Any]]:
    """A stage's name and its plots; no picture where nothing was logged."""
    out = []
    for stage, path in histories.items():
        logged = {key for row in plots.read_history(path) for key, value in row.items() if value is not None}
        rewards = [f"rewards/{name}/mean" for name in REWARDS]
        lengths = ["kl", "completions/mean_length", "mean_token_accuracy"]
        keys = [key for key in ["loss", "eval_loss", "reward", *rewards, *lengths] if key in logged]
        png = plots.curves(path, keys) if keys else b""
        width = (
            Image.open(io.BytesIO(png)).width * plots.PAGE_DPI // plots.DPI if png else 0
        )  # one scale for all plots
        out.append({"stage": stage, "picture": data_url(png, "image/png") if png else "", "width": width})
    return out


def _completions(facts: Facts) -> list[dict[str, Any]]:
    """Some completions from the beginning to the end of the training."""
    if facts.completions is None:
        return []
    rows = list(read_table(facts.completions, columns=["step", "id", "text", *REWARDS]))
    count = min(COMPLETIONS, len(rows))
    picked = [rows[round(n * (len(rows) - 1) / max(1, count - 1))] for n in range(count)]
    wanted = {row["id"] for row in picked}
    light = read_table(facts.dataset, columns=["id", "question"])
    questions = {row["id"]: row["question"] for row in light if row["id"] in wanted}
    return [
        {
            "step": row["step"],
            "question": questions.get(row["id"], row["id"]),
            "text": row["text"][:CLIP],
            "clipped": max(0, len(row["text"]) - CLIP),
            "rewards": [(name, row[name]) for name in REWARDS],
        }
        for row in picked
    ]


def _scores(scores: Iterable[ModelScore]) -> dict[str, list[dict[str, Any]]]:
    """By benchmark, its metrics, each with our models' scores and the paper's numbers; of 100 (MME: points)."""
    grouped: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for score in scores:
        shown = {
            "missing": None,
            "rendered": False,
            **of_100(score),
            "unparsable_rate": unparsable_rate(score),
        }
        grouped[score["benchmark"]][score["metric"]].append(shown)
    return {
        benchmark: [
            {
                "metric": metric,
                "rows": rows,
                # Rendered look-alikes are other questions: no number of the paper stands beside them.
                "paper": []
                if any(row["rendered"] for row in rows)
                else [paper_results.of_100(n) for n in paper_results.published(benchmark, metric)],
            }
            for metric, rows in metrics.items()
        ]
        for benchmark, metrics in grouped.items()
    }
