"""The application of the embedded server: `transformers serve`, with one model, our own pictures, and seeds that hold.

It depends on parts of transformers that are private, so the tests ask a running server (tests/models/test_serving.py).
`serving` starts it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from fastapi import HTTPException
from transformers import GenerationConfig
from transformers.cli.serving import utils
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.response import ResponseHandler
from transformers.cli.serving.server import build_server
from transformers.cli.serving.systemone import SystemOneHandler
from transformers.cli.serving.transcription import TranscriptionHandler
from transformers.cli.serving.utils import BaseHandler, GenerationState

from sifthinker.config import Ingest
from sifthinker.core.images import BadImage, from_data_url, rgb
from sifthinker.models import loading, vllm_command

_MAX_PIXELS = Ingest().max_pixels  # of a picture in a request
_DTYPES: dict[str, Literal["bf16", "fp16", "fp32"]]
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def application(folder: Path, name: str) -> Any:
    """The server of a folder's model under `name`, as an ASGI application with the model loaded."""
    # Or transformers takes what stands in <think> out of the reply, and a chain with it.
    utils._RESPONSE_TEMPLATE_FALLBACKS.clear()
    manager, state = _OneModel(name, *_loaded(folder)), GenerationState()
    return build_server(
        manager,
        _ChatCompletions(manager, state),
        CompletionHandler(manager, state),
        _Responses(manager, state),
        TranscriptionHandler(manager, state),
        SystemOneHandler(manager, state),
        generation_state=state,
    )


def _loaded(folder: Path) -> tuple[Any, Any]:
    """The model, which samples neutrally and no picture tokens, and its processor."""
    processor = loading.load_processor(folder)
    model = loading.load_policy(folder, _dtype(folder) if torch.cuda.is_available() else "fp32")
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    own = model.generation_config
    model.generation_config = GenerationConfig(
        eos_token_id=_ends(own.eos_token_id, processor.tokenizer.eos_token_id),
        pad_token_id=own.pad_token_id,
        suppress_tokens=loading.picture_tokens(processor),
        do_sample=True,  # the server turns it off at temperature 0
        top_k=0,
        top_p=1.0,
    )
    generate = model.generate

    def seeded(*inputs: Any, generation_config: Any, **options: Any) -> Any:
        if (seed := getattr(generation_config, "seed", None)) is not None:  # only a chat completion's has one
            torch.manual_seed(seed)
        return generate(*inputs, generation_config=generation_config, **options)

    model.generate = seeded
    return model, processor


def _ends(said: int | list[int] | None, turn: int) -> list[int]:
    """The tokens that end a reply: what the folder says, and the end of a turn, which it may leave out."""
    listed = [said] if isinstance(said, int) else list(said or ())
    return list(dict.fromkeys([*listed, turn]))


def _dtype(folder: Path) -> Literal["bf16", "fp16", "fp32"]:
    """The data type of the folder's weights, which is the one that was merged and checked."""
    return _DTYPES.get(vllm_command.dtype(folder), "bf16")


class _OneModel(ModelManager):  # type: ignore[misc]
    """The one model under its one name, loaded before the server listens; nothing is looked up elsewhere."""

    def __init__(self, name: str, model: Any, processor: Any) -> None:
        self.name, self.loaded = name, (model, processor)
        super().__init__(force_model=name)  # calls load_model_and_processor

    @staticmethod
    def process_model_name(model_id: str) -> str:
        return model_id

    def get_gen_models(self, cache_dir: str | None = None) -> list[dict[str, Any]]:
        return [{"id": self.name, "object": "model", "created": 0, "owned_by": "sifthinker"}]

    def load_model_and_processor(self, *_: Any, **__: Any) -> tuple[Any, Any]:
        return self.loaded


class _Upright(BaseHandler):  # type: ignore[misc]
    """Opens a request's pictures as training does; transformers would make 16-bit grey white."""

    @staticmethod
    def get_processor_inputs_from_messages(messages: list[Any], modality: Any) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = BaseHandler.get_processor_inputs_from_messages(messages, modality)
        try:
            return [received(message) for message in made]
        except BadImage as error:
            raise HTTPException(status_code=400, detail=str(error)) from error


class _Responses(_Upright, ResponseHandler):  # type: ignore[misc]
    """OpenAI's other form of request."""


class _ChatCompletions(_Upright, ChatCompletionHandler):  # type: ignore[misc]
    """Keeps a request's seed for its own tokens; the server would set it in the midst of another's reply."""

    def _build_generation_config(self, body: dict[str, Any], *model_and_mode: Any, **mode: Any) -> Any:
        made = super()._build_generation_config({**body, "seed": None}, *model_and_mode, **mode)
        made.seed = body.get("seed")
        return made


def received(message: dict[str, Any]) -> dict[str, Any]:
    """A message as transformers reads a request, with the pictures themselves in the place of their data URLs.

    Raises:
        BadImage: a picture is none, or not in a data URL: this server opens no addresses and no files for others.
    """
    if isinstance(message["content"], str):
        return message
    content = [
        {"type": "image", "image": rgb(from_data_url(part["url"]), max_pixels=_MAX_PIXELS)}
        if part["type"] == "image"
        else part
        for part in message["content"]
    ]
    return {**message, "content": content}
