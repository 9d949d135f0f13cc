"""A model of this machine that answers in place of a provider: its folder, and what its replies are remembered under.

The stand-in for the annotator may see by such a model, too: the miniature, which comes with this package.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import httpx

from sifthinker.config import LOCAL, SERVED, STANDIN, Api
from sifthinker.core.errors import UserError
from sifthinker.system import loopback

# sifthinker.models.miniature.folder("policy"), which this room may not import
_MINIATURE = Path(__file__).parents[1] / "models" / "miniature" / "policy"
_COUNTED = (".json", ".safetensors")
_EDGE = 2**20  # bytes at either end of a file that count: weights are many GB


def folder(api: Api) -> Path:
    """The folder of a local endpoint's model.

    Raises:
        UserError: it is no folder of a model.
    """
    found = Path(api.model)
    if not (found / "config.json").is_file():
        raise UserError(
            f"base_url is 'local', and model {api.model!r} is no folder of a model (with a config.json): download it, for "
            "example with `hf download NAME --local-dir FOLDER`, and set model to that folder"
        )
    return found


def scope(api: Api) -> str:
    """What replies are remembered under besides the model's name: what of this machine decides them; "" where nothing does.

    Raises:
        UserError: see `folder`.
    """
    if api.base_url == STANDIN and api.standin_sees != "nothing":
        return f"sees {api.standin_sees} {_weights(_MINIATURE) if api.standin_sees == 'miniature' else ''}".strip()
    return _weights(folder(api), (*_COUNTED, ".jinja")) if api.base_url == LOCAL else ""


def server(api: Api) -> str:
    """What serves a local model, whose replies are its own; "" of an endpoint that is not started here."""
    return api.local_server if api.base_url == LOCAL else ""


def is_own(api: Api, url: str) -> bool:
    """Whether a server is one of this machine that works for a stage alone, as one that the stage started does.

    A user's own server on this machine is taken for one, too; one elsewhere has other users.
    """
    return api.base_url in (SERVED, LOCAL) and httpx.URL(url).host in loopback.HOSTS


def _weights(of: Path, counted: tuple[str, ...] = _COUNTED) -> str:
    files = sorted(path for path in of.iterdir() if path.is_file() and path.suffix in counted)
    return _fingerprint(tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=8)
def _fingerprint(files: tuple[tuple[str, int, int], ...]) -> str:
    """Names, sizes and ends of the files; their times say whether that has to be read again."""
    digest = hashlib.sha256()
    for name, size, _ in files:
        path = Path(name)
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_EDGE))
            file.seek(max(0, size - _EDGE))
            digest.update(file.read(_EDGE))
    return digest.hexdigest()
