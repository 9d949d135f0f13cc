"""A plain question is put as in training, and a chain is given as other scorers read it."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.config import Config
from sifthinker.core import depth_maps, images, prompts
from sifthinker.core.records import DepthMap
from sifthinker.evaluation import as_trained
from sifthinker.models.protocol import BadRequest
from tests.odd_pictures import oriented, saved

CHAIN = (
    '<think>\n<area>[{"bbox_2d": [0.0, 0.0, 1.0, 1.0], "depth": 0.5}]</area>\n<text>A room.</text>\n'
    '<area>[{"bbox_2d": [0.25, 0.5, 0.75, 1.0], "depth": 0.3}]</area>\n<text>A cup.</text>\n</think>\n'
    "<answer>\nB\n</answer>"
)


def asked(*parts: Any, role: str = "user") -> list[dict[str, Any]]:
    kinds = [
        {"type": "image", "url": part} if part.startswith("data:") else {"type": "text", "text": part}
        for part in parts
    ]
    return [{"role": role, "content": kinds}]


PICTURE = images.data_url(saved(Image.linear_gradient("L").convert("RGB")), "image/png")


def flat(data: bytes) -> DepthMap:
    with_size = images.rgb(data)
    relief = np.linspace(0, 1, with_size.width * with_size.height, dtype=np.float32)
    png = depth_maps.encode(relief.reshape(with_size.height, with_size.width))
    return DepthMap("digest", with_size.width, with_size.height, png)


def config(**model: Any) -> Config:
    return Config.model_validate({"scenes": {}, "model": model})


def made(messages: list[dict[str, Any]], **model: Any) -> list[dict[str, Any]]:
    return as_trained.messages(messages, flat, config(**model))


def test_a_question_with_one_picture_becomes_the_message_that_evaluation_sends() -> None:
    (message,) = made(asked("What is it?", PICTURE))
    (trained,) = prompts.policy_messages("What is it?")
    texts = [part.get("text") for part in message["content"]]
    assert texts == [part.get("text") for part in trained["content"]]
    photo, relief = (part["url"] for part in message["content"] if part["type"] == "image")
    assert photo == PICTURE, "a picture that is as it should be is sent as it is"
    assert images.rgb(images.from_data_url(relief)).size == images.rgb(images.from_data_url(photo)).size


def test_a_picture_on_its_side_is_turned_before_its_depth_is_estimated() -> None:
    sideways, upright = oriented("JPEG", 6)
    seen: list[bytes] = []

    def depth(data: bytes) -> DepthMap:
        seen.append(data)
        return flat(data)

    as_trained.messages(asked(images.data_url(sideways, "image/jpeg"), "What?"), depth, config())
    assert np.array_equal(np.asarray(images.rgb(seen[0])), upright)


def test_a_policy_without_depth_is_shown_none() -> None:
    (message,) = made(asked(PICTURE, "What is it?"), depth_input=False)
    assert sum(part["type"] == "image" for part in message["content"]) == 1


@pytest.mark.parametrize(
    "messages",
    [
        asked("What?"),
        asked(PICTURE),
        asked(PICTURE, PICTURE, "What?"),
        asked("Be short.", role="system") + asked(PICTURE, "What?"),
        asked(PICTURE, "What?", role="assistant"),
    ],
)
def test_what_is_no_question_with_one_picture_is_refused(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(BadRequest, match="one user message with one picture"):
        made(messages)


def test_a_reply_is_sent_whole_or_the_part_that_a_scorer_is_to_read() -> None:
    assert as_trained.text(CHAIN, "whole", True) == CHAIN
    assert as_trained.text(CHAIN, "answer", True) == "B"
    assert as_trained.text(CHAIN, "boxes", True) == "[0.25, 0.5, 0.75, 1.0]"


def test_what_a_reply_does_not_have_is_not_guessed() -> None:
    assert as_trained.text("The cup is at B", "answer", True) == ""
    assert as_trained.text("The cup is at B", "boxes", True) == ""
    assert as_trained.text("B", "answer", False) == "B", "no chain was asked for"
