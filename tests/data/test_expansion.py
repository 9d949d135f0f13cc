"""Reverse expansion against the release's own outputs and as properties; and the stage, one row out for each row in."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifthinker import config
from sifthinker.core import boxes
from sifthinker.core.records import WHOLE, Box, Focus, Reject, Sample
from sifthinker.data import expansion
from tests.some_boxes import side, some_boxes, vectors

variant = st.sampled_from(["release", "progressive"])


def lies_in(inner: Box, outer: Box) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def test_expansion_agrees_with_every_release_vector(shared: Path) -> None:
    for case in vectors(shared, "expansion.jsonl"):
        steps = expansion.expand(case["boxes"], case["width"], case["height"], "release")
        assert [[list(box) for box in step] for step in steps] == case["focus_norm_without_distractor"]
        in_pixels = [
            [int(v) for v in boxes.to_pixels(box, case["width"], case["height"])] for box in steps[1]
        ]
        for ours, theirs in zip(in_pixels, case["steps_px"][1], strict=True):
            # Theirs before the rounding to 3 decimals of 0..1, which moves an edge by up to 0.0005 of the side.
            assert ours == pytest.approx(theirs, abs=1 + 0.0005 * max(case["width"], case["height"]))


@settings(deadline=None)
@given(some_boxes, side, side, variant)
def test_expansion_only_grows_up_to_the_whole_image(
    found: list[Box], width: int, height: int, variant: str
) -> None:
    steps = expansion.expand(found, width, height, variant)
    assert steps == expansion.expand(found, width, height, variant)
    assert steps[-1] == [WHOLE]
    assert len(steps[0]) == len(found)
    assert len(steps) <= 5
    for step in steps:
        for x1, y1, x2, y2 in step:
            assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
            assert all(round(v, 3) == v for v in (x1, y1, x2, y2))
    for earlier, later in pairwise(steps):
        assert all(any(lies_in(box, around) for around in later) for box in earlier)
    for step in steps[1:]:
        assert boxes.merge(step) == step


def test_progressive_expansion_shows_something_new_in_every_step() -> None:
    small = expansion.expand([(0.4, 0.4, 0.5, 0.5)], 640, 480, "progressive")
    assert small == [
        [(0.4, 0.4, 0.5, 0.5)],
        [(0.3, 0.3, 0.625, 0.625)],
        [(0.2, 0.2, 0.75, 0.75)],
        [(0.1, 0.1, 0.875, 0.875)],
        [WHOLE],
    ]
    two = expansion.expand([(0.1, 0.1, 0.2, 0.2), (0.7, 0.7, 0.9, 0.9)], 640, 480, "progressive")
    assert [len(step) for step in two] == [2, 2, 1]  # met, they cover 0.81: too near the whole image to show
    assert expansion.expand([(0.01, 0.0, 1.0, 1.0)], 640, 480, "progressive") == [
        [(0.01, 0.0, 1.0, 1.0)],
        [WHOLE],
    ]
    assert expansion.expand([WHOLE], 640, 480, "progressive") == [[WHOLE]]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "at least one box"),
        ([(0.2, 0.2, 0.2, 0.4)], "x1 < x2"),
        ([(0.2, 0.2, 0.4, 1.2)], "<= 1"),
        ([(float("nan"), 0.2, 0.4, 0.6)], "<= x1"),
    ],
)
def test_expansion_refuses_what_is_no_box(found: list[Box], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expansion.expand(found, 100, 100)


def test_an_unknown_expansion_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="known: release, progressive, each"):
        expansion.expand([WHOLE], 100, 100, "authors")


@settings(deadline=None)
@given(some_boxes, side, side, variant, st.text(max_size=8), st.integers(0, 9))
def test_a_distractor_is_valid_and_shares_nothing_with_the_target(
    found: list[Box], width: int, height: int, variant: str, sample_id: str, seed: int
) -> None:
    steps, at = expansion.focus(sample_id, found, width, height, variant, 1.0, seed)
    assert (steps, at) == expansion.focus(sample_id, found, width, height, variant, 1.0, seed)
    assert steps[0] == [WHOLE]
    plain, none = expansion.focus(sample_id, found, width, height, variant, 0.0, seed)
    assert none == -1
    assert all(a != b for a, b in pairwise(plain))
    if at == -1:
        assert steps == plain
        return
    assert (at, steps[2:]) == (1, plain[1:])
    ((x1, y1, x2, y2),) = steps[1]
    assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
    # Progressive chains look at wider regions in between, which may hold the distractor.
    target = steps[2] if variant == "release" else found
    assert not any(boxes.intersects(steps[1][0], box) for box in target)
    assert all(round(v, 3) == v for v in steps[1][0])


def test_half_of_the_small_targets_get_a_distractor_at_any_corner() -> None:
    target = (0.4, 0.4, 0.5, 0.5)
    drawn = [expansion.focus(f"scenes/{i}", [target], 1000, 1000) for i in range(2000)]
    given_one = [steps for steps, at in drawn if at == 1]
    assert 0.46 < len(given_one) / len(drawn) < 0.54
    beside = Counter((steps[1][0][0] < 0.45, steps[1][0][1] < 0.45) for steps in given_one)
    assert len(beside) == 4 and min(beside.values()) > 180  # of about 250 a corner
    widths = [steps[1][0][2] - steps[1][0][0] for steps in given_one]
    assert min(widths) > 0.117 and max(widths) < 0.219  # (0.1 + 2 * 0.02 expanded) * 1.2 * 0.7..1.3


def test_a_wide_target_gets_its_distractor_above_or_below() -> None:
    # Expanded to 0.01, 0.26, 0.99, 0.54 no corner has room; above only the smallest distractors fit.
    target = (0.05, 0.3, 0.95, 0.5)
    above = 0
    for i in range(500):
        steps, at = expansion.focus(str(i), [target], 1000, 1000, distractor_share=1.0)
        assert at == 1
        above += steps[1][0][3] <= 0.26
    assert 0 < above < 100


def test_a_target_that_fills_the_image_gets_no_distractor() -> None:
    assert expansion.focus("a", [(0.05, 0.05, 0.95, 0.95)], 100, 100, distractor_share=1.0)[1] == -1


def test_the_drawn_distractor_is_the_same_in_every_release_of_ours() -> None:
    # Published data must come out again: a change of these numbers is a change of the data set.
    assert expansion.focus("vsr/1", [(0.2, 0.3, 0.4, 0.5)], 640, 480, distractor_share=1.0, seed=7) == (
        [
            [(0.0, 0.0, 1.0, 1.0)],
            [(0.522, 0.164, 0.932, 0.634)],
            [(0.119, 0.192, 0.48, 0.606)],
            [(0.2, 0.3, 0.4, 0.5)],
        ],
        1,
    )


def row(n: int, *boxes: Box) -> Sample:
    return Sample(f"s/d/{n}", "s", "d", "train", "Q?", "A", "a.jpg", f"sha{n}", 640, 480, boxes)


def test_every_sample_becomes_a_focus_from_the_whole_image_to_the_ground_truth() -> None:
    truth = ((0.1, 0.1, 0.2, 0.2), (0.6, 0.6, 0.7, 0.8))
    (focus,) = expansion.expand_samples([row(0, *truth)], config.Expand(distractor_share=0))
    assert isinstance(focus, Focus)
    assert (focus.id, focus.image_sha256, focus.distractor) == ("s/d/0", "sha0", -1)
    assert focus.steps[0] == (WHOLE,)
    assert len(focus.steps[-1]) == 2


def test_order_and_company_do_not_change_a_focus() -> None:
    rows = [row(n, (0.3, 0.3, 0.4 + n / 100, 0.5)) for n in range(40)]
    settings = config.Expand()
    together = list(expansion.expand_samples(rows, settings))
    alone = [next(expansion.expand_samples([sample], settings)) for sample in reversed(rows)]
    assert together == alone[::-1]
    other = list(expansion.expand_samples(rows, config.Expand(seed=1)))
    assert other != together


def test_a_sample_with_an_impossible_box_is_a_reject_with_the_reason() -> None:
    kept, reject = expansion.expand_samples([row(0, WHOLE), row(1, (0.5, 0.5, 0.4, 0.6))], config.Expand())
    assert isinstance(kept, Focus)
    assert isinstance(reject, Reject)
    assert (reject.id, reject.reason) == ("s/d/1", "box-invalid")
    assert "0.4" in reject.detail


def test_each_looks_at_one_box_after_another_and_then_at_all_of_them() -> None:
    truth = ((0.1, 0.1, 0.2, 0.2), (0.6, 0.6, 0.7, 0.8), (0.3, 0.2, 0.4, 0.5))
    of_several, of_one = expansion.expand_samples(
        [row(0, *truth), row(1, truth[0])], config.Expand(variant="each", distractor_share=0)
    )
    assert isinstance(of_several, Focus) and isinstance(of_one, Focus)
    assert of_several.steps == ((WHOLE,), *((box,) for box in truth), truth)
    assert of_one.steps == ((WHOLE,), (truth[0],))
