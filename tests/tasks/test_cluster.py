"""What a Dask worker checks and is sent."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from sifthinker.config import Config, Scenes, Source, UserError
from sifthinker.store import Store
from tasks import cluster
from tasks.expand import expand
from tasks.stage import decide


@pytest.fixture
def order(tmp_path: Path):
    config = Config(name="c", store=tmp_path, scenes=Scenes(rows=4), dask="tcp://127.0.0.1:1")
    return decide(Store(tmp_path), expand, "expand", config, {}, refresh=False).order


def test_a_worker_of_the_flows_code_takes_the_order_and_another_names_the_module(order):
    cluster.check(order)
    code = {**order.identity["code"], "sifthinker.expand": "another"}
    with pytest.raises(UserError, match="another version of the code: code expand changed"):
        cluster.check(replace(order, identity={**order.identity, "code": code}))


def test_a_stage_is_sent_by_its_name(order):
    assert pickle.loads(pickle.dumps(expand)) is expand  # noqa: S301 - what Dask does


def test_picture_folders_do_not_depend_on_the_working_folder(order):
    source = Source(name="s", format="viscot", path=Path("a.json"), images=Path("pictures"))
    of = replace(order, config=order.config.model_copy(update={"sources": (source,)}))
    (sent,) = cluster.portable(of).config.sources
    assert sent.images == Path.cwd() / "pictures"
