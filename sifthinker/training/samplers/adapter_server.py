"""The ranks' side of `vllm_lora`: gives a vLLM server each step's adapter, and asks it for completions.

An adapter goes by the digest of its weights. Equal names mean equal weights, so neither a resumed run nor vLLM's prefix
cache, which is keyed by the name, can answer with older ones. It is loaded, and the older ones are forgotten, when no rank
samples.
"""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
from accelerate.utils import gather_object
from PIL import Image

from sifthinker.core import images
from sifthinker.core.errors import UserError
from sifthinker.models.serving import MODEL_NAME
from sifthinker.training import adapters, ranks

logger = logging.getLogger(__name__)

AT_ONCE = 64  # most requests of a rank in flight
PATIENCE = httpx.Timeout(
    1800.0, connect=10.0
)  # seconds: a request may wait for others, and sample thousands of tokens
NAME_LENGTH = 20  # characters of a digest


class SamplerFailed(Exception):
    """A server does not sample. The stage starts it again and resumes, so this is no mistake of the user's."""


@dataclass(frozen=True)
class Asked:
    """Completions of one prompt: what one request asks for."""

    messages: list[dict[str, Any]]
    prompt: list[int]  # tokens, as the trainer has them
    count: int
    seed: int


class AdapterServer:
    """The server that this rank asks."""

    def __init__(self, trainer: Any, servers: Sequence[str], folder: Path, tokens: Sequence[int]) -> None:
        """Asks nothing yet.

        Args:
            trainer: GRPO's, with its model.
            servers: base URLs (with /v1) of this machine's.
            folder: for the adapters; what an earlier try has left there is removed.
            tokens: that are never sampled.
        """
        self.trainer, self.servers, self.folder = trainer, tuple(servers), folder
        self.url = servers[ranks.local_rank() % len(servers)]
        self.bias = {str(token): -100 for token in tokens}
        self.adapter: str | None = None  # that the servers have
        self.step = -1  # whose adapter it is
        self.client = httpx.Client(timeout=PATIENCE, trust_env=False)
        if ranks.local_rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)

    def sample(
        self, conversations: Sequence[Sequence[Mapping[str, Any]]], prompts: Sequence[Sequence[int]]
    ) -> tuple[list[list[int]], list[list[float]]]:
        """A completion of each prompt: its tokens, and their log-probabilities after temperature and suppression.

        Every rank calls it at the same time, because the adapter is gathered from all of them.

        Args:
            conversations: (prompts,), as TRL prepares them, with the pictures.
            prompts: (prompts,), their tokens as the trainer has them; equal ones that follow each other are asked for
                at once.

        Raises:
            UserError: the server's tokens of a prompt are not the trainer's.
            SamplerFailed: a server does not answer, or refuses.
        """
        self.publish()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(self._ask, self._requests(conversations, prompts)))
        completions = [one for group in found for one in group]
        return [ids for ids, _ in completions], [values for _, values in completions]

    def publish(self) -> None:
        """Gives this machine's servers the adapter of the trainer's step, if they have an older one."""
        if self.step == self.trainer.state.global_step:
            return
        began = time.monotonic()
        draft = self.folder / "draft"
        # It begins and ends with all ranks together: none of them samples meanwhile.
        adapters.save_adapter(self.trainer, draft, here=ranks.local_rank() == 0)
        name = None
        if ranks.local_rank() == 0:
            name = digest(draft)
            if not (self.folder / name).exists():
                draft.rename(self.folder / name)
        [name, *_] = [found for found in gather_object([name]) if found]
        saved = time.monotonic()
        for url in self.servers[ranks.local_rank() :: ranks.local_world()]:
            self._load(url, name)
        ranks.barrier()
        if ranks.local_rank() == 0 and self.adapter not in (None, name):
            shutil.rmtree(self.folder / str(self.adapter))
        self.adapter, self.step = name, self.trainer.state.global_step
        logger.info(
            "step %d: adapter %s saved in %.2f s, loaded in %.2f s",
            self.step,
            name,
            saved - began,
            time.monotonic() - saved,
        )

    def _load(self, url: str, name: str) -> None:
        """Makes the server know this adapter and no other; one of a killed try may be there."""
        known = [model["id"] for model in self._send("GET", f"{url}/models")["data"] if model.get("parent")]
        for other in known:
            if other != name:
                self._send("POST", f"{url}/unload_lora_adapter", {"lora_name": other})
        if name not in known:
            path = str((self.folder / name).resolve())
            self._send("POST", f"{url}/load_lora_adapter", {"lora_name": name, "lora_path": path})

    def _requests(
        self, conversations: Sequence[Sequence[Mapping[str, Any]]], prompts: Sequence[Sequence[int]]
    ) -> list[Asked]:
        made = []
        place = 0
        pairs = zip(conversations, prompts, strict=True)
        for (prompt, _), group in groupby(pairs, lambda pair: (list(map(int, pair[1])), _shown(pair[0]))):
            members = list(group)
            seed = self._seed(place)
            made.append(Asked(_messages(members[0][0]), prompt, len(members), seed))
            place += len(members)
        return made

    def _seed(self, place: int) -> int:
        """Of the completions from a place of this rank's batch on: equal in a resumed run."""
        trainer = self.trainer
        text = f"{trainer.args.seed} {trainer.state.global_step} {ranks.rank()} {place}"
        # vLLM adds a completion's number within its request. 31 bits.
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def _ask(self, asked: Asked) -> list[tuple[list[int], list[float]]]:
        trainer = self.trainer
        answer = self._send(
            "POST",
            f"{self.url}/chat/completions",
            {
                "model": self.adapter or MODEL_NAME,
                "messages": asked.messages,
                "n": asked.count,
                "seed": asked.seed,
                "temperature": trainer.temperature,
                "max_tokens": trainer.max_completion_length,
                "top_p": 1.0,
                "top_k": -1,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "logit_bias": self.bias,
                "logprobs": True,
                "top_logprobs": 0,
                "return_token_ids": True,
            },
        )
        check_prompt(answer.get("prompt_token_ids"), asked.prompt)
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        if len(choices) != asked.count:
            raise SamplerFailed(f"{self.url}: {asked.count} completions were asked for, {len(choices)} came")
        return [_completion(choice) for choice in choices]

    def _send(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            reply = self.client.request(method, url, json=body)
        except httpx.HTTPError as error:
            raise SamplerFailed(
                f"{url}: the vLLM server does not answer ({type(error).__name__}: {error}); its log is sampler-*.log in "
                "the stage's work folder"
            ) from error
        if reply.is_error:
            raise SamplerFailed(f"{url}: status {reply.status_code}: {reply.text[:1000]}")
        return reply.json() if "json" in reply.headers.get("content-type", "") else None


def digest(folder: Path) -> str:
    """The name of an adapter: the digest of its weights."""
    with (folder / "adapter_model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:NAME_LENGTH]


def check_prompt(theirs: Sequence[int] | None, ours: Sequence[int]) -> None:
    """Whether the server's tokens of a prompt are the trainer's.

    Raises:
        UserError: they are not; it says where they begin to differ.
    """
    if theirs is None:
        raise UserError(
            "grpo.generation: vllm_lora: this vLLM does not say how it reads a prompt (return_token_ids); install the "
            "version of docker/vllm.txt"
        )
    if list(theirs) == list(ours):
        return
    pairs = enumerate(zip(theirs, ours, strict=False))
    place = next((n for n, (a, b) in pairs if a != b), min(len(theirs), len(ours)))
    raise UserError(
        f"grpo.generation: vllm_lora: vLLM reads a prompt as {len(theirs)} tokens and the trainer as {len(ours)}; they differ "
        f"from token {place} on. The policy would be trained on other prompts than it is shown. Give vLLM's environment the "
        "version of docker/vllm.txt, or set grpo.generation: transformers"
    )


def _completion(choice: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    ids = [int(token) for token in choice["token_ids"]]
    values = [entry["logprob"] for entry in choice["logprobs"]["content"]]
    if len(ids) != len(values) or not ids:
        raise SamplerFailed(f"a completion came with {len(ids)} tokens and {len(values)} log-probabilities")
    return ids, values


def _shown(conversation: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """The pixels of a conversation's pictures."""
    contents = [message["content"] for message in conversation if not isinstance(message["content"], str)]
    return [part["image"].tobytes() for content in contents for part in content if part["type"] == "image"]


def _messages(conversation: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A conversation as an OpenAI-compatible server reads it, the pictures without loss."""

    def sent(part: Mapping[str, Any]) -> dict[str, Any]:
        if part["type"] == "image":
            return {"type": "image_url", "image_url": {"url": _png(part["image"])}}
        return {"type": "text", "text": part["text"]}

    return [
        {**message, "content": [sent(part) for part in message["content"]]}
        if not isinstance(message["content"], str)
        else dict(message)
        for message in conversation
    ]


def _png(picture: Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return images.data_url(out.getvalue(), "image/png")
