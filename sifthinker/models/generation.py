"""The embedded server's model: what it sees of a conversation, and the replies that it generates.

A reply is that of `model.generate` on one conversation, so a greedy one does not depend on what else is asked, and a
sampled one depends on its seed alone. That holds too where several are made in one batch (`batches`). `turns` carries the
requests here.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from sifthinker.config import Ingest
from sifthinker.core.images import from_data_url, rgb
from sifthinker.models import batches, loading, vllm_command
from sifthinker.models.workers import Flag

_HALF = "\N{REPLACEMENT CHARACTER}"  # stands for the first bytes of a character
_MAX_PIXELS = Ingest().max_pixels  # of a picture in a request
_DTYPES: dict[str, Literal["bf16", "fp16", "fp32"]]
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


class Unfit(ValueError):
    """A conversation that the model cannot be asked; the message says why."""


class GivenUp(Exception):
    """Whoever asked has gone, and the reply was given up."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is generated."""

    max_tokens: int
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    seed: int | None = None  # none: another reply every time
    stop: tuple[str, ...] = ()  # the reply ends before the first of these


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said."""

    text: str
    finish_reason: str  # "stop": the model, or a stop text, ended it; "length": it was cut off
    prompt_tokens: int
    completion_tokens: int


def picture(part: dict[str, Any]) -> dict[str, Any]:
    """A picture of a request as the model's processor takes it, opened as training opens it.

    Args:
        part: `{"type": "image", "url": ...}`.

    Raises:
        BadImage: it is none, or not in a data URL: the server opens no addresses and no files for others.
    """
    return {"type": "image", "image": rgb(from_data_url(part["url"]), max_pixels=_MAX_PIXELS)}


class Policy:
    """A model folder, loaded. Not for several threads at once."""

    def __init__(self, folder: Path) -> None:
        """Loads the model: on a GPU in the folder's data type, else in fp32 on the CPU."""
        self.folder = folder.resolve()
        self.processor = loading.load_processor(folder)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = loading.load_policy(folder, _dtype(folder) if device == "cuda" else "fp32").to(device)
        own = self.model.generation_config
        self.ends = _ends(own.eos_token_id, self.processor.tokenizer.eos_token_id)
        pictures = loading.picture_tokens(self.processor)
        self.forbidden: list[str] = self.processor.tokenizer.convert_ids_to_tokens(pictures)  # in a text
        # Neutral: Qwen's own configuration has a repetition penalty, with which the policy was never trained.
        self.model.generation_config = GenerationConfig(
            eos_token_id=self.ends,
            pad_token_id=own.pad_token_id,
            suppress_tokens=pictures,
            do_sample=True,
            top_k=0,
            top_p=1.0,
        )
        self.room: int = (
            self.model.config.get_text_config().max_position_embeddings
        )  # tokens, prompt and reply

    def conversation(self, messages: list[dict[str, Any]]) -> Any:
        """The model's inputs for a conversation.

        Args:
            messages: each with a list of parts, `{"type": "text", "text": ...}` or as `picture` gives them.

        Raises:
            Unfit: a text has a token that stands for a picture, or the conversation is too long for the model.
        """
        for text in (part["text"] for message in messages for part in message["content"] if "text" in part):
            for token in self.forbidden:
                if token in text:
                    raise Unfit(f"a text holds {token}, which stands for a picture; leave it out")
        inputs = self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        return self._fitting(inputs)

    def continuation(self, prompt: str) -> Any:
        """The model's inputs for a text that it is to continue.

        Raises:
            Unfit: as `conversation`.
        """
        return self._fitting(self.processor.tokenizer(prompt, return_tensors="pt"))

    def _fitting(self, inputs: Any) -> Any:
        tokens = inputs["input_ids"].shape[-1]
        if not 0 < tokens < self.room:
            raise Unfit(f"the prompt has {tokens} tokens, and the model holds 1 to {self.room - 1}")
        return inputs.to(self.model.device)

    def reply(
        self, inputs: Any, sampling: Sampling, gone: Flag, say: Callable[[str], None] | None = None
    ) -> Reply:
        """Generates a reply.

        Args:
            inputs: of `conversation` or `continuation`.
            sampling: how. A reply that would leave the model's context is cut off there.
            gone: once it is set, the reply is given up.
            say: gets the pieces of the text as they come.

        Raises:
            GivenUp: `gone` was set.
        """
        length = inputs["input_ids"].shape[-1]
        config = copy.deepcopy(self.model.generation_config)
        config.max_new_tokens = self._most(inputs, sampling)
        if sampling.temperature:
            config.temperature, config.top_p = sampling.temperature, sampling.top_p
        else:
            config.do_sample = False
        torch.manual_seed(_seed(sampling))
        watch = _Watch(self.processor.tokenizer, sampling.stop, gone, say)
        sequences = self.model.generate(
            **inputs,
            generation_config=config,
            streamer=watch if sampling.stop or say else None,
            stopping_criteria=StoppingCriteriaList([_Over(watch)]),
        )
        if gone.is_set():
            raise GivenUp
        return self._reply(length, sequences[0, length:].tolist(), sampling.stop, watch.stopped)

    def together(self, asked: Sequence[tuple[Any, Sampling, Flag]]) -> list[Reply | None]:
        """Replies made in one batch, each as `reply` makes it; None where only `reply` can tell it.

        Args:
            asked: of each what `reply` takes; on the CPU, with the whole probability (`top_p` 1), and no stop texts. All are of
                one `batches.kind`.
        """
        wanted = [
            batches.Wanted(inputs, self._most(inputs, sampling), sampling.temperature, _seed(sampling), gone)
            for inputs, sampling, gone in asked
        ]
        made = batches.replies(self.model, copy.deepcopy(self.model.generation_config), wanted, self.ends)
        return [
            None if tokens is None else self._reply(inputs["input_ids"].shape[-1], tokens)
            for (inputs, _, _), tokens in zip(asked, made, strict=True)
        ]

    def _most(self, inputs: Any, sampling: Sampling) -> int:
        """Tokens of a reply: what is asked for, or what the model's context leaves."""
        return min(sampling.max_tokens, self.room - int(inputs["input_ids"].shape[-1]))

    def _reply(
        self, length: int, tokens: list[int], stop: Sequence[str] = (), stopped: bool = False
    ) -> Reply:
        text = _cut(self.processor.decode(tokens, skip_special_tokens=True), stop)
        ended = stopped or tokens[-1] in self.ends
        return Reply(text, "stop" if ended else "length", length, len(tokens))


def _seed(sampling: Sampling) -> int:
    return int.from_bytes(os.urandom(4), "big") if sampling.seed is None else sampling.seed


def _ends(said: int | list[int] | None, turn: int) -> list[int]:
    """The tokens that end a reply: what the folder says, and the end of a turn, which it may leave out."""
    listed = [said] if isinstance(said, int) else list(said or ())
    return list(dict.fromkeys([*listed, turn]))


def _dtype(folder: Path) -> Literal["bf16", "fp16", "fp32"]:
    """The data type of the folder's weights, which is the one that was merged and checked."""
    return _DTYPES.get(vllm_command.dtype(folder), "bf16")


def _cut(text: str, stop: Sequence[str]) -> str:
    """A text up to the first of the stop texts, which it does not hold any more."""
    return text[: min((place for one in stop if (place := text.find(one)) >= 0), default=None)]


class _Watch(BaseStreamer):  # type: ignore[misc]
    """Reads the tokens as they come: looks for stop texts, and passes on what belongs to the reply for certain."""

    def __init__(
        self, tokenizer: Any, stop: Sequence[str], gone: Flag, say: Callable[[str], None] | None
    ) -> None:
        self.stop, self.gone, self.say = stop, gone, say
        self.stopped = False
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._text = ""
        self._said = 0  # characters
        self._prompt = True  # comes first

    def put(self, value: torch.Tensor) -> None:
        if self._prompt:
            self._prompt = False
            return
        self._tokens += value.tolist()
        text = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        if text.endswith(_HALF):  # more of the character's bytes may come
            return
        self._text = text
        whole = _cut(self._text, self.stop)
        self.stopped = len(whole) < len(self._text)
        self._pass_on(whole if self.stopped else whole[: len(whole) - self._open(whole)])

    def end(self) -> None:
        self._text = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        self._pass_on(_cut(self._text, self.stop))

    def _open(self, text: str) -> int:
        """How many of the last characters may be the beginning of a stop text."""
        longest = max(map(len, self.stop), default=1) - 1
        ends = range(min(longest, len(text)), 0, -1)
        return next((n for n in ends if any(one.startswith(text[-n:]) for one in self.stop)), 0)

    def _pass_on(self, text: str) -> None:
        if self.say is not None and len(text) > self._said:
            self.say(text[self._said :])
            self._said = len(text)


class _Over(StoppingCriteria):  # type: ignore[misc]
    """Ends the generation at a stop text, or when nobody waits for it any more."""

    def __init__(self, watch: _Watch) -> None:
        self.watch = watch

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        over = self.watch.stopped or self.watch.gone.is_set()
        return torch.full((input_ids.shape[0],), over, device=input_ids.device, dtype=torch.bool)
