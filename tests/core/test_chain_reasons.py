"""Why a text is no chain: the reason names the pair and the character, and what is just allowed has none."""

import re

import pytest

from sifthinker.core import chain
from sifthinker.core.chain import Malformed
from sifthinker.core.records import WHOLE, Region
from tests.core.test_chain import AREA, GOOD, PAIR, with_area, with_item


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"Sure! {GOOD}", "text before <think>: 'Sure! ' (at character 0)"),
        (with_item(depth="1.2"), "area 1: depth holds 1.2, which is not between 0 and 1 (at character 14)"),
        (with_item(depth="true"), "area 1: depth holds true, which is not a number (at character 14)"),
        (
            with_item("[0.3, 0.2, 0.1, 0.4]"),
            "area 1: bbox_2d [0.3, 0.2, 0.1, 0.4] needs x2 > x1 and y2 > y1 (at character 14)",
        ),
        (with_area("[0.1"), "area 1 is not JSON: Expecting ',' delimiter (at character 18)"),
        (
            GOOD.replace("</think>", f"{PAIR.replace('A dog.', '')}</think>"),
            "text 2 is empty (at character 160)",
        ),
        (
            GOOD.replace("<text>A dog.</text>", ""),
            "expected <text> of pair 1, found the end of think (at character 72)",
        ),
        (GOOD[: GOOD.index("<answer>")], "there is no <answer> (at character 100)"),
        (GOOD.replace("</answer>", ""), "<answer> is not closed by </answer> (at character 100)"),
    ],
)
def test_a_malformed_chain_says_what_and_where(text: str, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        chain.parse(text)
    assert caught.value.reason == str(caught.value) == reason


def test_a_reason_stays_short_whatever_the_text() -> None:
    for text in (
        "x" * 10**6 + GOOD,
        with_area(f'["{"y" * 90_000}"]'),
        GOOD.replace("A dog.", f"<{'z' * 10**6}>"),
    ):
        with pytest.raises(Malformed) as caught:
            chain.parse(text)
        assert len(caught.value.reason) < 200


TWO = GOOD.replace(PAIR, PAIR * 2)
SECOND = TWO.rindex(AREA)  # where the second area begins


def in_second(area: str) -> str:
    return TWO[:SECOND] + area + TWO[SECOND + len(AREA) :]


def item(bbox: str = "[0.1, 0.2, 0.3, 0.4]", depth: str = "0.5", more: str = "") -> str:
    return f'[{{"bbox_2d": {bbox}, "depth": {depth}{more}}}]'


@pytest.mark.parametrize(
    ("text", "reason", "position"),
    [
        ("", "there is no <think>", 0),
        ("brown", "there is no <think>", 5),
        (GOOD.replace("</think>", ""), "<think> is not closed by </think>", 0),
        (f" \n{GOOD}\n x", "text after </answer>: 'x'", len(GOOD) + 4),
        (
            GOOD.replace("</think>", "</think>  so"),
            "text between </think> and <answer>: 'so\\n'",
            GOOD.index("</think>") + 10,
        ),
        (
            GOOD.replace("brown", "so <b>brown</b>"),
            "the answer holds the tag <b>",
            GOOD.index("brown") + 3,
        ),
        (GOOD.replace("brown", " "), "the answer is empty", GOOD.index("brown") - 1),
        (
            TWO.replace("</text>\n</think>", "</text> ok</think>"),
            "text before </think>: 'ok'",
            TWO.index("</think>"),
        ),
        (
            TWO.replace("</text>\n<area>", "</text> and <area>"),
            "text before <area> of pair 2: 'and '",
            SECOND - len("<area>"),
        ),
        (
            in_second(f"{AREA}</area> then <text>"),
            "text before <text> of pair 2: 'then '",
            SECOND + len(AREA) + len("</area> "),
        ),
        (
            TWO[: SECOND - len("<area>")] + "<text>" + TWO[SECOND:],
            "expected <area> of pair 2, found <text>",
            SECOND - len("<area>"),
        ),
        (
            f"<think>{'x' * 60}</think><answer>x</answer>",
            "expected <area> of pair 1, found the end of think",
            67,
        ),
        (in_second("[]"), "area 2: the list is empty", SECOND),
        (in_second("{}"), "area 2: not a JSON list", SECOND),
        (in_second("[1, 2"), "area 2 is not JSON: Expecting ',' delimiter", SECOND + 5),
        (in_second("[NaN]"), "area 2: NaN is not a number", SECOND),
        (
            in_second("[1.5]"),
            "area 2: 1.5 is not an object with bbox_2d and depth",
            SECOND,
        ),
        (in_second(f"[{'9' * 31}]"), "area 2: a number has 31 characters", SECOND),
        (in_second(item(more=', "depth": 0.1')), "area 2: a key is repeated", SECOND),
        (
            in_second('[{"depth": 0.5}]'),
            'area 2: bbox_2d is missing in {"depth": 0.5}',
            SECOND,
        ),
        (
            in_second('[{"bbox_2d": [0.1]}]'),
            'area 2: depth is missing in {"bbox_2d": [0.1]}',
            SECOND,
        ),
        (
            in_second(item("[0, 0, 1, 1]", "1", ', "x": 1')),
            'area 2: keys other than bbox_2d and depth in {"bbox_2d": [0.0, 0.0, 1.0, 1.0], "de...',
            SECOND,
        ),
        (in_second(item("[0.1, 1]")), "area 2: bbox_2d is [0.1, 1.0], not a list of 4 numbers", SECOND),
        (in_second(item("0.1")), "area 2: bbox_2d is 0.1, not a list of 4 numbers", SECOND),
        (
            in_second(item('["a", 0, 1, 1]')),
            'area 2: bbox_2d holds "a", which is not a number',
            SECOND,
        ),
        (
            in_second(item("[0.1, 0.2, 0.3, 1.001]")),
            "area 2: bbox_2d holds 1.001, which is not between 0 and 1",
            SECOND,
        ),
        (in_second(item(depth="-0.001")), "area 2: depth holds -0.001, which is not between 0 and 1", SECOND),
        (
            in_second(item(depth="0.1234")),
            "area 2: depth holds 0.1234, which has more than 3 decimals",
            SECOND,
        ),
        (
            in_second(item("[0.1, 0.4, 0.3, 0.4]")),
            "area 2: bbox_2d [0.1, 0.4, 0.3, 0.4] needs x2 > x1 and y2 > y1",
            SECOND,
        ),
        (in_second(AREA + " " * (100_001 - len(AREA))), "area 2: 100001 characters are too long", SECOND),
        (in_second("[" * 21 + "]" * 21), "area 2: brackets are nested too deeply", SECOND),
        (
            in_second("[" * 20 + "]" * 20),
            "area 2: [[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]] is not an object with bbox_2d and depth",
            SECOND,
        ),
    ],
)
def test_every_reason_names_the_pair_and_the_character(text: str, reason: str, position: int) -> None:
    with pytest.raises(Malformed) as caught:
        chain.parse(text)
    assert caught.value.reason == f"{reason} (at character {position})"
    assert caught.value.position == position


@pytest.mark.parametrize(
    "text",
    [
        in_second(AREA + " " * (100_000 - len(AREA))),  # as long as an area may be
        in_second(f"[{', '.join([AREA[1:-1]] * 40)}]"),  # many brackets, but not one inside the other
        in_second(item(depth="0." + "5".ljust(28, "0"))),  # a number of 30 characters
        in_second(item(depth="1e-3")),
        in_second(item("[0.999, 0, 1, 0.001]", "1")),
        in_second(item("[0, 0.999, 0.001, 1.0]", "0")),
    ],
)
def test_what_is_just_allowed_is_a_chain(text: str) -> None:
    assert len(chain.parse(text).steps) == 2


def test_a_release_region_may_say_true_and_more_keys_and_a_strict_one_may_not() -> None:
    text = in_second(item("[false, 0, true, 1]", "true", ', "x": 1, "depth": true'))
    assert chain.parse(text, "release").steps[1].regions == (Region(WHOLE, 1.0),)
    assert chain.parse(in_second("[]"), "release").steps[1].regions == ()
    assert not chain.is_valid(text)


def test_a_text_of_forty_characters_is_shown_in_full_and_a_longer_one_is_cut() -> None:
    for said, shown in (("x" * 40, "x" * 40), ("x" * 41, "x" * 37 + "...")):
        with pytest.raises(
            Malformed, match=rf"^text before <think>: '{re.escape(shown)}' \(at character 0\)$"
        ):
            chain.parse(said + GOOD)
