"""GPU memory that is given back. There is no GPU here: torch.cuda is a fake that records what is asked of it."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sifthinker import config
from sifthinker.data import depth_estimation
from sifthinker.system import gpu
from tasks.runtime import make
from tasks.stages import depth, evaluate

ON_THE_GPU: weakref.WeakSet[Model] = weakref.WeakSet()


class Model:
    """On the GPU; part of a cycle, as models with hooks are."""

    def __init__(self) -> None:
        self.me = self
        ON_THE_GPU.add(self)


@pytest.fixture
def emptied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """At each `empty_cache`, how many models were still in use: their memory is not given back."""
    calls: list[int] = []
    gc.collect()

    def empty_cache() -> None:
        calls.append(len(ON_THE_GPU))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    gc.disable()  # as where no collection happens to come
    yield calls
    gc.enable()


def estimates(*_: object) -> Iterator[tuple[str, bytes]]:
    """Depth maps by a model that the estimation holds until its last picture."""
    model = Model()
    for number in range(3):
        assert model
        yield f"{number}", b""


def job(sent: object = None) -> SimpleNamespace:
    """What the stage depth uses of a job, and what carries it out."""
    return SimpleNamespace(
        order=SimpleNamespace(stage=depth.depth, sent=sent),
        table=lambda name: [],
        folders={},
        config=config.Config(name="mine", scenes=config.Scenes()),
        counted=list,
        inputs={"weights": SimpleNamespace(path=Path("weights"))},
        keep=lambda name, schema, records, batch: list(records),
        notes={},
    )


@pytest.mark.parametrize("sent", [None, object()], ids=["in the flow's process", "on a Dask worker"])
def test_the_stage_depth_gives_back_its_models_memory(
    sent: object, emptied: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depth, "read", lambda _: [])
    monkeypatch.setattr(depth_estimation, "estimate", estimates)
    make._run(job(sent))
    assert emptied == [0]


def test_evaluation_gives_it_back_before_its_server_starts(emptied: list[int]) -> None:
    list(estimates())
    evaluate._free_the_gpu()
    assert emptied == [0]


def test_a_process_without_torch_does_not_load_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    gpu.free()
    assert "torch" not in sys.modules
