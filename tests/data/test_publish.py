import dataclasses
import hashlib
import io
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from sifthinker.core import depth_maps, tables
from sifthinker.core.errors import UserError
from sifthinker.core.images import ImageLibrary
from sifthinker.core.records import Reject
from sifthinker.data import publish
from sifthinker.data.features import PUBLISHED
from sifthinker.system.cores import Workers
from tests.small_part import BOX, part


def test_every_chain_becomes_a_row_with_the_files_own_bytes(tmp_path):
    made = part(tmp_path / "images", (2, 1))
    rows = made.rows()
    assert [row["id"] for row in rows] == [chain.id for chain in made.chains]
    for row, source in zip(rows, made.samples, strict=True):
        assert row["image"]["bytes"] == (tmp_path / "images" / source.image).read_bytes()
        assert row["image"]["path"] == Path(source.image).name, "no folder in the data set"
        assert row["depth_image"]["path"] == f"{Path(source.image).stem}_d.png"
        picture = Image.open(io.BytesIO(row["depth_image"]["bytes"])).convert("RGB")
        rendered = depth_maps.render(depth_maps.decode_bytes(row["depth_map"]))
        assert picture.tobytes() == rendered.tobytes()
        assert row["boxes"] == (BOX,)


def test_a_sample_without_chain_is_not_counted_again(tmp_path):
    made = part(tmp_path, (2, 1))
    made.chains = made.chains[:1]
    assert [row["id"] for row in made.rows()] == [made.chains[0].id]


def test_chains_in_are_rows_kept_and_rejected(tmp_path):
    made = part(tmp_path, (2, 1))
    lost = made.samples.pop(0)  # a chain of an unknown sample
    made.maps.pop(1)  # an image without a map
    out = made.rows()
    rejects = {reject.id: reject.reason for reject in out if isinstance(reject, Reject)}
    assert rejects == {lost.id: "sample-missing", "photos/gqa/1.0": "depth-missing"}
    assert len(out) == len(made.chains)


def test_maps_that_no_chain_asks_for_are_passed_over(tmp_path):
    made = part(tmp_path, (1, 1))
    made.chains.pop(1)
    (tmp_path / made.samples[1].image).unlink()  # not even opened
    assert len(made.rows()) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(path.read_bytes() + b" "),  # other bytes, still a picture
        lambda path: path.write_bytes(b"no picture"),
        lambda path: path.unlink(),
    ],
)
def test_an_image_that_changed_since_ingest_is_an_error_that_names_it(tmp_path, change):
    made = part(tmp_path, (1,))
    change(tmp_path / made.samples[0].image)
    with pytest.raises(UserError, match=r"deep/gqa 0\.jpg of photos/gqa/0\.0 changed since ingest"):
        made.rows()


def test_a_source_without_image_folder_is_an_error(tmp_path):
    made = part(tmp_path, (1,))
    made.images = {"other": tmp_path}
    with pytest.raises(UserError, match=r"sources\.photos\.images: .*give the image folder"):
        made.rows()


def parts(folder: Path, count: int, out: str) -> list[publish.Part]:
    """The tables of so many parts, in each a chain without a sample, as the stages before publish write them."""
    made = []
    (folder / out).mkdir(parents=True)
    for number in range(count):
        images = folder / "images" / str(number)
        of = part(images, (2, 1, number + 1))
        of.samples.pop(number)
        tables.write(folder / f"samples-{number}.parquet", tables.SAMPLES, of.samples)
        tables.write(folder / f"chains-{number}.parquet", tables.CHAINS, of.chains)
        tables.write(folder / f"maps-{number}.parquet", tables.MAPS, of.maps)
        files = [folder / f"{name}-{number}.parquet" for name in ("samples", "chains", "maps")]
        library = ImageLibrary({"photos": images}, 1_000_000)
        made.append(publish.Part(*files, folder / out / f"{number}.parquet", library))
    return made


def test_a_part_is_written_as_its_rows_are_and_counts_every_chain(tmp_path):
    (only,) = parts(tmp_path, 1, "out")
    found = publish.write_part(only)
    assert (found.read, found.kept, [reject.reason for reject in found.rejects]) == (4, 3, ["sample-missing"])
    of = part(tmp_path / "again", (2, 1, 1))
    of.samples.pop(0)
    rows = [row for row in of.rows() if not isinstance(row, Reject)]
    tables.write(tmp_path / "rows.parquet", PUBLISHED, rows, batch=publish.ROW_GROUP)
    assert only.out.read_bytes() == (tmp_path / "rows.parquet").read_bytes()


@pytest.mark.e2e
def test_two_processes_write_the_parts_of_one(tmp_path):
    one = [publish.write_part(each) for each in parts(tmp_path, 4, "one")]
    with Workers(2, patience=0) as workers:
        two = list(workers.map(publish.write_part, parts(tmp_path, 4, "two")))
    assert one == two
    for number in range(4):
        name = f"{number}.parquet"
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.e2e
def test_a_changed_image_is_the_same_error_in_two_processes(tmp_path):
    made = parts(tmp_path, 3, "out")
    (tmp_path / "images" / "1" / "deep" / "gqa 2.jpg").unlink()
    said = "deep/gqa 2.jpg of photos/gqa/2.0 changed since ingest"
    for count in (1, 2):
        with pytest.raises(UserError, match=said), Workers(count, patience=0) as workers:
            list(workers.map(publish.write_part, made))


def test_processes_are_for_what_lasts(tmp_path, monkeypatch):
    made = parts(tmp_path, 2, "out")
    assert not publish.lasts(made)
    monkeypatch.setattr(publish, "_MANY", 8)
    assert publish.lasts(made)


def test_datasets_opens_the_file_and_shows_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    path = part(tmp_path / "images", (2, 1)).write(tmp_path / "part.parquet")
    rows = datasets.load_dataset(
        "parquet", data_files=str(path), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert len(rows) == 3
    assert isinstance(rows.features["image"], datasets.Image)
    assert rows[0]["image"].size == rows[0]["depth_image"].size == (64, 48)
    assert rows[0]["image"].mode == rows[0]["depth_image"].mode == "RGB"
    assert depth_maps.decode_bytes(rows[0]["depth_map"]).shape == (48, 64)
    assert rows[0]["steps"][1][0]["box"] == list(BOX)


def _parts(folder: Path, sizes: dict[str, int], reverse: bool = False) -> list[Path]:
    """Files with `sizes[data set]` light rows each."""
    made = part(folder / "images", (1,))
    row = made.rows()[0]
    paths = []
    for dataset, size in sorted(sizes.items(), reverse=reverse):
        rows = [{**row, "id": f"{dataset}/{n}", "dataset": dataset} for n in range(size)]
        paths.append(folder / f"{dataset}.parquet")
        tables.write(paths[-1], tables.SIF, rows[::-1] if reverse else rows, batch=publish.ROW_GROUP)
    return paths


@pytest.mark.parametrize(
    ("sizes", "n", "expected"),
    [
        ({"a": 60, "b": 30, "c": 10}, 10, {"a": 6, "b": 3, "c": 1}),  # exact shares
        ({"a": 5, "b": 3, "c": 2}, 4, {"a": 2, "b": 1, "c": 1}),  # 2.0 1.2 0.8: c has the largest remainder
        ({"a": 1, "b": 1, "c": 1}, 2, {"a": 1, "b": 1}),  # all tie at 2/3: by name
        ({"a": 99, "b": 1}, 10, {"a": 10}),  # 9.9 0.1: proportion, no least share
        ({"a": 2, "b": 1}, 3, {"a": 2, "b": 1}),  # all of them
        ({"a": 2, "b": 1}, 200, {"a": 2, "b": 1}),  # fewer than asked for
        ({}, 5, {}),  # nothing
    ],
)
def test_the_subset_is_stratified_by_largest_remainder(tmp_path, sizes, n, expected):
    ids = publish.subset(_parts(tmp_path, sizes), n, seed=0)
    assert Counter(id.split("/")[0] for id in ids) == expected
    assert len(set(ids)) == len(ids)


def test_the_subset_depends_on_the_seed_and_not_on_the_order_of_rows_or_parts(tmp_path):
    sizes = {"a": 40, "b": 25}
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    forward, backward = _parts(tmp_path / "x", sizes), _parts(tmp_path / "y", sizes, reverse=True)
    assert publish.subset(forward, 13, seed=0) == publish.subset(backward, 13, seed=0)
    assert publish.subset(forward, 13, seed=0) != publish.subset(forward, 13, seed=1)


def test_the_subset_is_the_first_of_each_data_set_by_hash(tmp_path):
    parts = _parts(tmp_path, {"a": 40, "b": 25})

    def order(id):
        return hashlib.sha256(f"3\n{id}".encode()).digest()

    first = [sorted((f"{name}/{i}" for i in range(of)), key=order) for name, of in (("a", 40), ("b", 25))]
    expected = sorted(first[0][:8] + first[1][:5], key=order)  # 13 of 65: a fifth of each
    assert publish.subset(parts, 13, seed=3) == expected


def test_too_few_rows_are_noted(tmp_path, caplog):
    publish.subset(_parts(tmp_path, {"a": 3}), 200, seed=0)
    assert "takes all there are: 3" in caplog.text


def test_the_subset_file_holds_whole_rows_of_the_ids(tmp_path):
    parts = _parts(tmp_path, {"a": 70, "b": 5})  # a has two row groups
    assert publish.write_subset(parts, ["b/4", "a/69"], tmp_path / "rl.parquet") == 2
    rows = list(publish.read([tmp_path / "rl.parquet"]))
    assert [row["id"] for row in rows] == ["a/69", "b/4"]
    assert rows[0] == next(publish.read(parts, ["a/69"]))


def test_a_parquet_file_of_another_kind_is_an_error(tmp_path):
    made = part(tmp_path / "images", (1,))
    tables.write(tmp_path / "samples.parquet", tables.SAMPLES, made.samples)
    with pytest.raises(UserError, match=r"samples\.parquet: not a SIF-50K file, it lacks the columns"):
        list(publish.read([tmp_path / "samples.parquet"]))


def test_statistics_count_rows_steps_boxes_depths_and_tokens(tmp_path):
    made = part(tmp_path / "images", (2, 1), dataset="tallyqa", answer="2")
    made.chains[0] = dataclasses.replace(made.chains[0], attempts=3)
    found = publish.statistics([made.write(tmp_path / "part.parquet")])
    assert found["rows"] == 3
    assert found["dataset"] == {"tallyqa": 3}
    assert found["answers"] == {"number": 3}
    assert found["attempts"] == {"1": 2, "3": 1}
    assert found["chain_steps"] == {"2": 3}
    assert found["boxes_per_step"] == {"1": 6}
    assert found["truth_boxes"] == {"1": 3}
    assert (found["prompt_tokens"], found["completion_tokens"]) == (300, 60)
    assert sum(found["depths"]) == 6


def test_statistics_of_no_rows_are_zero():
    assert publish.statistics([])["rows"] == 0


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("Yes.", "yes/no"),
        ("4", "number"),
        ("a red car", "short"),
        ("The girl wears a red coat.", "sentence"),
    ],
)
def test_answers_have_a_kind(answer, kind):
    assert publish.answer_type(answer) == kind
