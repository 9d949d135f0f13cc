"""For programs that know nothing of chains and depth (`sif serve --chain`, `--reply`).

A plain question is put as the policy was trained to be asked, and a chain is given as other scorers read replies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from sifthinker.config import Config
from sifthinker.core import depth_maps, images, prompts
from sifthinker.core.records import DepthMap
from sifthinker.evaluation.benchmarks import replies
from sifthinker.models.protocol import BadRequest

Messages = list[dict[str, Any]]
Form = Literal["whole", "answer", "boxes"]
_FORM = "send one user message with one picture and the question"


def messages(asked: Messages, depth: Callable[[bytes], DepthMap] | None, config: Config) -> Messages:
    """The conversation that a plain question with one picture stands for: `prompts.policy_messages`.

    Args:
        asked: the conversation of a request: messages of `{"type": "text", "text"}` and `{"type": "image", "url"}`.
        depth: estimates the depth map of an image file; None only without `model.depth_input`.
        config: says whether the policy sees the depth picture and is asked for the chain, and how large a picture
            may be.

    Raises:
        BadRequest: it is no such question.
        BadImage: the picture is none, or no depth map can be made of it.
    """
    if len(asked) != 1 or asked[0]["role"] != "user":
        raise BadRequest(f"messages: this server asks single questions about pictures; {_FORM}", "messages")
    urls = [part["url"] for part in asked[0]["content"] if part["type"] == "image"]
    question = "\n".join(part["text"] for part in asked[0]["content"] if part["type"] == "text").strip()
    if len(urls) != 1 or not question:
        found = f"found {len(urls)} pictures and {'a' if question else 'no'} question"
        raise BadRequest(f"messages: {found}; {_FORM}. The server adds the depth picture", "messages")
    photo = images.photo(images.from_data_url(urls[0]), config.ingest.max_pixels).data
    shown = [photo]
    if config.model.depth_input:
        assert depth is not None
        shown.append(depth_maps.picture(depth_maps.decode_bytes(depth(photo).png)))
    remaining = iter(images.data_url(data, images.media_type(data)) for data in shown)
    made = prompts.policy_messages(question, config.model.depth_input, config.evaluate.think)
    return [
        {
            **message,
            "content": [
                {"type": "image", "url": next(remaining)} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in made
    ]


def text(reply: str, form: Form, think: bool) -> str:
    """What of a reply is sent: all of it, its answer block, or the boxes of its last area.

    What a reply does not have is an empty text: nothing is guessed.

    Args:
        reply: whole.
        form: "boxes" gives one list of four numbers a line, in 0..1 of the picture: [x1, y1, x2, y2].
        think: whether the chain was asked for; a plain reply is its own answer.
    """
    if form == "whole":
        return reply
    read = replies.read(reply, think)
    return read.text if form == "answer" else "\n".join(str(list(box)) for box in read.boxes)
