"""The kinds of failure: what is one, when it has drifted, and how often an unchanged model is told to have."""

from __future__ import annotations

import numpy as np
import pytest

from sifthinker.evaluation import drift, failures, gate
from sifthinker.evaluation.gate import ScoredReply

BOX = [[0.1, 0.1, 0.2, 0.2]]


@pytest.mark.parametrize(
    ("unparsable", "finish", "boxes", "kinds"),
    [
        ("", "stop", BOX, set()),
        ("", "stop", [], {"no box"}),  # read, and yet no chain with a box
        ("", "length", None, {"cut off", "no box"}),  # read, though it was cut off behind its answer
        ("none-named", "stop", BOX, {"unparsable"}),
        ("cut-off", "length", BOX, {"unparsable", "cut off"}),
        ("no-picture", "stop", [], {"unparsable", "refused", "no box"}),
        ("refused", "refused", [], {"unparsable", "refused", "no box"}),  # by the provider: there is no reply
    ],
)
def test_the_kinds_of_a_reply(unparsable: str, finish: str, boxes: object, kinds: set[str]) -> None:
    row = {"unparsable": unparsable, "finish_reason": finish, "boxes": boxes}
    assert failures.kinds(row) == kinds


def paired(before: list[set[str]], after: list[set[str]], per_image: int = 1) -> gate.Paired:
    def replies(of: list[set[str]]) -> list[ScoredReply]:
        return [
            ScoredReply((str(i),), f"image {i // per_image}", 1.0, frozenset(kinds))
            for i, kinds in enumerate(of)
        ]

    made = gate.pair(replies(before), replies(after))
    assert made
    return made


def judged(made: gate.Paired, threshold: float = 0.05, margin: float = 0.01) -> list[drift.Drift]:
    found = drift.drifts("vstar", "baseline", made)
    return drift.judge(found, 0.001, [margin] * len(found), threshold)


def test_a_kind_is_tested_by_the_replies_that_changed() -> None:
    """Three fail newly and one no longer: of four that changed, three or more in one direction has p = 5/16."""
    before = [{"no box"}, *[set()] * 9]
    after = [set(), {"no box"}, {"no box"}, {"no box"}, *[set()] * 6]
    [one] = drift.drifts("vstar", "baseline", paired(before, after))
    assert (one.kind, one.before, one.after) == ("no box", 0.1, pytest.approx(0.3))
    assert one.p == pytest.approx(5 / 16)
    # By images of two questions: the changes are +1 -1 (cancel), +2 and 0: only one image changed.
    [by_image] = drift.drifts("vstar", "baseline", paired(before, after, per_image=2))
    assert by_image.p == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("failing", "of", "drifts"),
    [
        (6, 100, True),  # six points more, above the threshold of five
        (5, 100, False),  # p = 1/32
        (20, 1000, True),  # two points, and p = 1e-6
        (10, 1000, False),  # exactly the margin of a point
        (40, 4000, False),
    ],
)
def test_a_rise_drifts_when_it_is_large_or_significant_beyond_the_margin(
    failing: int, of: int, drifts: bool
) -> None:
    made = paired([set()] * of, [{"cut off"}] * failing + [set()] * (of - failing))
    assert [one.drifted for one in judged(made)] == [drifts]


def test_failures_that_become_fewer_are_no_drift() -> None:
    made = paired([{"refused"}] * 50 + [set()] * 50, [set()] * 100)
    assert [(one.kind, one.drifted, one.p) for one in judged(made)] == [("refused", False, 1.0)]


def test_one_sentence_a_benchmark_names_the_first_kind_and_the_others_in_brackets() -> None:
    silent = {"unparsable", "refused", "no box"}
    made = judged(paired([set()] * 100, [silent] * 12 + [set()] * 88))
    assert drift.sentences(made) == [
        "12 % of the replies to vstar are unparsable, 0 % in the baseline (refused 0 % to 12 %, no box 0 % to 12 %)"
    ]
    other = [drift.Drift("pope", "last good night", "no box", 1000, 0.004, 0.031, 1e-6, 1e-5, True)]
    assert drift.sentences([*made, *other])[0] == (
        "3.1 % of the replies to pope have no box, 0.4 % in the last good night"
    )


def test_of_two_references_the_one_from_which_it_rose_more_is_told() -> None:
    last = drift.Drift("pope", "last good night", "refused", 100, 0.1, 0.2, 0.0, 0.0, True)
    base = drift.Drift("pope", "baseline", "refused", 100, 0.0, 0.2, 0.0, 0.0, True)
    assert drift.sentences([last, base]) == ["20 % of the replies to pope are refusals, 0 % in the baseline"]


def test_a_model_that_did_not_change_is_warned_of_no_more_often_than_the_level() -> None:
    """600 nights of sampled replies that fail by chance, three kinds at once, at a level of 5 %."""
    generator = np.random.default_rng(11)
    nights, n, rates = 600, 400, (0.02, 0.05, 0.3)
    found = 0
    for _ in range(nights):
        made = []
        for kind, share in zip(("refused", "cut off", "no box"), rates, strict=True):
            before, after = generator.random((2, n)) < share
            p = gate.mcnemar(int((after & ~before).sum()), int((before & ~after).sum()))
            made.append(drift.Drift("b", "last", kind, n, float(before.mean()), float(after.mean()), p))
        found += any(one.drifted for one in drift.judge(made, 0.05, [0.01] * 3, 1.0))
    assert found / nights <= 0.05
    assert found  # and the test can find something
