"""The frames in which families write boxes: sizes as the processors make them, and what is converted."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker import config
from sifthinker.core import boxes
from sifthinker.evaluation.benchmarks import box_frames, ovdeval, refcoco, replies
from sifthinker.evaluation.benchmarks.question import Question
from sifthinker.models.families import FAMILIES

LARGE = 12_845_056
FENCED = '```json\n[\n\t{"bbox_2d": [161, 119, 322, 238], "label": "red mug"}\n]\n```'


def asked(width=640, height=480):
    return Question("x", "g", "t", "i", json.dumps([0.25, 0.25, 0.5, 0.5]), width=width, height=height)


def model(family="qwen2_5_vl", max_pixels=LARGE):
    return config.Model(family=family, max_pixels=max_pixels)


def test_a_familys_own_form_is_read_in_both_scores_where_the_configuration_says_so():
    frame = box_frames.frame("family", model(), 640, 480)
    answer = replies.read(FENCED, False, frame=frame)
    assert answer.frame == "resized" and answer.boxes == ((0.25, 0.25, 0.5, 0.5),)
    assert refcoco.strict(asked(), answer).score == refcoco.official(asked(), answer).score == 1


def test_without_that_the_boxes_are_told_to_be_pixels_and_not_guessed():
    answer = replies.read(FENCED, False)
    assert refcoco.strict(asked(), answer).unparsable == "pixel-box"
    assert refcoco.official(asked(), answer).unparsable == "no-box"


def test_detections_of_a_familys_own_form_are_read_too():
    truth = json.dumps({"objects": [["red mug", [160, 120, 160, 120], 0]], "labels": "listed"})
    question = Question("color/1", "color", "t", "i", truth, (("", "red mug"),), width=640, height=480)
    answer = replies.read(FENCED, False, frame=box_frames.frame("family", model(), 640, 480))
    for rule in (ovdeval.official, ovdeval.strict):
        assert rule(question, answer).score == 1
    assert ovdeval.strict(question, replies.read(FENCED, False)).unparsable == "pixel-box"


@pytest.mark.parametrize(
    ("width", "height", "family", "max_pixels", "expected"),
    [
        (640, 480, "qwen2_5_vl", LARGE, (644, 476)),
        (640, 480, "qwen2_5_vl", 262_144, (588, 420)),
        (640, 480, "qwen3_vl", LARGE, (640, 480)),
        (640, 480, "qwen3_vl", 262_144, (576, 416)),
        (28, 28, "qwen2_5_vl", LARGE, (56, 56)),  # enlarged to the least
        (1000, 10, "qwen2_vl", LARGE, (1008, 28)),
    ],
)
def test_a_picture_is_resized_as_the_processors_do(width, height, family, max_pixels, expected):
    assert box_frames.resized(width, height, model(family, max_pixels)) == expected


@given(
    st.integers(30, 3000), st.integers(30, 3000), st.sampled_from((28, 32)), st.sampled_from((262_144, LARGE))
)
def test_the_sizes_are_those_of_transformers(width, height, side, max_pixels):
    smart = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl").smart_resize
    if max(width, height) / min(width, height) > 200:
        return
    family = "qwen2_5_vl" if side == 28 else "qwen3_vl"
    h, w = smart(height, width, factor=side, min_pixels=3136, max_pixels=max_pixels)
    assert box_frames.resized(width, height, model(family, max_pixels)) == (w, h)


INSIDE = st.tuples(*[st.integers(0, 90)] * 2, *[st.integers(1, 9)] * 2).map(
    lambda v: (v[0] / 100, v[1] / 100, (v[0] + v[2]) / 100, (v[1] + v[3]) / 100)
)


@given(
    INSIDE, st.sampled_from(["resized", "thousand", "padded"]), st.integers(200, 900), st.integers(200, 900)
)
def test_what_is_written_in_a_frame_is_read_from_it(box, name, width, height):
    frame = box_frames.frame(name, model(), width, height)
    if name == "padded":
        written = boxes.to_padded(box, width, height)
    else:
        written = boxes.to_pixels(box, *(frame.resized if name == "resized" else (1000, 1000)))
    answer = replies.read(f'{{"bbox_2d": {[round(v, 4) for v in written]}}}', False, frame=frame)
    assert answer.boxes[0] == pytest.approx(box, abs=6e-4)


@pytest.mark.parametrize("name", ["image", "resized", "thousand", "padded"])
def test_a_chain_in_our_frame_is_left_alone(name):
    chain = '<think><area>[{"bbox_2d": [0.1, 0.2, 0.3, 0.4], "depth": 0.1}]</area><text>x</text></think><answer>a</answer>'
    frame = box_frames.frame(name, model(), 640, 480)
    assert replies.read(chain, True, frame=frame).boxes == ((0.1, 0.2, 0.3, 0.4),)


def test_every_family_has_a_frame_and_an_unknown_size_has_none():
    frames = {
        "resized": {"qwen2_5_vl"},
        "thousand": {"qwen2_vl", "qwen3_vl", "qwen3_5", "internvl"},
        "padded": {"llava", "bunny_llama3"},
        "image": {"gemma3", "smolvlm", "idefics3"},  # none is documented
    }
    for name, families in frames.items():
        assert {
            family for family in FAMILIES if box_frames.named("family", model(family)) == name
        } == families
    assert set().union(*frames.values()) == set(FAMILIES)
    assert box_frames.frame("family", model(), 0, 0) is None
    assert box_frames.frame("image", model(), 640, 480) is None
