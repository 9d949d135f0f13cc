"""Where chains look, in cases that a change of any number would move: edges, thin targets, and a digest of many."""

import hashlib
import json
import math

import pytest

from sifthinker import config
from sifthinker.core.records import WHOLE, Box, Reject, Sample
from sifthinker.data.expansion import expand, expand_samples, focus

SMALL = (0.4, 0.4, 0.5, 0.5)
TARGETS: list[list[Box]] = [
    [SMALL],
    [(0.0, 0.0, 0.1, 0.2)],  # in each corner
    [(0.9, 0.0, 1.0, 0.2)],
    [(0.0, 0.8, 0.1, 1.0)],
    [(0.85, 0.85, 0.98, 0.98)],
    [(0.4, 0.0, 0.45, 1.0)],  # tall and thin: as high as the image
    [(0.45, 0.1, 0.55, 0.9)],
    [(0.0, 0.4, 1.0, 0.45)],  # wide and flat
    [(0.1, 0.45, 0.9, 0.55)],
    [(0.3, 0.3, 0.7, 0.6)],  # there is hardly room
    [(0.05, 0.3, 0.95, 0.5)],
    [(0.3, 0.05, 0.5, 0.95)],
    [(0.6, 0.2, 0.97, 0.75)],
    [(0.02, 0.3, 0.4, 0.9)],
    [(0.1234, 0.4321, 0.1239, 0.4329)],  # smaller than a pixel
    [(0.1, 0.1, 0.2, 0.2), (0.7, 0.7, 0.9, 0.9)],
    [(0.1, 0.1, 0.2, 0.2), (0.21, 0.1, 0.3, 0.2), (0.5, 0.6, 0.8, 0.9)],
    [(0.05, 0.05, 0.95, 0.95)],
    [WHOLE],
]


def test_the_focus_of_many_targets_is_the_same_in_every_release_of_ours() -> None:
    """Published data must come out again: another digest is another data set."""
    found = [
        focus(f"set/{number}", target, width, height, variant, 1.0, seed)
        for target in TARGETS
        for number in range(12)
        for width, height in ((640, 480), (333, 1000))
        for variant in ("release", "progressive")
        for seed in (0, 1)
    ]
    assert sum(at == 1 for _, at in found) > len(found) / 2
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()
    assert digest == "78763e3b105360a07c0bbdc829a21b855b80dc79d581b562088526ab27680f1d"


def test_what_is_not_said_is_the_release_half_of_the_samples_and_seed_0() -> None:
    for number in range(20):
        usual = focus(str(number), [SMALL], 640, 480)
        assert usual == focus(str(number), [SMALL], 640, 480, "release", 0.5, 0)


def test_a_focus_is_the_expansion_backwards() -> None:
    for variant in ("release", "progressive"):
        steps, at = focus("a", [SMALL], 640, 480, variant, 0.0)
        assert (steps[::-1], at) == (expand([SMALL], 640, 480, variant), -1)
    assert focus("a", [WHOLE], 640, 480, "progressive", 1.0) == ([[WHOLE]], -1)
    assert focus("a", [WHOLE], 640, 480, "release", 1.0) == ([[WHOLE]], -1)  # no step twice in a row


@pytest.mark.parametrize(
    ("target", "width", "height", "grown"),
    [
        # The room is 1 - x1 - x2 = 0.6 and 1 - y1 - y2 = 0.7; a fifth of the larger one, in pixels, is the step.
        ([(0.1, 0.1, 0.3, 0.2)], 1000, 1000, (0.0, 0.0, 0.44, 0.34)),  # 140 px
        ([(0.1, 0.1, 0.3, 0.2)], 2000, 1000, (0.0, 0.0, 0.42, 0.44)),  # 240 px of 2,000 and of 1,000
        ([(0.1, 0.1, 0.3, 0.2)], 1000, 2000, (0.0, 0.0, 0.58, 0.34)),  # 280 px
        ([(0.4, 0.45, 0.6, 0.55)], 1000, 1000, (0.399, 0.449, 0.601, 0.551)),  # no room: one pixel
        ([(0.7, 0.8, 0.9, 0.95)], 500, 500, (0.698, 0.798, 0.902, 0.952)),  # less than none: one pixel
        # Of two boxes the largest x1 and the smallest x2 count: 1 - 0.3 - 0.2 = 0.5; grown they meet.
        ([(0.1, 0.1, 0.2, 0.2), (0.3, 0.3, 0.5, 0.4)], 1000, 1000, (0.0, 0.0, 0.6, 0.5)),
    ],
)
def test_the_release_grows_by_a_fifth_of_the_room(
    target: list[Box], width: int, height: int, grown: Box
) -> None:
    assert expand(target, width, height)[1] == [pytest.approx(grown, abs=0.0011)]


def test_a_rejected_sample_says_where_and_the_next_ones_are_expanded() -> None:
    def row(n: int, box: Box) -> Sample:
        return Sample(f"s/d/{n}", "s", "d", "train", "Q?", "A", "a.jpg", f"sha{n}", 640, 480, (box,))

    rows = [row(0, (0.5, 0.5, 0.4, 0.6)), *(row(n, SMALL) for n in range(1, 30))]
    reject, *kept = expand_samples(rows, config.Expand(distractor_share=1.0, seed=3))
    assert isinstance(reject, Reject)
    assert (reject.stage, reject.reason, reject.id, reject.source, reject.field) == (
        "expand",
        "box-invalid",
        "s/d/0",
        "s",
        "boxes",
    )
    for sample, found in zip(rows[1:], kept, strict=True):
        steps, at = focus(sample.id, sample.boxes, 640, 480, "release", 1.0, 3)
        assert not isinstance(found, Reject)
        assert (found.steps, found.distractor, at) == (tuple(map(tuple, steps)), 1, 1)


@pytest.mark.parametrize(
    ("low", "high", "rounded"),
    [
        (0.1231, 0.1234, (0.123, 0.124)),  # to 3 decimals both are 0.123: outwards instead
        (0.1228, 0.1231, (0.122, 0.124)),
        (0.0001, 0.0004, (0.0, 0.001)),
        (0.9996, 0.9999, (0.999, 1.0)),
        (math.nextafter(1, 0), 1.0, (0.999, 1.0)),
        (0.1234, 0.1236, (0.123, 0.124)),  # these differ with 3 decimals
    ],
)
def test_a_side_that_rounding_would_leave_without_length_is_rounded_outwards(
    low: float, high: float, rounded: tuple[float, float]
) -> None:
    wide, tall = (0.2, low, 0.4, high), (low, 0.2, high, 0.4)
    assert expand([wide], 10_000, 10_000, "progressive")[0] == [(0.2, rounded[0], 0.4, rounded[1])]
    assert expand([tall], 10_000, 10_000, "progressive")[0] == [(rounded[0], 0.2, rounded[1], 0.4)]


@pytest.mark.parametrize(
    ("low", "high", "width", "truth"),
    [
        (0.214, 0.786, 10, (0.2, 0.7)),  # truncated to whole pixels
        (0.21, 0.29, 10, (0.2, 0.3)),  # both in pixel 2: outwards
        (0.2, 0.3, 10, (0.2, 0.3)),
    ],
)
def test_the_release_truncates_to_pixels_but_leaves_no_box_without_one(
    low: float, high: float, width: int, truth: tuple[float, float]
) -> None:
    assert expand([(low, 0.2, high, 0.4)], width, 10)[0] == [(truth[0], 0.2, truth[1], 0.4)]
    assert expand([(0.2, low, 0.4, high)], 10, width)[0] == [(0.2, truth[0], 0.4, truth[1])]
