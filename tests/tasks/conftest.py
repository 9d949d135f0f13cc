"""What tests of results share: a copy of the code that they may change."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.runtime import closure, results


def forget() -> None:
    """Has `closure` read every file again; `_read` goes by the text, so a file that is the same is not parsed again."""
    for name, found in vars(closure).items():
        if name != "_read" and hasattr(found, "cache_clear"):
            found.cache_clear()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the code that tests may change."""
    for folder in ("sifthinker", "tasks"):
        shutil.copytree(
            results.ROOT / folder,
            tmp_path / folder,
            ignore=shutil.ignore_patterns("__pycache__", "*.safetensors", "tokenizer.json"),
        )
    monkeypatch.setattr(results, "ROOT", tmp_path)
    forget()
    yield tmp_path
    forget()
