"""The names of checkpoints: what is said of one that is not there."""

from pathlib import Path

import pytest

from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from tasks.operations import checkpoint


def test_a_name_that_is_not_there_is_said_with_what_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(UserError, match=r"'mine' is no alias, run or model .* `sif promote RUN --as ALIAS"):
        checkpoint.find(store, "mine")
    with pytest.raises(UserError, match=r"'latest': no run .* came as far as its report; name one"):
        checkpoint.find(store, "latest")  # it can be no alias, so none is proposed
