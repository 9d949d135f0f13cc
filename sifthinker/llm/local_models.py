"""A model of this machine that answers in place of a provider: its folder, and what its replies are remembered under."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from sifthinker.config import LOCAL, Api
from sifthinker.core.errors import UserError

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
    """What replies of a local endpoint's model are remembered under, besides the folder's name; "" for other endpoints.

    Raises:
        UserError: see `folder`.
    """
    if api.base_url != LOCAL:
        return ""
    files = sorted(
        path for path in folder(api).iterdir() if path.is_file() and path.suffix in (".json", ".safetensors")
    )
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
