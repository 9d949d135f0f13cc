"""One image and one question through depth, prompt and model, as a person watches it.

The model sees what it saw in training: `prompts.policy_messages`, the picture as `images` makes it of the
file and, with `model.depth_input`, the Spectral_r picture of its depth. Nothing is remembered in a ledger: who asks wants an answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from sifthinker.config import Config
from sifthinker.core import chain, depth_maps, drawing, images, prompts
from sifthinker.core.errors import UserError
from sifthinker.core.records import Region
from sifthinker.evaluation.running_server import client_of

REPLY = "reply.txt"


@dataclass(frozen=True, slots=True)
class Server:
    """Where a model is asked."""

    url: str  # of the OpenAI-compatible server, with /v1
    model: str  # as the server knows it
    extra: Mapping[str, Any] = field(default_factory=dict)  # what a request says besides


@dataclass(frozen=True, slots=True)
class Answered:
    """A reply, what it looked at, and what it says."""

    reply: str
    areas: tuple[
        tuple[Region, ...], ...
    ]  # with the depths that the model wrote; () where they cannot be read
    measured: tuple[tuple[float, ...], ...]  # the depth map's mean in the same boxes; () without a map
    answer: str | None  # of the answer block, None where there is not exactly one
    problem: str  # why the reply is no strict chain, "" where it is one
    files: tuple[Path, ...]


def ask(
    image: Path,
    question: str,
    server: Server,
    depth_map: bytes | None,
    config: Config,
    out: Path,
    say: Callable[[str], None],
) -> Answered:
    """Asks, hands the reply to `say` as it comes, and writes pictures of where the chain looked into `out`.

    Args:
        image: an image file.
        question: as a person asks it.
        server: of the model.
        depth_map: 16-bit PNG of the image's depth; None only without `model.depth_input`.
        config: its `model` and `evaluate` sections.
        out: folder, made where it is not there. What an earlier question left in it is replaced.
        say: gets pieces of the reply.

    Raises:
        UserError: no image, or the server does not answer.
    """
    photo = picture(image, config)
    values = depth_maps.decode_bytes(depth_map) if depth_map else None
    relief = depth_maps.picture(values) if values is not None else None
    assert relief or not config.model.depth_input
    shown = [photo, relief] if config.model.depth_input and relief else [photo]
    messages = prompts.with_images(
        prompts.policy_messages(question, config.model.depth_input, config.evaluate.think),
        [images.data_url(data, images.media_type(data)) for data in shown],
    )
    reply = ""
    for piece in stream(server, messages, config):
        say(piece)
        reply += piece
    areas = tuple(tuple(area) for area in chain.areas(reply) or ())
    measured = (
        tuple(tuple(round(depth_maps.box_depth(values, r.box), 3) for r in area) for area in areas)
        if values is not None
        else ()
    )
    try:
        chain.parse(reply)
        problem = ""
    except chain.Malformed as error:
        problem = error.reason
    out.mkdir(parents=True, exist_ok=True)
    _clear(out)
    answered = Answered(reply, areas, measured, chain.answer(reply), problem, ())
    return replace(answered, files=tuple(_write(out, photo, relief, question, answered)))


def picture(image: Path, config: Config) -> bytes:
    """An image file as training would have it: upright, 8-bit RGB (see `images`).

    Raises:
        UserError: it is not there, no image, or too large.
    """
    try:
        return images.read(image.parent, image.name, config.ingest.max_pixels).data
    except images.BadImage as error:
        raise UserError(f"{image}: {error}") from error


def stream(server: Server, messages: list[dict[str, Any]], config: Config) -> Iterator[str]:
    """The pieces of a reply as the server sends them; the whole one where it does not stream.

    Raises:
        UserError: it does not answer, or not with a reply.
    """
    settings = config.evaluate
    body = {
        "model": server.model,
        "messages": messages,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        "seed": settings.seed,
        "stream": True,
        **server.extra,
    }
    url = f"{server.url.rstrip('/')}/chat/completions"
    try:
        with client_of(server.url) as client, client.stream("POST", url, json=body) as response:
            if response.is_error:
                said = response.read().decode("utf-8", "replace")
                raise UserError(f"{url}: {response.status_code}: {said[:500]}")
            if "text/event-stream" not in response.headers.get("content-type", ""):
                yield _text(json.loads(response.read())["choices"][0]["message"])
                return
            for line in response.iter_lines():
                if line.startswith("data:") and (data := line[5:].strip()) != "[DONE]":
                    event = json.loads(data)
                    if "error" in event:
                        raise UserError(f"{url}: {event['error']}")
                    for choice in event.get("choices", ()):
                        yield _text(choice.get("delta") or {})
    except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"{url}: no reply: {type(error).__name__}: {error}") from error


def _text(message: Mapping[str, Any]) -> str:
    return str(message.get("content") or "")


def _clear(out: Path) -> None:
    """Removes what an earlier question has left in its folder: its chain may have had more steps than this one."""
    if (out / REPLY).is_file():
        for file in (out / "depth.png", out / "chain.jpg", *out.glob("step-[0-9]*.jpg")):
            file.unlink(missing_ok=True)


def _write(
    out: Path,
    photo: bytes,
    relief: bytes | None,
    question: str,
    answered: Answered,
) -> Iterator[Path]:
    """The reply, the depth picture, and every area on the photograph with its depths."""
    steps = [[region.box for region in area] for area in answered.areas]
    image = images.rgb(photo)
    made: dict[str, bytes] = {REPLY: answered.reply.encode()}
    if relief:
        made["depth.png"] = relief
        made["chain.jpg"] = drawing.encode(drawing.figure(image, images.rgb(relief), steps, (), question))
    for number, panel in enumerate(drawing.panels(image, steps, ())):
        texts = [f"said {region.depth:.3f}" for region in answered.areas[number]]
        if answered.measured:
            depths = answered.measured[number]
            texts = [f"{text}, measured {m:.3f}" for text, m in zip(texts, depths, strict=True)]
        made[f"step-{number + 1}.jpg"] = drawing.encode(drawing.titled(panel, f"depth {'; '.join(texts)}"))
    for name, data in made.items():
        (out / name).write_bytes(data)
        yield out / name
