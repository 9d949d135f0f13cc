import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sifthinker.core import chain, prompts, tables
from sifthinker.core.errors import UserError
from sifthinker.core.records import WHOLE
from sifthinker.data import export
from tests.small_part import BOX, part


def _export(tmp_path, **kwargs):
    file = part(tmp_path / "photos", **kwargs).write(tmp_path / "part.parquet")
    written = export.export([file], file, tmp_path / "out")
    return tmp_path / "out", json.loads((tmp_path / "out" / export.SFT_FILE).read_text("utf-8")), written


def test_records_have_the_keys_of_the_release(tmp_path):
    out, records, written = _export(tmp_path)
    assert written == {export.SFT_FILE: 3, export.RL_FILE: 3}
    assert list(records[0]) == [
        "dataset",
        "image",
        "depth_image",
        "problem",
        "normalized_solution_round",
        "response",
        "messages",
        "images",
    ]
    assert records[0]["normalized_solution_round"] == {"bbox_3d": [list(BOX)], "illegal_content": False}
    assert records[0]["images"] == [records[0]["image"], records[0]["depth_image"]]
    assert sorted(path.name for path in out.iterdir()) == [
        "SIF-50K-sampled-200.json",
        "SIF-50K.json",
        "dataset_info.json",
        "images",
    ]


def test_pictures_lie_where_the_records_say_with_the_depth_beside(tmp_path):
    out, records, _ = _export(tmp_path)
    for record in records:
        photo, depth = out / record["image"], out / record["depth_image"]
        assert depth == photo.with_name(f"{photo.stem}_d.png")
        assert " " not in record["image"]
        assert Image.open(io.BytesIO(photo.read_bytes())).size == Image.open(depth).size == (64, 48)
    assert len({record["image"] for record in records}) == 2, "two questions share an image"


def test_the_user_turn_is_the_prompt_of_our_own_sft(tmp_path):
    _, records, _ = _export(tmp_path, question="Wo ist die Straße?")
    expected = f"Original image: <image>\nDepth image: <image>\nWo ist die Straße?{prompts.THINK_SUFFIX}"
    assert records[0]["messages"][0] == {"content": expected, "role": "user"}
    [turn] = prompts.policy_messages("Wo ist die Straße?")
    assert expected == "".join(part.get("text", "<image>") for part in turn["content"])


def test_the_assistant_turn_is_the_chain(tmp_path):
    _, records, _ = _export(tmp_path)
    turn = records[0]["messages"][1]
    assert turn["role"] == "assistant"
    parsed = chain.parse(turn["content"])
    assert [step.regions[0].box for step in parsed.steps] == [WHOLE, BOX]
    assert parsed.answer == records[0]["response"]


@pytest.mark.parametrize(
    ("answer", "response"),
    [
        ("4", 4),  # TallyQA's are numbers in the release
        ("0", 0),
        ("04", "04"),  # no number that would read the same again
        ("-1", "-1"),
        ("²", "²"),  # a digit to Python, not to int()
        ("9" * 5000, "9" * 5000),  # no count of anything
        ("4 cats", "4 cats"),
    ],
)
def test_counts_are_numbers_for_rl_and_all_answers_text_otherwise(tmp_path, answer, response):
    out, records, _ = _export(tmp_path, per_image=(1,), answer=answer)
    assert records[0]["response"] == answer, "Arrow, which reads the whole data set, wants one type"
    [record] = json.loads((out / export.RL_FILE).read_text("utf-8"))
    assert record["response"] == response
    assert type(record["response"]) is type(response)


def test_without_a_subset_there_is_no_file_for_rl(tmp_path):
    file = part(tmp_path / "photos").write(tmp_path / "part.parquet")
    assert export.export([file], None, tmp_path / "out") == {export.SFT_FILE: 3}
    assert not (tmp_path / "out" / export.RL_FILE).exists()


def test_paths_can_be_whole(tmp_path, monkeypatch):
    file = part(tmp_path / "photos").write(tmp_path / "part.parquet")
    monkeypatch.chdir(tmp_path)
    export.export([file], file, Path("out"), absolute=True)
    for name in (export.SFT_FILE, export.RL_FILE):
        for record in json.loads((tmp_path / "out" / name).read_text("utf-8")):
            assert record["images"] == [record["image"], record["depth_image"]]
            assert all(Path(path).is_absolute() and Path(path).is_file() for path in record["images"])


def test_llama_factory_finds_its_entry_and_as_many_place_holders_as_images(tmp_path):
    out, records, _ = _export(tmp_path)
    entry = json.loads((out / "dataset_info.json").read_text())["SIF-50K"]
    assert (out / entry["file_name"]).exists()
    assert entry["formatting"] == "sharegpt"
    for record in records:
        turns = record[entry["columns"]["messages"]]
        tags = entry["tags"]
        assert [turn[tags["role_tag"]] for turn in turns] == [tags["user_tag"], tags["assistant_tag"]]
        count = sum(turn[tags["content_tag"]].count("<image>") for turn in turns)
        assert count == len(record[entry["columns"]["images"]])


def test_a_row_whose_question_holds_a_place_holder_is_left_out_and_logged(tmp_path, caplog):
    _, records, written = _export(tmp_path, per_image=(1,), question="What is <image> in HTML?")
    assert records == []
    assert written[export.SFT_FILE] == 0
    assert "photos/gqa/0.0" in caplog.text


@pytest.mark.parametrize("dataset", ["../up", "a b/c", "..", "-rf", "…"])
def test_hostile_names_stay_inside_the_folder(tmp_path, dataset):
    made = part(tmp_path / "photos", (1,))
    row = {**made.rows()[0], "dataset": dataset}
    row["image"] = {**row["image"], "path": "../../etc/pass wd;.JPG"}
    tables.write(tmp_path / "part.parquet", tables.SIF, [row])
    out = tmp_path / "out"
    export.export([tmp_path / "part.parquet"], tmp_path / "part.parquet", out)
    [record] = json.loads((out / export.SFT_FILE).read_text("utf-8"))
    for name in record["images"]:
        assert (out / name).resolve().is_relative_to((out / "images").resolve())
        assert not set(name) & set(" ;…")


def test_a_box_has_an_area_in_the_export_as_it_has_in_the_chain(tmp_path):
    """A box of 1.5 pixels in a picture of 4000 has no width with three decimals."""
    made = part(tmp_path / "photos", (1,))
    [sample] = made.samples
    made.samples = [replace(sample, boxes=((0.5001, 0.25, 0.500475, 0.5),))]
    file = made.write(tmp_path / "part.parquet")
    export.export([file], None, tmp_path / "out")
    [record] = json.loads((tmp_path / "out" / export.SFT_FILE).read_text("utf-8"))
    assert record["normalized_solution_round"]["bbox_3d"] == [[0.5, 0.25, 0.501, 0.5]]


def test_an_existing_export_is_not_written_over(tmp_path):
    _export(tmp_path)
    with pytest.raises(UserError, match="exists already"):
        _export(tmp_path)


def test_nothing_is_left_of_an_export_that_failed(tmp_path):
    file = part(tmp_path / "photos").write(tmp_path / "part.parquet")
    tables.write(tmp_path / "other.parquet", tables.MAPS, [])
    with pytest.raises(UserError, match="not a SIF-50K file"):
        export.export([file], tmp_path / "other.parquet", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.parquet", "part.parquet", "photos"]
