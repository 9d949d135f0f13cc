"""Replies in all their forms, and what a person reads in them.

`readings.jsonl` has a reply a line: terse and wordy ones, chains and plain replies, refusals, boxes in several frames, in
English and Chinese, in the manner of many models. They were written one by one with their readings, not made from
templates, and the code was run on them afterwards. `reading` is what a reply says to its question and options, null where
it says nothing that counts; `problem` is why.

`strict` agrees on all of them. The published rules do not: `official_disagreements.json` lists, by rule, the lines of all
replies that it takes for something else than a person does, by what it does and why. It "misses" an answer that a person
reads, "credits" an answer where a person reads none, or "credits another" one.
"""

import json
import re
from pathlib import Path

import pytest

from sifthinker import config
from sifthinker.evaluation.benchmarks import (
    BENCHMARKS,
    box_frames,
    refcoco,
    replies,
    spatialbench,
    vqav2,
)
from sifthinker.evaluation.benchmarks.question import Question, Verdict

HERE = Path(__file__).parent
ROWS = [json.loads(line) for line in (HERE / "readings.jsonl").read_text(encoding="utf-8").splitlines()]
# By kind, the benchmarks that read such replies, with the group where their rule depends on it.
OFFICIAL = {
    "yes-no": {"pope": "random", "mme": "existence"},
    "choice": {"vstar": "x", "cvbench": "ADE20K", "mmbench": "x", "seed": "x", "spatialbench": "size"},
    "choice without letters": {"sat": "other"},
    "number": {"spatialbench": "counting"},
    "text": {"vqav2": "other"},
    "boxes": {"refcoco": "refcoco_val"},
}


def answer(row):
    frame = None
    if "frame" in row:
        model = config.Model(family=row["family"], max_pixels=row["max_pixels"])
        frame = box_frames.frame(row["frame"], model, *row["size"])
    return replies.read(row["reply"], row.get("think", False), row.get("finish_reason", "stop"), frame)


def question(row, reference="", group="x"):
    options = tuple(map(tuple, row.get("options", ())))
    width, height = row.get("size", (0, 0))
    return Question("1", group, row["question"], "x", reference, options, width=width, height=height)


def strictly(row) -> Verdict:
    asked, said, kind = question(row), answer(row), row["kind"]
    if kind == "yes-no":
        return replies.judged_yes_no(asked, said)
    if kind == "choice":
        lettered = row["options"][0][0]
        return replies.judged_choice(asked, said) if lettered else BENCHMARKS["sat"].strict(asked, said)
    if kind == "number":
        return spatialbench.strict(question(row, "1", "counting"), said)
    if kind == "text":
        return vqav2.strict(question(row, "[]"), said)
    return refcoco.strict(question(row, "[0, 0, 1, 1]"), said)


def references(row):
    """The right answers that a question of this kind can have; a rule is tried on each."""
    kind, reading = row["kind"], row["reading"]
    if kind == "yes-no":
        return ["yes", "no"]
    if kind == "choice":
        return [letter or text for letter, text in row["options"]]
    if kind == "number":
        return sorted({str(n) for n in range(1, 6)} | ({reading} if reading and reading != "0" else set()))
    if kind == "text":
        return [json.dumps([reading or "red"] * 10)]
    return [json.dumps(reading or [0.25, 0.25, 0.5, 0.5])]


def right(row, reference) -> bool:
    """Whether a person takes the reply for this answer."""
    reading = row["reading"]
    if reading is None:
        return False
    return row["kind"] in ("text", "boxes") or bool(reading == reference)


def disagreements():
    """The lines of the replies that an official rule scores other than a person, by benchmark and what it does."""
    found = {}
    for line, row in enumerate(ROWS, 1):
        kind = row["kind"]
        if kind == "choice" and not row["options"][0][0]:
            kind = "choice without letters"
        said = answer(row)
        for benchmark, group in OFFICIAL[kind].items():
            rule = BENCHMARKS[benchmark].official
            marks = [
                (rule(question(row, reference, group), said).score == 1, right(row, reference))
                for reference in references(row)
            ]
            if all(official == person for official, person in marks):
                continue
            credited = any(official and not person for official, person in marks)
            does = "credits" if row["reading"] is None else "credits another" if credited else "misses"
            found.setdefault(benchmark, {}).setdefault(does, []).append(line)
    return found


def test_there_are_replies_of_every_kind():
    kinds = [row["kind"] for row in ROWS]
    assert len(ROWS) >= 600
    assert all(kinds.count(kind) >= least for kind, least in (
        ("yes-no", 150), ("choice", 250), ("number", 120), ("text", 40), ("boxes", 30)
    ))  # fmt: skip
    assert sum(row["reading"] is None for row in ROWS) >= 150
    assert sum(row.get("problem") in ("refused", "no-picture") for row in ROWS) >= 80
    assert sum(bool(re.search("[\u4e00-\u9fff]", row["reply"])) for row in ROWS) >= 50
    assert sum(row.get("think", False) for row in ROWS) >= 30
    assert len({(row["kind"], row["question"], row["reply"], str(row)) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("kind", ["yes-no", "choice", "number", "text", "boxes"])
def test_strict_reads_what_a_person_reads(kind):
    different = []
    for line, row in enumerate(ROWS, 1):
        if row["kind"] != kind:
            continue
        verdict = strictly(row)
        found = None if verdict.unparsable else verdict.reading
        if kind == "boxes" and found is not None:
            found = [round(value, 4) for value in json.loads(found)]
        if (found, verdict.unparsable) != (row["reading"], row.get("problem", "")):
            different.append(
                (line, row["reply"], row["reading"], row.get("problem", ""), found, verdict.unparsable)
            )
    assert not different, "\n".join(map(str, different))


def test_every_disagreement_of_a_published_rule_is_listed_with_its_reason():
    held = json.loads((HERE / "official_disagreements.json").read_text(encoding="utf-8"))
    assert {
        name: {does: of["lines"] for does, of in rules.items()} for name, rules in held.items()
    } == disagreements()
    assert all(len(of["why"]) > 20 for rules in held.values() for of in rules.values())
