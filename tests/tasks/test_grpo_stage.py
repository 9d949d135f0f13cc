"""The stage grpo: the rows that its policy is evaluated on."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from flows.reproduce import model_made
from sifthinker import config
from sifthinker.core import tables
from sifthinker.models import loading
from tasks.stages import grpo
from tests.training.conftest import row


def test_held_out_rows_are_written_for_the_program_and_are_none_of_the_subset(tmp_path):
    loading.build_tiny("qwen2_5_vl", 0, tmp_path / "base")
    tables.write(tmp_path / "sif.parquet", tables.SIF, (row(index) for index in range(12)))
    tables.write(tmp_path / "rl.parquet", tables.SIF, (row(index) for index in range(4)))
    settings = config.Grpo(evaluate_steps=5, evaluate_rows=6)
    job = SimpleNamespace(
        config=config.Config(scenes=config.Scenes(), grpo=settings, model=config.Model(max_pixels=3136)),
        inputs={"base": SimpleNamespace(path=tmp_path / "base")},
        table=lambda name: {"sif": [tmp_path / "sif.parquet"]}[name],
        work=tmp_path,
    )
    found = [each["id"] for each in tables.read([grpo._held_out(job, [tmp_path / "rl.parquet"])])]
    assert len(found) == len(set(found)) == 6
    assert not set(found) & {row(index)["id"] for index in range(4)}


def test_its_servers_keep_room_for_what_preflight_has_found(tmp_path, monkeypatch):
    asked = {}

    @contextmanager
    def serving(folder, settings, work, gpus, context):
        asked["context"] = context
        yield ()

    monkeypatch.setattr(grpo.preflight, "check", lambda *_: {"context": 2345})
    monkeypatch.setattr(grpo.memory, "visible_gpus", list)
    monkeypatch.setattr(grpo.samplers, "of", lambda _: SimpleNamespace(serving=serving))
    monkeypatch.setattr(grpo, "train", lambda *_: None)
    monkeypatch.setattr(grpo, "training_outcome", lambda _: None)
    place = SimpleNamespace(path=tmp_path)
    job = SimpleNamespace(
        config=config.Config(scenes=config.Scenes()),
        inputs={"base": place, "subset": place},
        endpoints=SimpleNamespace(ledger=tmp_path, url=None),
        notes={},
        work=tmp_path,
    )
    grpo.grpo.run(job)
    assert asked == {"context": 2345}


@pytest.mark.parametrize(("steps", "names"), [(0, {"base", "subset"}), (10, {"base", "subset", "sif"})])
def test_only_an_evaluated_training_depends_on_the_whole_data_set(steps, names):
    """So the key of one that is not evaluated stays what it was."""
    inputs = {}

    def run(stage, label="", **given):
        inputs[label or stage.name] = given
        return label or stage.name

    run.config = config.Config(
        sources=({"name": "a", "format": "viscot", "path": "x"},), grpo=config.Grpo(evaluate_steps=steps)
    )
    model_made(run)
    assert inputs["grpo"].keys() == names
