"""`sif data`: what is there, missing or broken, and why."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.commands.main import app
from sifthinker import scenes
from sifthinker.config import Config, Scenes, layers, load, parse
from sifthinker.core.publications import Publication
from sifthinker.data.sources import SOURCES
from sifthinker.data.sources import published as of_sources
from sifthinker.evaluation.benchmarks import BENCHMARKS
from sifthinker.evaluation.benchmarks import published as of_benchmarks
from sifthinker.models import published as of_weights
from sifthinker.upkeep.inputs import broken
from sifthinker.upkeep.inputs.states import State
from sifthinker.upkeep.inputs.wanted import inputs


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    scenes.write(folder, Scenes(rows=8, benchmark_rows=4, benchmarks=("vstar", "refcoco", "spatialbench")))
    return folder


@pytest.fixture
def data(rendered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rendered, tmp_path / "data"))


def state(**fields: Any) -> State:
    config: Config = parse(
        {"scenes": {}, "model": {"weights": "tiny"}, "depth": {"weights": "tiny"}, **fields}, "test"
    )
    [found] = [i for i in inputs(config) if i.kind != "weights" and i.state.verdict != "not configured"]
    return found.state


def source(data: Path, **other: Any) -> State:
    values = {
        "name": "mine",
        "format": "viscot",
        "path": data / "viscot.json",
        "images": data / "images",
        **other,
    }
    return state(sources=[{k: str(v) if isinstance(v, Path) else v for k, v in values.items()}])


def bench(name: str, path: Path, images: Path, **other: Any) -> State:
    values = {"name": name, "path": str(path), "images": str(images), **other}
    return state(evaluate={"benchmarks": [values]})


# --- sources -----------------------------------------------------------------------------------------------


def test_a_source_that_can_be_read_is_there(data: Path) -> None:
    assert source(data).verdict == "there"
    assert source(data, format="tallyqa", path=data / "tallyqa.json").verdict == "there"


def _empty(data: Path) -> None:
    (data / "viscot.json").write_bytes(b"")


def _cut(data: Path) -> None:
    file = data / "viscot.json"
    file.write_bytes(file.read_bytes()[:-40])


def _no_pictures(data: Path) -> None:
    shutil.rmtree(data / "images")


def _root_one_deeper(data: Path) -> None:
    shutil.move(data / "images", data / "pictures")
    (data / "images").mkdir()
    shutil.move(data / "pictures", data / "images" / "images")


def _some_gone(data: Path) -> None:
    picture = sorted(path for path in (data / "images").rglob("*") if path.is_file())[0]
    picture.unlink()


def _link_out(data: Path) -> None:
    """The first place of a picture is a link that leaves the folder, at which ingest stops; the second has the picture."""
    row = json.loads((data / "viscot.json").read_text())[0]
    place = data / "images" / row["image"][0].removeprefix("cot/")
    place.rename(data / "images" / place.name)
    place.symlink_to(data / "viscot.json")


def _link_to_nothing(data: Path) -> None:
    (data / "viscot.json").unlink()
    (data / "viscot.json").symlink_to("../../blobs/gone")


@pytest.mark.parametrize(
    ("harm", "verdict", "said"),
    [
        (lambda data: (data / "viscot.json").unlink(), "missing", "viscot.json does not exist"),
        (_empty, "broken", "viscot.json is empty; fetch it again"),
        (_cut, "broken", "begins as a list and does not end as one: cut off"),
        (_no_pictures, "missing", "images does not exist"),
        (_root_one_deeper, "broken", "it holds images; set images to the folder that these names start in"),
        (_some_gone, "broken", "pictures that were looked up are not in"),
        (_link_out, "broken", "pictures that were looked up are not in"),
        (_link_to_nothing, "broken", "is a link to ../../blobs/gone, which is gone"),
    ],
)
def test_what_is_wrong_with_a_source_is_said(data: Path, harm: Any, verdict: str, said: str) -> None:
    harm(data)
    found = source(data)
    assert found.verdict == verdict and said in found.found


def test_rows_of_another_format_are_told_by_their_reason(data: Path) -> None:
    found = source(data, format="tallyqa")
    assert (
        found.verdict == "broken" and "none of the first" in found.found and "For example row" in found.found
    )


def test_tallyqa_without_boxes_is_told_before_a_run(data: Path) -> None:
    file = data / "original.json"
    row = {"question": "How many cups?", "answer": 2, "image": "VG_100K/1.jpg", "question_id": 7}
    file.write_text(json.dumps([row]))
    found = source(data, format="tallyqa", path=file)
    assert found.verdict == "broken" and "no-box 1" in found.found


def test_a_file_of_ones_own_is_not_taken_for_the_published_one(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    Path("c.yaml").write_text(
        "extends: demo\nscenes: null\nsources: [{name: mine, format: viscot, path: viscot.json, images: images}]\n"
    )
    shown = CliRunner().invoke(app, ["data", "--config", "c.yaml", "mine"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "your own file of the format viscot; published are viscot_363k.json of https://" in shown.output
    assert "GB" not in shown.output


# --- benchmarks --------------------------------------------------------------------------------------------


def test_a_benchmark_that_can_be_asked_is_there(data: Path) -> None:
    assert bench("vstar", data / "vstar", data / "vstar").verdict == "there"


def test_the_folder_of_snapshot_download_is_read(data: Path, tmp_path: Path) -> None:
    """Files of the hub's cache are links into `blobs`."""
    snapshot, blobs = tmp_path / "hub/datasets--a--b/snapshots/0f", tmp_path / "hub/datasets--a--b/blobs"
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in (data / "vstar").rglob("*") if path.is_file())):
        shutil.copy(file, blobs / str(number))
        link = snapshot / file.relative_to(data / "vstar")
        link.parent.mkdir(parents=True, exist_ok=True)
        up = "/".join([".."] * (len(link.relative_to(snapshot).parts) + 1))
        link.symlink_to(f"{up}/blobs/{number}")
    assert bench("vstar", snapshot, snapshot).verdict == "there"
    for blob in blobs.iterdir():
        blob.unlink()
    found = bench("vstar", snapshot, snapshot)
    assert found.verdict == "broken" and "which is gone; fetch it again" in found.found


def test_what_is_wrong_with_a_benchmark_is_said(data: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert bench("vstar", nowhere, nowhere).verdict == "missing"
    found = bench("spatialbench", data / "spatialbench", data / "spatialbench", split="sise")
    assert found.verdict == "broken" and "no split sise; known: positional" in found.found
    (tmp_path / "SAT").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "SAT" / "SAT_static.parquet")
    whole = (tmp_path / "SAT" / "SAT_static.parquet").read_bytes()
    (tmp_path / "SAT" / "SAT_static.parquet").write_bytes(whole[:-9])
    found = bench("sat", tmp_path / "SAT", tmp_path / "SAT")
    assert found.verdict == "broken" and "is no whole Parquet file" in found.found
    lines = (data / "vstar" / "test_questions.jsonl").read_text()
    (data / "vstar" / "test_questions.jsonl").write_text(lines.rstrip()[:-30])
    found = bench("vstar", data / "vstar", data / "vstar")
    assert found.verdict == "broken" and "cut off" in found.found


def test_an_archive_that_was_not_unpacked_is_seen_and_a_cut_one_too(tmp_path: Path) -> None:
    folder = tmp_path / "OVDEval"
    folder.mkdir()
    with tarfile.open(folder / "logo.tar.gz", "w:gz") as made:
        (tmp_path / "a").write_bytes(bytes(range(256)) * 2000)
        made.add(tmp_path / "a")
    found = bench("ovdeval", folder, tmp_path / "gone")
    assert found.verdict == "missing" and "unpack logo.tar.gz" in found.found
    whole = (folder / "logo.tar.gz").read_bytes()
    (folder / "logo.tar.gz").write_bytes(whole[: len(whole) // 2])
    assert "logo.tar.gz is cut off or no archive" in bench("ovdeval", folder, tmp_path / "gone").found


def test_archives_of_each_kind_are_told_whole_from_cut(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr("a", bytes(1000))
    assert broken.archive(tmp_path / "a.zip") == ""
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-10])
    assert "cut off" in broken.archive(tmp_path / "a.zip")
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(b"no tar at all"))
    assert "no archive" in broken.archive(tmp_path / "b.tar.gz")


# --- the tables --------------------------------------------------------------------------------------------


def publications() -> list[tuple[str, Publication]]:
    tables = (of_sources.PUBLICATIONS, of_benchmarks.PUBLICATIONS, of_weights.PUBLICATIONS)
    return [pair for table in tables for pair in table.items()]


def test_every_benchmark_of_the_paper_has_a_record_and_no_record_has_no_benchmark() -> None:
    assert set(of_benchmarks.PUBLICATIONS) == set(BENCHMARKS) - {"sif"}
    assert set(of_sources.PUBLICATIONS) <= set(SOURCES)


def test_messages_and_records_name_the_same_addresses() -> None:
    for name, publication in of_benchmarks.PUBLICATIONS.items():
        said = BENCHMARKS[name].published
        for part in (part for way in publication.ways for part in way.parts):
            assert part.where in said or part.where.rpartition("/")[2] in said, (
                f"{name}: {part.where} is not in {said}"
            )


@pytest.mark.parametrize(("name", "publication"), publications())
def test_a_record_says_what_a_person_needs(name: str, publication: Publication) -> None:
    assert publication.licence and publication.ways
    assert len({way.name for way in publication.ways}) == len(publication.ways)
    for part in (part for way in publication.ways for part in way.parts):
        assert part.what
        assert part.files or not part.fetchable, "never a whole repository"
        assert part.steps or part.fetchable, "what cannot be fetched has its steps"
        assert part.size is None or part.size > 1e6
        assert part.address.startswith("http")


def test_the_papers_configuration_on_an_empty_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["data", "--config", "paper", "--json"])
    assert shown.exit_code == 1, shown.output
    found = json.loads(shown.output)
    paper = load(layers.named("paper"))
    wanted = (
        [s.name for s in paper.sources] + ["policy", "depth"] + [b.name for b in paper.evaluate.benchmarks]
    )
    assert [item["name"] for item in found] == wanted
    assert {item["state"] for item in found} <= {"missing", "there"}  # weights may be in this machine's cache
    for item in found:
        assert item["licence"] and all(
            part["address"] and part["goes"] for way in item["ways"] for part in way["parts"]
        )
    assert not list(tmp_path.iterdir()), "a look makes nothing"
    listed = CliRunner().invoke(app, ["data", "--config", "paper"], env={"COLUMNS": "300"})
    assert listed.exit_code == 1
    for said in (
        "138.8 GB",
        "Apache-2.0",
        "data/cot_images_tar_split",
        "gated",
        "by hand",
        "sif data --get NAME",
    ):
        assert said in listed.output


def test_benchmarks_of_the_paper_that_are_not_configured_are_listed_as_such(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["data", "--config", "demo", "--json"])
    assert shown.exit_code == 0, shown.output  # rendered scenes and miniatures: nothing is missing
    states = {item["name"]: item["state"] for item in json.loads(shown.output)}
    assert {name for name, said in states.items() if said == "not configured"} == set(
        of_benchmarks.PUBLICATIONS
    )
