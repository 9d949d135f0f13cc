"""How the nodes of a training meet, and how one that is lost is noticed. Real launchers: tests/training/test_two_nodes.py."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from sifthinker.config import Grpo, Sft, identity, parse
from sifthinker.core.errors import UserError
from tasks.runtime import following, nodes
from tests.nodes import job

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"ranks": 8, "nodes": 3}, "8 is no multiple of nodes = 3"),
        ({"ranks": 1, "nodes": 2}, "1 is no multiple of nodes = 2"),
        ({"ranks": 16, "nodes": 0}, "sft.nodes: must be at least 1, found 0"),
    ],
)
def test_ranks_that_nodes_cannot_share_are_refused(values: dict[str, int], wrong: str) -> None:
    smoke = yaml.safe_load((ROOT / "flows/configs/smoke.yaml").read_text())
    with pytest.raises(UserError, match=wrong):
        parse({**smoke, "sft": {**smoke["sft"], **values}}, "mine.yaml")


def test_nodes_are_no_part_of_what_is_trained() -> None:
    assert identity(Sft(ranks=16, nodes=2)) == identity(Sft(ranks=16))
    assert Grpo(ranks=16, nodes=2).ranks_a_node == 8


def test_a_node_finds_the_first_one_by_its_beat_and_not_by_the_file_of_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "EVERY", 0.01)
    said = {"id": "dead", "beat": 7}
    (tmp_path / nodes.FILE).write_text(json.dumps(said))
    with pytest.raises(nodes.NoFirstNode, match=r"did not start within 0\.?2? s|did not start within 0 s"):
        nodes._meet(tmp_path, 0.2, "sft")

    def comes() -> None:
        for beat in range(1, 4):
            time.sleep(0.05)
            nodes.write_json(tmp_path / nodes.FILE, {"id": "alive", "beat": beat})

    threading.Thread(target=comes).start()
    assert nodes._meet(tmp_path, 20, "sft").said["id"] == "alive"


def test_a_configuration_reads_as_the_store_lies_on_the_node(tmp_path: Path) -> None:
    there, here = Path("/there/store"), tmp_path
    values = {
        "model": "/there/store/merge/1",
        "dataset": ["/there/store/publish/2/sif.parquet", "/data/mine.parquet"],
        "work": "/there/store/sft/3.work",
        "settings": {"sft": {"ranks": 2}, "model": {"weights": "Qwen/Qwen2.5-VL-7B-Instruct"}},
        "near": "/there/store-of-another/4",
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    nodes._localize(tmp_path / "config.yaml", there, here, tmp_path / "mine.yaml")
    read = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert read["model"] == str(here / "merge/1")
    assert read["dataset"] == [str(here / "publish/2/sif.parquet"), "/data/mine.parquet"]
    assert read["settings"] == values["settings"]
    assert read["near"] == values["near"]


def test_the_first_node_notices_a_node_that_leaves_and_one_that_falls_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "LEAVE", 0.05)
    monkeypatch.setattr(nodes, "LOST", 0.2)
    for leaves in (True, False):
        with nodes.first(job(tmp_path), "some.module", sys.executable, Sft(ranks=2, nodes=2)) as first:
            assert (tmp_path / "sft/key.work" / nodes.FILE).exists()
            node = tmp_path / "sft/key.work/node-b-1.json"
            nodes.write_json(node, {"beat": 1})
            first.look()
            nodes.write_json(node, {"beat": 2})
            first.look()
            if leaves:
                node.unlink()
            time.sleep(0.25)
            with pytest.raises(following.ProgramFailed, match="node b-1 is lost"):
                for _ in range(10):
                    first.look()
                    time.sleep(0.05)
        assert not (tmp_path / "sft/key.work" / nodes.FILE).exists()


@pytest.mark.parametrize(
    ("configured", "runs"), [("", sys.executable), ("/opt/train/bin/python", "/opt/train/bin/python")]
)
def test_a_node_runs_its_own_interpreter_unless_one_is_configured(configured: str, runs: str) -> None:
    said: Any = {
        "id": "a",
        "endpoint": "10.0.0.1:29500",
        "nodes": 2,
        "ranks": 8,
        "root": "/store",
        "grace": 240.0,
        "wait": 60.0,
    }
    given = nodes.Rendezvous(module="sifthinker.training.sft", python=configured, **said)
    command = given.command(Path("/store/config.yaml"), first=True)
    assert command[0] == runs
    assert command[-3:] == ["-m", "sifthinker.training.sft", "/store/config.yaml"]
    assert {"--nnodes=2", "--nproc-per-node=8", "--rdzv-backend=c10d", "--local-addr=10.0.0.1"} <= set(
        command
    )
    assert "--rdzv-conf=is_host=true,join_timeout=60" in command
