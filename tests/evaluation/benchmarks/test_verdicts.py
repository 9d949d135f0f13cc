"""Every scorer, reply by reply: `official` against what the official code said, `strict` against a person's reading.

`verdicts/<benchmark>.json` holds at least 200 replies a benchmark: terse, wordy, right and wrong, empty, contradictory,
in other case, with number words and articles, two answers or none. "official" names the code that was run on them and
its commit; the reading was given by hand to every form of reply, before ours was looked at. OVDEval's scorer has no
verdict on a single reply: test_ovdeval.py holds its suppression and average precision to the official code's. `sif` is
ours and has no official code: test_sif.py has its scores by hand.
"""

import json
from pathlib import Path

import pytest

from sifthinker.evaluation.benchmarks import BENCHMARKS, replies
from sifthinker.evaluation.benchmarks.question import Answer, Question

VERDICTS = [
    file for file in sorted(Path(__file__).with_name("verdicts").glob("*.json")) if file.stem != "ovdeval"
]


def question(benchmark, group, texts, reference):
    letters = [""] * len(texts) if benchmark == "sat" else "ABCDEFGH"
    options = tuple(zip(letters, texts, strict=False))
    if benchmark == "refcoco":
        reference = json.dumps([value / 500 for value in json.loads(reference)])
    return Question("1", group, "", "x", reference, options, width=500, height=500)


def answer(benchmark, reply):
    if benchmark == "viscot":  # the judge's replies
        return Answer("door", judged=(reply, reply))
    return replies.read(reply, think=False) if benchmark == "refcoco" else Answer(reply)


@pytest.mark.parametrize("rule", ["official", "strict"])
@pytest.mark.parametrize("file", VERDICTS, ids=lambda file: file.stem)
def test_each_reply_gets_the_verdict_of_the_official_code_and_of_a_person(file, rule):
    held = json.loads(file.read_text(encoding="utf-8"))
    name, different = file.stem, []
    for case in held["cases"]:
        group, texts, reference, reply, official, strict = case
        asked, said = question(name, group, texts, reference), answer(name, reply)
        verdict = getattr(BENCHMARKS[name], rule)(asked, said)
        wanted = official if rule == "official" else strict
        found = -1.0 if name == "viscot" and verdict.unparsable else verdict.score
        if found != pytest.approx(wanted, abs=1e-3):
            different.append((reply, texts, reference, wanted, found, verdict.reading, verdict.unparsable))
    assert not different, "\n".join(map(str, different))


def test_every_benchmark_has_two_hundred_replies():
    counts = {file.stem: len(json.loads(file.read_text(encoding="utf-8"))["cases"]) for file in VERDICTS}
    assert set(counts) == set(BENCHMARKS) - {"ovdeval", "sif"}
    assert min(counts.values()) >= 200
