"""The grammar of chains: the release's verdicts, case tables, round trips and hostile input."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifthinker.core import chain
from sifthinker.core.chain import Chain, Step
from sifthinker.core.prompts import ANNOTATOR_SYSTEM
from sifthinker.core.records import WHOLE, Region

AREA = '[{"bbox_2d": [0.1, 0.2, 0.3, 0.4], "depth": 0.5}]'
PAIR = f"<area>{AREA}</area>\n<text>A dog.</text>\n"
GOOD = f"<think>\n{PAIR}</think>\n<answer>\nbrown\n</answer>"
REGION = Region((0.1, 0.2, 0.3, 0.4), 0.5)


def with_area(area: str) -> str:
    return GOOD.replace(AREA, area)


def with_item(bbox: str = "[0.1, 0.2, 0.3, 0.4]", depth: str = "0.5", more: str = "") -> str:
    return with_area(f'[{{"bbox_2d": {bbox}, "depth": {depth}{more}}}]')


def test_release_variant_agrees_with_every_release_verdict(shared: Path) -> None:
    for line in (shared / "vectors" / "chain_format.jsonl").read_text().splitlines():
        case = json.loads(line)
        assert chain.is_valid(case["text"], "release") == case["valid"], case["text"]
        if case["valid"]:
            read = chain.parse(case["text"], "release")
            assert [[list(r.box) for r in step.regions] for step in read.steps] == case["boxes"]
            assert [[r.depth for r in step.regions] for step in read.steps] == case["depths"]


def test_strict_accepts_a_part_of_what_the_release_accepts_and_renders_its_layout(shared: Path) -> None:
    rendered = 0
    for line in (shared / "vectors" / "chain_format.jsonl").read_text().splitlines():
        case = json.loads(line)
        if chain.is_valid(case["text"]):
            assert case["valid"]
            text = chain.render(chain.parse(case["text"]))
            rendered += text == case["text"].replace("<area>\n", "<area>").replace(
                '"depth": 1}', '"depth": 1.0}'
            )
            assert chain.parse(text) == chain.parse(case["text"])
    assert rendered > 20


def test_a_chain_is_read_step_by_step() -> None:
    assert chain.parse(GOOD) == Chain((Step((REGION,), "A dog."),), "brown")


# text, valid strictly, valid for the release
CASES = {
    "canonical": (GOOD, True, True),
    "two pairs": (GOOD.replace(PAIR, PAIR * 2), True, True),
    "no white space between": (GOOD.replace("\n", ""), True, True),
    "more white space around": (f"\n  {GOOD}\n\n", True, True),
    "less-than signs in a text": (GOOD.replace("A dog.", "1 < 2, a <- b, x<y"), True, True),
    "integers": (with_item("[0, 0, 1, 1]", "1"), True, True),
    "scientific notation by value": (with_item(depth="1e-3"), True, True),
    "negative zero": (with_item("[-0.0, 0.2, 0.3, 0.4]"), True, True),
    "trailing zeros": (with_item(depth="0.50000"), True, True),
    # Reward hacking that the release allows (PAPER.md R5.1):
    "text before": (f"Sure! {GOOD}", False, True),
    "text after": (f"{GOOD} Trust me.", False, True),
    "text between think and answer": (GOOD.replace("</think>", "</think> so"), False, True),
    "a second answer": (f"{GOOD}<answer>red</answer>", False, True),
    "an answer inside the answer": (GOOD.replace("brown", "<answer>brown"), False, True),
    "a second think": (f"{GOOD[:-1]}>{GOOD}", False, True),
    "fences": (f"```\n{GOOD}\n```", False, True),
    "an empty area": (with_area("[]"), False, True),
    "true as depth": (with_item(depth="true"), False, True),
    "a further key": (with_item(more=', "label": "dog"'), False, True),
    "a repeated key": (with_item(more=', "depth": 0.1'), False, True),
    # Neither:
    "nothing": ("", False, False),
    "an answer alone": ("<answer>brown</answer>", False, False),
    "answer first": (f"<answer>brown</answer><think>{PAIR}</think>", False, True),
    "no pair": ("<think></think><answer>brown</answer>", False, False),
    "no answer": (GOOD[: GOOD.index("<answer>")], False, False),
    "an empty answer": (GOOD.replace("brown", " "), False, False),
    "an empty text": (GOOD.replace("A dog.", " \n"), False, False),
    "a tag in a text": (GOOD.replace("A dog.", "A <b>dog</b>."), False, False),
    "capital tags": (GOOD.replace("think>", "THINK>"), False, False),
    "text before the first area": (GOOD.replace("<think>", "<think>Hm"), False, False),
    "text after the last text": (GOOD.replace("</think>", "ok</think>"), False, False),
    "text between area and text": (GOOD.replace("<text>", "and <text>"), False, False),
    "area without text": (GOOD.replace("<text>A dog.</text>", ""), False, False),
    "text without area": (GOOD.replace(f"<area>{AREA}</area>", ""), False, False),
    "an unclosed text": (GOOD.replace("</text>", ""), False, False),
    "an object instead of a list": (with_area(AREA[1:-1]), False, False),
    "not JSON": (with_area("[0.1"), False, False),
    "an empty area text": (with_area(""), False, False),
    "a Python list": (with_area(AREA.replace('"', "'")), False, False),
    "three numbers": (with_item("[0.1, 0.2, 0.3]"), False, False),
    "a string as number": (with_item('["0.1", 0.2, 0.3, 0.4]'), False, False),
    "null depth": (with_item(depth="null"), False, False),
    "a box of no width": (with_item("[0.3, 0.2, 0.3, 0.4]"), False, False),
    "a box the wrong way": (with_item("[0.3, 0.2, 0.1, 0.4]"), False, False),
    "a box outside": (with_item("[0.1, 0.2, 0.3, 1.4]"), False, False),
    "a depth outside": (with_item(depth="1.2"), False, False),
    "four decimals": (with_item(depth="0.1234"), False, False),
    "small with many decimals": (with_item(depth="0.00001"), False, False),
    "NaN": (with_item(depth="NaN"), False, False),
    "infinity": (with_item(depth="-Infinity"), False, False),
    "infinity by overflow": (with_item(depth="1e999"), False, False),
    "a missing depth": (with_area('[{"bbox_2d": [0.1, 0.2, 0.3, 0.4]}]'), False, False),
    "a number as item": (with_area("[1]"), False, False),
    "a huge integer": (with_item(depth="9" * 5000), False, False),
    "deep nesting": (with_area("[" * 50_000 + "]" * 50_000), False, False),
    "a deep item": (with_area("[" * 15 + "1" + "]" * 15), False, False),
    "a very long area": (with_area(f"[{', '.join([AREA[1:-1]] * 3000)}]"), False, False),
}


@pytest.mark.parametrize(("text", "strict", "release"), CASES.values(), ids=CASES.keys())
def test_verdict(text: str, strict: bool, release: bool) -> None:
    assert chain.is_valid(text) == strict
    assert chain.is_valid(text, "release") == release


thousandth = st.integers(0, 1000).map(lambda n: n / 1000)


@st.composite
def some_region(draw: st.DrawFn) -> Region:
    x1, y1 = draw(st.integers(0, 999)), draw(st.integers(0, 999))
    x2, y2 = draw(st.integers(x1 + 1, 1000)), draw(st.integers(y1 + 1, 1000))
    return Region((x1 / 1000, y1 / 1000, x2 / 1000, y2 / 1000), draw(thousandth))


plain_text = st.text(min_size=1, max_size=60).map(str.strip).filter(lambda t: t and "<" not in t)
some_chain = st.builds(
    Chain,
    st.lists(
        st.builds(Step, st.lists(some_region(), min_size=1, max_size=3).map(tuple), plain_text),
        min_size=1,
        max_size=5,
    ).map(tuple),
    plain_text,
)


@settings(deadline=None)  # a busy machine is no failure
@given(some_chain)
def test_render_then_parse_is_the_identity(made: Chain) -> None:
    text = chain.render(made)
    assert chain.parse(text) == made
    assert chain.parse(text, "release") == made
    assert chain.render(chain.parse(text)) == text
    assert chain.answer(text) == made.answer
    assert chain.areas(text) == [list(step.regions) for step in made.steps]


@settings(deadline=None)
@given(st.data(), some_chain)
def test_a_mutated_chain_never_crashes_and_passes_only_as_a_chain(data: st.DataObject, made: Chain) -> None:
    text = chain.render(made)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 12)))
    pieces = [
        "",
        "<",
        ">",
        "<text>",
        "</area>",
        "<answer>",
        "</think>",
        "[",
        "]",
        "{",
        ",",
        "0.5",
        "-",
        "NaN",
        " ",
    ]
    mutated = text[:start] + data.draw(st.sampled_from(pieces) | st.text(max_size=4)) + text[end:]
    if chain.is_valid(mutated):
        # What passes is a chain in full: written anew it says the same, and the release would pass it too.
        assert chain.parse(chain.render(chain.parse(mutated))) == chain.parse(mutated)
        assert chain.is_valid(mutated, "release")
        for tag in ("<think>", "</think>", "<answer>", "</answer>"):
            assert mutated.count(tag) == 1
    chain.answer(mutated)
    chain.areas(mutated)


FRAGMENTS = [
    "<think>",
    "<area>",
    AREA,
    "</area>",
    "<text>",
    "a dog",
    "</text>",
    "</think>",
    "<answer>",
    "</answer>",
    " ",
]
SAID = r"(?=[^<]*[^<\s])(?:(?!</?\w+>)[^\x00])+"
GRAMMAR = re.compile(
    rf"\s*<think>\s*(?:<area>\s*{re.escape(AREA)}\s*</area>\s*<text>{SAID}</text>\s*)+</think>\s*"
    rf"<answer>{SAID}</answer>\s*"
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2), st.sampled_from(FRAGMENTS)), max_size=3),
    st.integers(1, 2),
)
def test_edited_fragments_pass_exactly_as_the_written_grammar_says(
    edits: list[tuple[int, int, str]], pairs: int
) -> None:
    pair = ["<area>", AREA, "</area>", "<text>", "a dog", "</text>"]
    parts = ["<think>", *pair * pairs, "</think>", "<answer>", "a dog", "</answer>"]
    for place, removed, added in edits:
        parts[place : place + removed] = [added]
    text = "".join(parts)
    assert chain.is_valid(text) == bool(GRAMMAR.fullmatch(text))


@settings(deadline=None)
@given(st.text())
def test_random_text_is_never_a_chain(text: str) -> None:
    assert not chain.is_valid(text)
    assert not chain.is_valid(text, "release")
    assert chain.answer(text) is None
    assert chain.areas(text) is None


MEGABYTE = 10**6


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit",
    [
        "<",
        "</",
        "<a",
        "<a>",
        "<think>",
        "<think><area>",
        "<area>",
        "<answer>",
        " ",
        "<text>x</text>",
        "a",
        "[",
        "<think>\n",
    ],
)
def test_a_megabyte_of_anything_is_judged_at_once(unit: str) -> None:
    # Quadratic work would take hours here.
    body = unit * (MEGABYTE // len(unit))
    for text in (body, GOOD.replace("A dog.", body), GOOD.replace("brown", body), with_area(body)):
        for variant in ("strict", "release"):
            chain.is_valid(text, variant)
        chain.answer(text)
        chain.areas(text)


@pytest.mark.timeout(20)
def test_a_long_valid_chain_is_accepted() -> None:
    assert len(chain.parse(GOOD.replace(PAIR, PAIR * 10_000)).steps) == 10_000
    assert chain.is_valid(GOOD.replace("A dog.", "word " * 200_000))


@pytest.mark.parametrize(
    "made",
    [
        Chain((), "brown"),  # no look
        Chain((Step((), "A dog."),), "brown"),  # nothing looked at
        Chain((Step((REGION,), ""),), "brown"),
        Chain((Step((REGION,), "A </text> dog."),), "brown"),
        Chain((Step((REGION,), "A dog. "),), "brown"),  # white space that reading takes away
        Chain((Step((REGION,), "A dog."),), "<answer>"),
        Chain(
            (Step((Region((0.1, 0.2, 0.1001, 0.4), 0.1),), "A dog."),), "brown"
        ),  # no width with 3 decimals
    ],
)
def test_what_no_text_can_say_is_not_rendered(made: Chain) -> None:
    with pytest.raises(ValueError):
        chain.render(made)


def test_numbers_are_written_with_three_decimals() -> None:
    made = Chain((Step((Region((0.1, 0.2, 0.1 + 0.2, 0.4), 0.5),), "A dog."),), "brown")
    assert chain.render(made) == GOOD


def test_the_layout_is_the_release_s() -> None:
    made = Chain((Step((Region(WHOLE, 0.5),), "All."), Step((REGION,), "A dog.")), "brown")
    assert chain.render(made) == (
        '<think>\n<area>[{"bbox_2d": [0.0, 0.0, 1.0, 1.0], "depth": 0.5}]</area>\n<text>All.</text>\n'
        f"<area>{AREA}</area>\n<text>A dog.</text>\n</think>\n<answer>\nbrown\n</answer>"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (GOOD, "brown"),
        ("I think <answer> brown </answer>, yes.", "brown"),  # a broken chain may still answer
        ("brown", None),
        ("<answer></answer>", None),
        ("<answer>brown", None),
        ("</answer>brown<answer>", None),
        ("<answer>brown</answer><answer>red</answer>", None),  # which one?
        ("<answer><answer>brown</answer></answer>", None),
    ],
)
def test_the_answer_of_a_reply(text: str, found: str | None) -> None:
    assert chain.answer(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (GOOD, [[REGION]]),
        (f"It is at <area>{AREA}</area>.", [[REGION]]),  # whatever surrounds it
        ("<area>[]</area>", [[]]),
        (
            '<area>[{"bbox_2d": [0.1234, 0, 1, 1], "depth": 0.98765}]</area>',  # any decimals
            [[Region((0.1234, 0.0, 1.0, 1.0), 0.98765)]],
        ),
        ("no area", None),
        (f"<area>{AREA}", None),
        (f"<area><area>{AREA}</area></area>", None),
        (f"<area>{AREA}</area><area>[1]</area>", None),  # one bad area is not passed over
        (with_item(depth="true"), None),
        (with_item(more=', "depth": 0.1'), None),
    ],
)
def test_the_areas_of_a_reply(text: str, found: list[list[Region]] | None) -> None:
    assert chain.areas(text) == found


def test_the_example_that_the_annotator_is_shown_is_a_chain() -> None:
    example = ANNOTATOR_SYSTEM.split("```")[1]
    assert chain.render(chain.parse(example)) == example.strip()


def test_an_unknown_variant_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="known: strict, release"):
        chain.parse(GOOD, "loose")


def test_minus_zero_is_read_as_zero() -> None:
    [step] = chain.parse(with_item("[-0.0, -0, 0.3, 0.4]", "-0.0")).steps
    assert repr(step.regions) == repr((Region((0.0, 0.0, 0.3, 0.4), 0.0),))
