"""What a Dask worker checks and is sent."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from sifthinker.config import Config, Dask, Scenes, Source
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from tasks.runtime import cluster, dask_worker, identity
from tasks.runtime.decide import decide
from tasks.stages.depth import depth
from tasks.stages.expand import expand


@pytest.fixture
def order(tmp_path: Path):
    config = Config(name="c", store=tmp_path, scenes=Scenes(rows=4), dask="tcp://127.0.0.1:1")
    return decide(Store(tmp_path), expand, "expand", config, {}, refresh=False).order


def test_a_worker_of_the_flows_code_takes_the_order_and_another_names_the_module(order):
    dask_worker.check(order)
    code = {**order.identity["code"], "expand": "another"}
    with pytest.raises(UserError, match=r"another version of the code .*: expand changed"):
        dask_worker.check(replace(order, identity={**order.identity, "code": code}))


def test_a_worker_with_another_library_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = Config(name="c", store=tmp_path, scenes=Scenes(rows=4), dask="tcp://127.0.0.1:1")
    has = identity.installed
    monkeypatch.setattr(identity, "installed", lambda name: "2.98.1" if name == "torch" else has(name))
    order = decide(Store(tmp_path), depth, "depth", config, {}, refresh=False).order
    dask_worker.check(order)
    monkeypatch.setattr(identity, "installed", lambda name: "2.99.0" if name == "torch" else has(name))
    with pytest.raises(UserError, match=r"\(flow -> worker\): torch 2\.98 -> 2\.99"):
        dask_worker.check(order)


def test_a_stage_is_sent_by_its_name(order):
    assert pickle.loads(pickle.dumps(expand)) is expand  # noqa: S301 - what Dask does


def test_picture_folders_do_not_depend_on_the_working_folder_or_on_the_place_of_the_store(
    order, tmp_path: Path
):
    sources = (
        Source(name="s", format="viscot", path=Path("a.json"), images=Path("pictures")),
        Source(name="t", format="viscot", path=Path("a.json"), images=tmp_path / "scenes" / "k" / "data"),
    )
    of = replace(order, config=order.config.model_copy(update={"sources": sources}))
    outside, inside = cluster.portable(of, Store(tmp_path)).config.sources
    assert outside.images == Path.cwd() / "pictures"
    assert inside.images == Path("store:scenes/k/data")


def test_an_address_alone_is_a_section():
    assert Config(scenes={}, dask="tcp://a:1").dask == Dask(address="tcp://a:1")
    with pytest.raises(ValueError, match="address"):
        Config(scenes={}, dask="http://a:1")
    with pytest.raises(ValueError, match="resources"):
        Dask(address="tcp://a:1", resources={"publish": {"GPU": 1}})
