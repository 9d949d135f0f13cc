"""Which model a server serves that was not started here (`evaluate.server: http://...`).

The server is asked (`/v1/models`). vLLM and the embedded server say which folder they serve (`root`):

* The folder is on this machine and has the weights that are evaluated: the model is verified.
* The folder is on this machine and has other weights: the evaluation is refused.
* Anything else says nothing about the weights. The evaluation is marked as not verified wherever it is shown.

A folder of the same weights may still have another processor: a publisher's chat template, say, which moves the pictures. The
model is shown something else by it than in training, which is marked wherever the scores are shown, and warned of.

Replies are remembered apart by address, name, folder, verdict and processor, so that those of one server never stand for
another's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from sifthinker.core.errors import UserError
from sifthinker.llm import keys

logger = logging.getLogger(__name__)

OURS = "sifthinker"  # owner of the models of the embedded server, which knows the families
_KEY = "OPENAI_API_KEY"  # environment variable: where a server wants a key
_MAX_TIME = httpx.Timeout(600.0, connect=10.0)


@dataclass(frozen=True)
class Running:
    """A model at a server that runs.

    Attributes:
        url: Of the server.
        name: Of the model in requests.
        root: The folder that the server says it serves; "" where it says none.
        verified: The folder is here, and has the weights that are evaluated.
        owner: Of the model, as the server says it: "vllm", or "sifthinker" for the embedded one.
        otherwise: What the server does otherwise than one of ours before the model sees anything (`compared`).
        prepares: The digest of what it does; "" where that cannot be seen from here.
    """

    url: str
    name: str
    root: str
    verified: bool
    owner: str = ""
    otherwise: tuple[str, ...] = ()
    prepares: str = ""

    @property
    def scope(self) -> str:
        """What tells its replies from those of other servers."""
        known = "verified" if self.verified else "unverified"
        return " ".join((self.url, self.name, self.root or "-", known, self.prepares)).rstrip()

    @property
    def mark(self) -> str:
        """What stands beside the model's name where its scores are shown."""
        known = f"{self.name} at {self.url}"
        if not self.verified:
            return f" ({known}, whose weights nobody has verified)"
        return f" ({known}, with another {' and '.join(self.otherwise)})" if self.otherwise else f" ({known})"

    def as_json(self) -> dict[str, Any]:
        """For `scores.json`."""
        return {
            "url": self.url,
            "model": self.name,
            "root": self.root,
            "verified": self.verified,
            "otherwise": list(self.otherwise),
        }


def check(server: str) -> None:
    """Whether a server that is given by its address answers; one that a stage starts is not asked.

    Raises:
        UserError: it does not.
    """
    if server.startswith(("http://", "https://")):
        listed(server)


def served(base_url: str) -> list[str]:
    """The names of the models that an OpenAI-compatible server has.

    Raises:
        UserError: nothing answers there, or not as such a server.
    """
    return [model["id"] for model in listed(base_url)]


def listed(base_url: str) -> list[dict[str, Any]]:
    """The entries of a server's list of models, each with its `id`.

    Raises:
        UserError: nothing answers there, or not as such a server.
    """
    url = f"{base_url.rstrip('/')}/models"
    try:
        with client_of(base_url) as client:
            reply = client.get(url).raise_for_status().json()
        return [{**model, "id": str(model["id"])} for model in reply["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"server {base_url}: no list of models at {url} ({type(error).__name__}); start it, or correct the address"
        ) from error


def client_of(base_url: str) -> httpx.Client:
    """No proxy stands before loopback, and no key goes there."""
    if urlsplit(base_url).hostname in ("localhost", "127.0.0.1", "::1"):
        return httpx.Client(timeout=_MAX_TIME, trust_env=False)
    key = os.environ.get(keys.optional(_KEY, base_url), "").strip()
    return httpx.Client(timeout=_MAX_TIME, headers={"Authorization": f"Bearer {key}"} if key else {})


def identify(
    url: str, listed: list[dict[str, Any]], wanted: str, folder: Path, digest: Callable[[Path], str]
) -> Running:
    """The model to be asked at a server, and whether it is the one in `folder`.

    Args:
        url: the server's base URL.
        listed: the entries of its list of models (`listed`).
        wanted: `evaluate.served_model`; "": the only one, or the one that goes by the name of our own servers.
        folder: of the model that is evaluated.
        digest: of a file's content.

    Raises:
        UserError: there is no such model, or several and none is named, or it has other weights.
    """
    entry = chosen(url, listed, wanted)
    name, root = str(entry["id"]), str(entry.get("root") or "")
    there = Path(root)
    if not (there.is_absolute() and there.is_dir()):
        logger.warning(
            "evaluate.server: %s serves %r%s; whether it has the weights of %s cannot be seen from here",
            url,
            name,
            f" from {root}" if root else "",
            folder,
        )
        return Running(url, name, root, False)
    if _weights(there, digest) != _weights(folder, digest):
        raise UserError(
            f"evaluate.server: {url} serves {name!r} from {there}, which has other weights than {folder}, the model that "
            "is evaluated. Start a server of that folder (`sif serve`, `vllm serve`), or set evaluate.server: vllm"
        )
    return Running(url, name, root, True, str(entry.get("owned_by") or ""))


def compared(running: Running, folder: Path, max_pixels: int) -> Running:
    """A verified server with what it does otherwise than one that is started for the model.

    Args:
        running: as `identify` found it.
        folder: of the model that is evaluated.
        max_pixels: most pixels of a picture that the model may see.

    Raises:
        UserError: its folder has no processor that is known.
    """
    from sifthinker.models import budget  # imports transformers

    root, knows = Path(running.root), running.owner == OURS
    other = budget.otherwise(root, knows, folder, max_pixels)
    if other:
        logger.warning(
            "evaluate.server: %s serves %r from %s, which has the weights of %s and another %s: the model is not shown what "
            "it was trained on. Serve it by `sif serve`, or set evaluate.server: vllm",
            running.url,
            running.name,
            root,
            folder,
            " and ".join(other),
        )
    return replace(running, otherwise=tuple(other), prepares=budget.prepares(root, knows))


def chosen(url: str, listed: list[dict[str, Any]], wanted: str) -> dict[str, Any]:
    """The entry of the model to be asked; see `identify`.

    Raises:
        UserError: there is no such model, or several and none is named.
    """
    from sifthinker.models.serving import MODEL_NAME

    by_name = {str(entry["id"]): entry for entry in listed}
    known = ", ".join(map(repr, by_name)) or "none"
    if wanted and wanted not in by_name:
        raise UserError(f"evaluate.served_model: {url} has no model {wanted!r}; it has: {known}")
    if not wanted and len(by_name) != 1 and MODEL_NAME not in by_name:
        raise UserError(
            f"evaluate.server: {url} has several models or none: {known}; set evaluate.served_model"
        )
    return by_name[wanted] if wanted else by_name.get(MODEL_NAME) or next(iter(by_name.values()))


def _weights(folder: Path, digest: Callable[[Path], str]) -> list[str]:
    """The digests of a folder's weights, whatever their files are called."""
    return sorted(digest(file) for file in folder.resolve().glob("*.safetensors"))
