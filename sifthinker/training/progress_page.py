"""A page about a training under way: its curves, and sampled completions with their boxes and their rewards.

It is made from the files in the training's work folder by whoever watches; the ranks neither draw nor wait. The
pictures and the page (Markdown) of a step stay in `work/watch/step-<n>/`.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sifthinker.core import chain, drawing, images, records, tables
from sifthinker.reporting import plots
from sifthinker.reporting.markdown import inline
from sifthinker.rewards import REWARDS, columns, shown
from sifthinker.system.json_lines import whole_lines
from sifthinker.training.samplers import GAP

COMPLETIONS = 4  # on a page: the best and the worst of a group, of two samples
RECENT = 8_000_000  # bytes at the end of the file of completions: more than one step writes
LONGEST = 3000  # characters of a completion that are shown


def curves() -> tuple[str, ...]:
    """The logged metrics that are drawn, in order."""
    rewards = [f"rewards/{name}/mean" for name in REWARDS]
    means = [column.mean for column in columns() if column.mean]
    held_out = ("held_out/reward", "held_out/answer")
    more = ("kl", GAP, "completion_length", "tokens_per_second")
    return ("loss", "eval_loss", "reward", *held_out, *rewards, *means, *more)


def page(work: Path, dataset: Sequence[Path] = ()) -> str | None:
    """The page of the last step in `work`, also written to `work/watch`; None before the first step.

    Args:
        work: the program's work folder.
        dataset: the SIF Parquet files that GRPO trains on, for the pictures of its completions; none: no completions.
    """
    steps: dict[int, dict[str, Any]] = {}
    for row in whole_lines(work / "progress.jsonl"):
        steps.setdefault(row["step"], {}).update(row)  # a step of before a crash is logged again
    if not steps:
        return None
    last = steps[max(steps)]
    folder = work / "watch" / f"step-{last['step']:06}"
    folder.mkdir(parents=True, exist_ok=True)
    history = folder / "history.jsonl"
    history.write_text("".join(json.dumps(steps[step]) + "\n" for step in sorted(steps)), encoding="utf-8")
    drawn = plots.curves(history, curves())
    (folder / "curves.png").write_bytes(drawn)
    parts = [f"### Step {last['step']} of {last['total']}", _picture(drawn, "png", "curves")]
    chosen = choose(whole_lines(work / "completions.jsonl", RECENT)) if dataset else []
    subjects = _subjects(dataset, {entry["id"] for entry in chosen})
    for number, entry in enumerate(chosen):
        drawn = _drawn(entry, subjects[entry["id"]])
        (folder / f"completion-{number}.jpeg").write_bytes(drawn)
        parts.append(_completion(entry, subjects[entry["id"]], _picture(drawn, "jpeg", "boxes in order")))
    text = "\n\n".join(parts)
    (folder / "page.md").write_text(text, encoding="utf-8")
    return text


def choose(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the last step: the completions of each of two samples that earned most and least."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in (entry for entry in entries if entry["step"] == entries[-1]["step"]):
        groups.setdefault(entry["id"], []).append(entry)
    chosen = []
    for group in list(groups.values())[: COMPLETIONS // 2]:
        group.sort(key=_earned, reverse=True)
        chosen += [group[0], group[-1]] if len(group) > 1 else group
    return chosen


def _earned(entry: dict[str, Any]) -> float:
    return sum(entry[name] or 0.0 for name in REWARDS)


def _subjects(dataset: Sequence[Path], ids: set[str]) -> dict[str, dict[str, Any]]:
    columns = ["id", "question", "answer", "boxes", "image", "depth_image"]
    rows = tables.read(dataset, columns) if ids else iter(())
    return {row["id"]: row for row in rows if row["id"] in ids}


def _drawn(entry: dict[str, Any], subject: dict[str, Any]) -> bytes:
    """JPEG of photograph and depth picture with the boxes of each area; ground truth dashed."""
    steps = [[region.box for region in area] for area in chain.areas(entry["text"]) or []]
    pictures = [images.rgb(subject[name]["bytes"]) for name in ("image", "depth_image")]
    truth = records.boxes(subject["boxes"])
    return drawing.encode(drawing.chain_picture(pictures[0], pictures[1], steps, truth, title=entry["id"]))


def _completion(entry: dict[str, Any], subject: dict[str, Any], picture: str) -> str:
    numbers = " | ".join("-" if entry[name] is None else f"{entry[name]:.3g}" for name in shown())
    text = entry["text"][:LONGEST] + ("…" if len(entry["text"]) > LONGEST else "")
    return "\n".join(
        [
            f"**Question.** {inline(subject['question'])}",
            "",
            f"**Answer.** {inline(subject['answer'])}",
            "",
            picture,
            "",
            "| " + " | ".join(shown()) + " |",
            "|---" * len(shown()) + "|",
            f"| {numbers} |",
            "",
            # Escaped: what a model writes is shown, never interpreted.
            f"<pre>{html.escape(text)}</pre>",
        ]
    )


def _picture(data: bytes, kind: str, title: str) -> str:
    return f"![{title}]({images.data_url(data, f'image/{kind}')})"
