"""The lineage of an artifact: the whole chain, gaps included, as a tree and as a picture."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.commands.main import app
from sifthinker.core.errors import UserError
from sifthinker.reporting import lineage_picture
from sifthinker.store import lineage
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref


def put(store: Store, stage: str, key: str, file: str = "data.parquet", toy: str = "", **inputs: Ref) -> Ref:
    manifest = {
        "label": stage.replace("_", "-"),
        "name": "test",
        "identity": {"code": {"sifthinker.x": key}, "files": {} if inputs else {"source.path": "f" * 64}},
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "inputs": {role: ref.model_dump() for role, ref in inputs.items()},
    }
    with store.making(stage, key, manifest) as draft:
        (draft.out / file).write_text(key)
        draft.rows = {"in": 5, "kept": 3, "rejected": {"no-box": 2}}
        draft.notes = {"toy": toy} if toy else {}
    found = store.find(stage, key)
    assert found
    return found.ref


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def model(store: Store) -> Ref:
    """ingest -> publish -> sft -> merge, with weights that sft and merge both take."""
    base = put(store, "policy_weights", "b0" * 10, "model.safetensors", toy="tiny")
    samples = put(store, "ingest", "a0" * 10)
    sif = put(store, "publish", "c0" * 10, samples=samples)
    warm = put(store, "sft", "d0" * 10, "adapter.safetensors", base=base, sif=sif)
    return put(store, "merge", "e0" * 10, "model.safetensors", base=base, adapter=warm)


def test_the_chain_is_whole_and_each_stands_before_what_it_was_made_from(store: Store, model: Ref) -> None:
    nodes = lineage.trace(store.manifest, model)
    stages = [name.partition("/")[0] for name in nodes]
    assert stages[0] == "merge"
    assert sorted(stages) == ["ingest", "merge", "policy_weights", "publish", "sft"]
    for number, node in enumerate(nodes.values()):
        assert all(list(nodes).index(of) > number for _, of in node.inputs)
    assert [node.is_model for node in nodes.values()] == [
        stage in ("merge", "sft", "policy_weights") for stage in stages
    ]


def test_the_tree_shows_an_artifact_once_and_names_the_users_files(store: Store, model: Ref) -> None:
    lines = [line for line, _ in lineage.tree(lineage.trace(store.manifest, model))]
    assert lines == [
        "merge e0e0e0e0e0",
        "├─ base: policy-weights b0b0b0b0b0",
        "│  └─ file source.path: ffffffffff",
        "└─ adapter: sft d0d0d0d0d0",
        "   ├─ base: policy-weights b0b0b0b0b0 (above)",
        "   └─ sif: publish c0c0c0c0c0",
        "      └─ samples: ingest a0a0a0a0a0",
        "         └─ file source.path: ffffffffff",
    ]


def test_what_is_gone_is_a_gap_that_keeps_its_digest(store: Store, model: Ref) -> None:
    (store.folder("sft", "d0" * 10) / "manifest.json").write_text("not json")
    store.discard("publish", "c0" * 10)
    nodes = lineage.trace(store.manifest, model)
    assert [node.label for node in nodes.values()] == ["merge", "policy-weights", "sft"]
    gone = nodes[f"sft/{'d0' * 10}"]
    assert gone.made == "gone from the store" and len(gone.digest) == 64
    assert "gone from the store" in lineage.table(nodes)
    assert lineage_picture.picture(nodes)


def test_the_table_says_when_with_what_and_what_was_not_the_real_thing(store: Store, model: Ref) -> None:
    text = lineage.table(lineage.trace(store.manifest, model))
    row = next(line for line in text.splitlines() if "policy-weights**" in line)
    for expected in ("UTC", "5 in, 3 kept, 2 rejected", "torch 2.13.0", "random toy"):
        assert expected in row
    assert "| policy-weights, sft |" in text, "what the model was made from"


def test_no_line_of_the_picture_crosses_a_box(store: Store, model: Ref) -> None:
    nodes = lineage.trace(store.manifest, model)
    layers, links = lineage_picture._layers(nodes)
    at = {name: number for number, layer in enumerate(layers) for name in layer}
    assert all(at[lower] == at[upper] + 1 for upper, lower in links), "a line goes from layer to layer"
    assert sorted(name for layer in layers for name in layer if name in nodes) == sorted(nodes)
    assert layers[-1] == [f"merge/{model.key}"]


def test_the_picture_is_drawn_alike_twice(store: Store, model: Ref) -> None:
    nodes = lineage.trace(store.manifest, model)
    drawn = lineage_picture.picture(nodes)
    assert drawn == lineage_picture.picture(nodes)
    with Image.open(io.BytesIO(drawn)) as picture:
        assert picture.width >= lineage_picture.WIDTH and picture.height >= 4 * lineage_picture.HEIGHT


def test_an_artifact_is_named_by_the_beginning_of_its_key(store: Store, model: Ref) -> None:
    assert lineage.named(store, "merge/e0e0") == model
    assert lineage.named(store, "latest") is None
    put(store, "merge", "e0" * 9 + "ff")
    with pytest.raises(UserError, match="write more of it"):
        lineage.named(store, "merge/e0e0")
    with pytest.raises(UserError, match="not in the store"):
        lineage.named(store, "merge/0123")


def test_the_command_prints_the_tree_and_draws_the_picture(
    store: Store, model: Ref, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "PREFECT_HOME",
        "PREFECT_API_URL",
        "PREFECT_LOGGING_EXTRA_LOGGERS",
        "PREFECT_CLIENT_MAX_RETRIES",
    ):
        monkeypatch.setenv(name, "1" if name.endswith("RETRIES") else str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    out = tmp_path / "lineage.png"
    done = CliRunner().invoke(app, ["lineage", "merge/e0", "--store", str(store.root), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "adapter: sft d0d0d0d0d0" in done.output and "5 in, 3 kept" in done.output
    with Image.open(out) as picture:
        assert picture.format == "PNG"


def test_the_lineage_shown_is_that_of_the_last_model_that_a_run_made() -> None:
    from sifthinker.store.runs import final

    refs = {
        label: Ref(stage="s", key=label, digest="d") for label in ("policy-weights", "merge-sft", "evaluate")
    }
    assert final(refs) == refs["merge-sft"]
    data = {label: Ref(stage="s", key=label, digest="d") for label in ("policy-weights", "ingest", "publish")}
    assert final(data) == data["publish"]
    assert final({}) is None
