"""Checkpoints by name: what is said of one that is not there, and what a broken one does to the others."""

from pathlib import Path

import pytest

from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.store import checkpoints
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from tasks.operations.checkpoint import checkpoint
from tasks.runtime.decide import Decision
from tasks.runtime.pipeline import Partial, Run
from tasks.runtime.stage import StageFailed


def test_a_name_that_is_not_there_is_said_with_what_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(UserError, match=r"'mine' is no alias, run or model .* `sif promote RUN --as ALIAS"):
        checkpoints.find(store, "mine")
    with pytest.raises(UserError, match=r"'latest': no run .* came as far as its report; name one"):
        checkpoints.find(store, "latest")  # it can be no alias, so none is proposed


def test_a_checkpoint_that_fails_does_not_change_the_configuration_of_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    tried: list[str] = []

    def fail(decision: Decision, _: Store) -> Ref:
        tried.append(decision.order.config.model.weights)
        raise StageFailed("no weights in it")

    config = Config.model_validate({"scenes": {}, "model": {"weights": "tiny"}})
    run = Run(config, Partial(), Store(tmp_path / "store"), fail)
    with pytest.raises(StageFailed, match="no weights"):
        checkpoint(run, str(folder))
    assert tried == [str(folder)]
    assert run.config.model.weights == "tiny"
