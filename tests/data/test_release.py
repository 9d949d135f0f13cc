"""The data set given away: a folder with its card that readers take as it is, and its way to the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from sifthinker.config import Config
from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.data import card, publish, release
from sifthinker.data.features import FEATURES, PUBLISHED
from sifthinker.store.artifacts import Store
from sifthinker.store.runs import file as record_file
from tests import hub as stand_in
from tests.small_part import part

LFS = {"HF_HUB_DISABLE_XET": "1"}  # the stand-in speaks LFS, which the hub does too
SOURCE = {
    "name": "photos",
    "format": "viscot",
    "path": "/home/me/secret/photos.json",
    "images": "/home/me/pictures",
}


def config(**source: Any) -> dict[str, Any]:
    return Config.model_validate({"name": "mine", "sources": [{**SOURCE, **source}]}).model_dump(mode="json")


def store_with_a_data_set(root: Path, schema: Any = PUBLISHED, folder: str = "data", **source: Any) -> Store:
    """A store whose only run published three rows; `folder` "" and `tables.SIF` are how it was before."""
    store = Store(root)
    key = "a" * 20
    made = {"label": "publish", "name": "mine", "identity": {}, "inputs": {}, "versions": {}}
    with store.making("publish", key, made) as draft:
        (draft.out / folder).mkdir(exist_ok=True)
        for number in range(2):
            rows = part(root / f"photos{number}", (number + 1,)).rows()
            tables.write(
                draft.out / folder / f"sif-{number:05}.parquet", schema, rows, batch=publish.ROW_GROUP
            )
        tables.write(draft.out / "rejects.parquet", tables.REJECTS, [])
    ref = store.manifests("publish")[0]
    record = {
        "id": "1",
        "name": "mine",
        "started": 1.0,
        "state": "Completed",
        "config": config(**source),
        "stages": {"publish": {name: ref[name] for name in ("stage", "key", "digest")}},
    }
    store.record(record_file(store, "1"), record)
    return store


def sif(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=150,
    )


def _types(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(_types, value))
    if isinstance(value, dict):
        return ({value["_type"]} if "_type" in value else set()).union(*map(_types, value.values()))
    return set()


def test_the_features_have_no_type_that_older_readers_lack():
    assert _types(FEATURES) == {"Value", "Image", "Sequence"}
    assert FEATURES.keys() == set(tables.SIF.names)
    assert FEATURES["boxes"] == [
        {"feature": {"dtype": "float64", "_type": "Value"}, "length": 4, "_type": "Sequence"}
    ]


@pytest.mark.parametrize(
    ("schema", "folder"), [(PUBLISHED, "data"), (tables.SIF, "")], ids=["today's", "older"]
)
def test_the_parts_of_an_artifact_are_found_wherever_they_lie(tmp_path, schema, folder):
    store = store_with_a_data_set(tmp_path / "store", schema, folder)
    artifact = store.find("publish", "a" * 20)
    assert [path.name for path in artifact.parts("sif")] == ["sif-00000.parquet", "sif-00001.parquet"]
    assert artifact.part("sif", 1) == artifact.parts("sif")[1]
    assert len(set(artifact.part_digests("sif"))) == 2
    assert store.open(artifact.ref, part=1).part("sif", 1).is_file()


@pytest.mark.parametrize(
    ("schema", "folder"), [(PUBLISHED, "data"), (tables.SIF, "")], ids=["today's", "older"]
)
def test_a_plain_folder_opens_as_it_is_with_the_features_of_today(tmp_path, schema, folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    artifact = store_with_a_data_set(tmp_path / "store", schema, folder).find("publish", "a" * 20)
    parts = artifact.parts("sif")
    rl = parts[1]
    facts = card.Facts(config(), publish.statistics(parts), [])
    assert release.write_folder(parts, rl, facts, tmp_path / "out") == 3
    given = sorted((tmp_path / "out").glob("data/*.parquet"))
    assert [pq.read_schema(path).metadata for path in given] == [PUBLISHED.metadata] * 2
    assert [pq.read_table(path).num_rows for path in given] == [1, 2]
    assert list(publish.read(given)) == list(publish.read(parts))
    for name, rows in ((None, 3), ("rl", 2)):
        loaded = datasets.load_dataset(
            str(tmp_path / "out"), name, split="train", cache_dir=str(tmp_path / "cache")
        )
        assert loaded.num_rows == rows
        assert loaded[0]["image"].size == (64, 48)


def test_a_folder_that_failed_leaves_nothing_and_one_that_is_there_is_kept(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").touch()
    tables.write(tmp_path / "maps.parquet", tables.MAPS, [])
    facts = card.Facts(config(), publish.statistics([]), [])
    with pytest.raises(UserError, match="exists already"):
        release.write_folder([], None, facts, tmp_path / "there")
    with pytest.raises(UserError, match="not a SIF-50K file"):
        release.write_folder([tmp_path / "maps.parquet"], None, facts, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps.parquet", "there"]


def _card(tmp_path: Path, **source: Any) -> tuple[dict[str, Any], str]:
    parts = [part(tmp_path / "photos", (2, 1)).write(tmp_path / "part.parquet")]
    text = card.text(card.Facts(config(**source), publish.statistics(parts), []))
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    return card.read_head(tmp_path), text


def test_the_card_says_where_the_rows_come_from_and_names_no_folder_of_the_machine(tmp_path):
    head, text = _card(tmp_path, licence="cc-by-4.0")
    assert head["license"] == "cc-by-4.0"
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/sif-*.parquet"}]
    assert "| photos | 3 | viscot | photos.json | cc-by-4.0 |" in text
    assert "/home/me" not in text
    for column in tables.SIF.names:
        assert f"| {column} | " in text


@pytest.mark.parametrize(
    ("licence", "named"),
    [
        ("mit", "mit"),
        (None, None),
        ("research only, see flickr.com", "other"),
    ],  # no words where an id belongs
)
def test_a_licence_is_named_where_the_configuration_says_it(tmp_path, licence, named):
    head, text = _card(tmp_path, licence=licence)
    assert head.get("license") == named
    assert ("not stated" in text) == (licence is None)


def test_two_licences_are_other_and_one_unknown_leaves_the_whole_unknown():
    two = config(licence="mit")
    two["sources"] += [{**two["sources"][0], "name": "more", "licence": "cc-by-4.0"}]
    assert card.licence(two) == "other"
    two["sources"][1]["licence"] = None
    assert card.licence(two) == ""
    assert card.licence({"name": "demo", "scenes": {"rows": 2}, "sources": []}) == card.RENDERED


def test_a_card_without_a_head_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no card"):
        card.read_head(tmp_path)
    (tmp_path / "README.md").write_text("# Mine\n")
    with pytest.raises(UserError, match="begins with no YAML head"):
        card.read_head(tmp_path)
    (tmp_path / "README.md").write_text("---\na: [\n---\n")
    with pytest.raises(UserError, match="is no YAML"):
        card.read_head(tmp_path)
    (tmp_path / "README.md").write_bytes("---\nlicense: für alle\n---\n".encode("latin-1"))
    with pytest.raises(UserError, match="line 2: not UTF-8 text"):
        card.read_head(tmp_path)


@pytest.fixture
def pushing(tmp_path):
    """A store, a hub, and the command that pushes the one to the other."""
    pytest.importorskip("huggingface_hub")
    store = store_with_a_data_set(tmp_path / "store", licence="cc-by-4.0")
    with stand_in.serving() as hub:

        def push(*arguments: str, token: str = stand_in.TOKEN) -> subprocess.CompletedProcess[str]:
            named = [] if "--to" in arguments else ["--to", "me/sif"]
            environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HOME": str(tmp_path / "hf"), **LFS}
            return sif("push", *named, "--store", str(store.root), *arguments, **environment)

        yield hub, push


@pytest.mark.e2e
def test_a_push_makes_a_private_repository_with_card_and_rows(pushing):
    hub, push = pushing
    done = push()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 rows of run mine" in done.stdout
    repository = hub.repositories["me/sif"]
    assert repository["private"] is True
    assert set(repository["files"]) == {
        "README.md", "statistics.json", "data/sif-00000.parquet", "data/sif-00001.parquet"
    }  # fmt: skip
    assert yaml.safe_load(repository["files"]["README.md"].split(b"---")[1])["license"] == "cc-by-4.0"
    assert json.loads(repository["files"]["statistics.json"])["rows"] == 3
    assert stand_in.TOKEN not in done.stdout + done.stderr
    again = push()
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(hub.uploads) == 2, "nothing is sent twice"


@pytest.mark.e2e
def test_a_push_that_was_cut_short_is_resumed(pushing):
    hub, push = pushing
    hub.breaks_after = 1
    done = push()
    assert done.returncode == 2, done.stdout + done.stderr
    assert "the same command resumes it" in done.stderr
    assert "Traceback" not in done.stderr
    assert hub.repositories["me/sif"]["files"] == {}, "no half of a data set"
    hub.breaks_after = None
    done = push()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(hub.uploads) == len(set(hub.uploads)) == 2


@pytest.mark.e2e
def test_what_a_push_refuses(pushing, tmp_path):
    hub, push = pushing
    for arguments, token, said in (
        (("--to", "mine"), stand_in.TOKEN, "neither owner/name of the hub nor a folder"),
        ((), "", "HF_TOKEN is not set"),
        ((), "hf_wrong", "the hub refuses the token of HF_TOKEN"),
        (("--run", "other"), stand_in.TOKEN, "no run other"),
    ):
        done = push(*arguments, token=token)
        assert done.returncode == 2, (arguments, done.stdout + done.stderr)
        assert said in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
    assert not hub.repositories
    hub.repositories["me/sif"] = {"private": False, "files": {}}
    done = push()
    assert done.returncode == 2
    assert "is public already" in done.stderr
    assert push("--public").returncode == 0


@pytest.mark.e2e
def test_a_push_without_a_licence_is_refused_before_the_hub_is_asked(tmp_path):
    store = store_with_a_data_set(tmp_path / "store")
    with stand_in.serving() as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": stand_in.TOKEN, **LFS}
        done = sif("push", "--to", "me/sif", "--store", str(store.root), **environment)
        assert done.returncode == 2
        assert "names no licence" in done.stderr
        assert not hub.requests
        done = sif("push", "--to", "me/sif", "--store", str(store.root), "--licence", "mit", **environment)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.e2e
def test_export_works_without_the_subset_and_says_so(tmp_path):
    store = store_with_a_data_set(tmp_path / "store")
    done = sif("export", str(tmp_path / "out"), "--store", str(store.root), "--absolute")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIF-50K.json: 3 rows" in done.stdout
    assert "SIF-50K-sampled-200.json: left out" in done.stdout
    records = json.loads((tmp_path / "out" / "SIF-50K.json").read_text())
    assert all(
        Path(name).is_file() and name.startswith(str(tmp_path)) for r in records for name in r["images"]
    )
