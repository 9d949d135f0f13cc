"""`prune` and `compare` of a machine whose folder is new: they look at the remote, and an empty place is a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from sifthinker.core.errors import UserError
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from tasks.operations.kept_store import VARIABLE, kept


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def shared(bucket: str, tmp_path: Path) -> str:
    """A bucket with the record of a run that another machine made."""
    other = Store(tmp_path / "other", bucket)
    other.record(runs.file(other, "old"), {"id": "old", "started": 1.0, "stages": {}})
    return bucket


@pytest.mark.parametrize("there", [[], ["lost+found"], ["prefect", "lost+found"]])
def test_an_empty_folder_without_a_remote_is_a_mistake(tmp_path: Path, there: list[str]) -> None:
    """As the volume of one run on Kubernetes: a pruning of it would remove nothing, and say that all is well."""
    for name in there:
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"nothing is in it, and it has no remote; .*SIF_REMOTE"):
        kept(tmp_path)


def test_a_folder_that_runs_used_needs_no_remote(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.record(runs.file(store, "mine"), {"id": "mine", "started": 1.0, "stages": {}})
    assert kept(tmp_path).remote is None


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        kept(tmp_path / "none")


@pytest.mark.parametrize("how", ["parameter", "environment"])
def test_a_new_folder_has_what_is_on_the_remote(
    shared: str, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    if how == "environment":
        monkeypatch.setenv(VARIABLE, shared)
        store = kept(folder)
    else:
        monkeypatch.setenv(VARIABLE, "s3://another/place")  # the parameter goes first
        store = kept(folder, f" {shared} ")
    assert runs.file(store, "old").exists() and store.remote


def test_the_cache_of_another_remote_is_refused(shared: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="caches"):
        kept(tmp_path / "other", "s3://another/place")
