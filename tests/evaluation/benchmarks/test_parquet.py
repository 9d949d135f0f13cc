"""Benchmarks as Hugging Face has them: Parquet with the images inside, the same questions as in the other form."""

import base64
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sifthinker import config
from sifthinker.core import errors
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import files, mmbench, mme, pope, refcoco, seed, vqav2
from sifthinker.evaluation.benchmarks.question import Missing, Question


def parquet(rows):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def loaded(module, source):
    found = list(module.load(source))
    return [q for q in found if isinstance(q, Question)], [r for r in found if isinstance(r, Reject)]


@pytest.fixture
def embedded(picture):
    return {"bytes": picture, "path": None}


def test_mme_pairs_the_two_rows_of_a_picture_over_files(place, picture, embedded):
    row = {"question_id": "count/a.jpg", "category": "count", "image": embedded}
    yes = {**row, "question": "Is it red? Please answer yes or no.", "answer": "Yes"}
    no = {**row, "question": "Is it blue? Please answer yes or no.", "answer": "No"}
    files = {
        "data/test-00000-of-00002-aa.parquet": parquet([yes]),
        "data/test-00001-of-00002-bb.parquet": parquet(
            [no, {**no, "answer": "perhaps"}, {**no, "category": "size"}]
        ),
    }
    questions, rejects = loaded(mme, place("mme", files))
    folders = {f"{task}/a.jpg": picture for task in mme.PERCEPTION + mme.COGNITION}
    folders["count/a.txt"] = f"{yes['question']}\tYes\n{no['question']}\tNo\n".encode()
    published, _ = loaded(mme, place("folders", folders))
    assert [(q.id, q.group, q.text, q.reference, q.unit) for q in questions] == [
        (q.id, q.group, q.text, q.reference, q.unit) for q in published
    ]
    assert [(r.row, r.field) for r in rejects] == [(1, "answer"), (2, "category")]
    assert questions[0].image == picture and questions[0].cluster == questions[1].cluster == "count/a"


def test_seed_takes_the_one_image_of_a_row_and_names_its_type(place, picture, embedded):
    row = {f"choice_{letter}": f"thing {letter}" for letter in "abcd"} | {
        "answer": "B",
        "data_id": "1_2",
        "data_type": "image",
        "question": "How many?",
        "question_id": "7",
        "question_type_id": 5,
    }
    images = [[embedded], [embedded] * 8, [embedded] * 2]
    kinds = ["image", "video", "image"]
    rows = [{**row, "image": i, "data_type": k} for i, k in zip(images, kinds, strict=True)]
    source = place("seed", {"data/test-00000-of-00001.parquet": parquet(rows)})
    (question,), (reject,) = loaded(seed, source)
    document = {"questions": [row], "question_type": {"Instances Counting": 5}}
    (published,), _ = loaded(seed, place("json", {"SEED-Bench.json": document}))
    assert question.image == picture and published.image == "1_2"
    assert (question.id, question.group, question.text, question.reference, question.options) == (
        published.id,
        published.group,
        published.text,
        published.reference,
        published.options,
    )
    assert (reject.row, reject.reason) == (2, "several-images")


@pytest.mark.parametrize("layout", ["data/test-00000-of-00001.parquet", "Full/{}-00000-of-00001.parquet"])
def test_pope_takes_the_category_from_the_row(place, picture, embedded, layout):
    rows = {
        category: {
            "id": "0",
            "question_id": "1",
            "question": f"Is there a {category} dog?",
            "answer": "yes",
            "image_source": "COCO_val2014_1",
            "image": embedded,
            "category": category,
        }
        for category in pope.CATEGORIES
    }
    files = (
        {layout.format(category): parquet([row]) for category, row in rows.items()}
        if "{}" in layout
        else {layout: parquet([*rows.values(), {**rows["random"], "answer": "maybe"}])}
    )
    questions, rejects = loaded(pope, place("pope", files))
    assert [q.id for q in questions] == ["random/1", "popular/1", "adversarial/1"]
    assert {(q.cluster, q.image, q.reference) for q in questions} == {("COCO_val2014_1", picture, "yes")}
    assert [r.field for r in rejects] == ([] if "{}" in layout else ["answer"])


def object_row(embedded, number, bbox, *expressions):
    return {
        "question_id": number,
        "image": embedded,
        "question": "Please carefully observe the area circled in the image and come up with a caption for the area.",
        "answer": list(expressions),
        "segmentation": [1.0, 2.0, 3.0, 4.0],
        "bbox": bbox,
        "iscrowd": 0,
        "file_name": "COCO_train2014_000000000001_0.jpg",
    }


def test_refcoco_asks_for_every_expression_of_a_row(place, picture, embedded):
    row = object_row(embedded, "1", [8.0, 12.0, 16.0, 24.0], "black car", "Car on the left")
    flat = object_row(embedded, "2", [8.0, 12.0, 0.0, 24.0], "nothing")
    silent = object_row(embedded, "3", [8.0, 12.0, 16.0, 24.0])
    files = {
        "RefCOCO/data/testA-00000-of-00002.parquet": parquet([row, flat]),
        "RefCOCO/data/testA-00001-of-00002.parquet": parquet([silent, row]),
        "RefCOCOplus/data/val-00000-of-00001.parquet": parquet([row]),
    }
    source = place("refcoco", files, split="refcoco_testA,refcoco+_val")
    questions, rejects = loaded(refcoco, source)
    # The same question_id twice, as where two sets were put together: both are asked.
    wanted = [f"refcoco_testA/{place}/{k}" for place in (0, 3) for k in (0, 1)]
    assert [q.id for q in questions] == [*wanted, "refcoco+_val/0/0", "refcoco+_val/0/1"]
    assert [(r.row, r.field) for r in rejects] == [(1, "bbox"), (0, "answer")]
    jsonl = {
        "img_path": "1.jpg",
        "expression": "black car",
        "bbox": [8.0, 12.0, 24.0, 36.0],  # corners there
        "dataset_name": "jxu124/refcoco",
        "width": 64,
        "height": 48,
        "sent_id": 1,
        "split": "testA",
    }
    published = place("rec", {refcoco.FILES["refcoco_testA"]: [jsonl]}, split="refcoco_testA")
    (other,), _ = loaded(refcoco, published)
    first = questions[0]
    assert (first.text, first.reference, first.group) == (other.text, other.reference, other.group)
    assert (first.width, first.height, first.image) == (64, 48, picture)
    assert "Car on the left" in questions[1].text


def test_refcocos_mixed_splits_do_not_have_the_names_of_the_papers(place, embedded):
    row = object_row(embedded, "1", [8.0, 12.0, 16.0, 24.0], "black car")
    parts = {"RefCOCO": ("val", "test", "testA", "testB"), "RefCOCOplus": ("val", "testA", "testB")}
    parts["RefCOCOg"] = ("val", "test")
    files = {
        f"{name}/data/{split}-00000-of-00001.parquet": parquet([row])
        for name, splits in parts.items()
        for split in splits
    }
    questions, _ = loaded(refcoco, place("all", files))
    assert [q.group for q in questions] == list(refcoco.PARQUET)
    assert set(refcoco.FILES) - set(refcoco.PARQUET) == {"refcoco_val", "refcocog_val"}
    alone, _ = loaded(refcoco, place("all", files, path="RefCOCOg"))
    assert [q.group for q in alone] == ["refcocog_val+google", "refcocog_test"]
    with pytest.raises(errors.UserError, match=r"no split refcoco_val; known: refcoco_val\+google"):
        loaded(refcoco, place("all", files, split="refcoco_val"))
    files.pop("RefCOCOg/data/val-00000-of-00001.parquet")
    with pytest.raises(Missing, match=r"wants RefCOCOg/data/val-\*\.parquet in .*lmms-lab-encoder/RefCOCO"):
        loaded(refcoco, place("partial", files))


def test_vqav2_has_questions_and_answers_in_one_row(place, picture, embedded):
    answers = [
        {"answer": "down" if k else "at table", "answer_confidence": "yes", "answer_id": k} for k in range(10)
    ]
    row = {
        "question_type": "where",
        "multiple_choice_answer": "down",
        "answers": answers,
        "image_id": 262148,
        "answer_type": "other",
        "question_id": 262148000,
        "question": "Where is he looking?",
        "image": embedded,
    }
    files = {
        "data/validation-00000-of-00002.parquet": parquet([row]),
        "data/validation-00001-of-00002.parquet": parquet(
            [row | {"question_id": 262148001, "answers": None}]
        ),
    }
    (question,), (reject,) = loaded(vqav2, place("vqav2", files))
    asked = {"questions": [{key: row[key] for key in ("image_id", "question", "question_id")}]}
    said = {"annotations": [{key: row[key] for key in ("question_id", "answer_type", "answers")}]}
    published = {
        "v2_OpenEnded_mscoco_val2014_questions.json": asked,
        "v2_mscoco_val2014_annotations.json": said,
    }
    (other,), _ = loaded(vqav2, place("json", published))
    assert (question.id, question.group, question.text, question.reference) == (
        other.id,
        other.group,
        other.text,
        other.reference,
    )
    assert question.image == picture and reject.reason == "no-answers"


def test_vqav2s_hidden_split_is_submitted_over_the_whole_test(place, embedded):
    hidden = {"question_type": None, "multiple_choice_answer": None, "answers": None, "answer_type": None}
    rows = [
        hidden | {"image_id": 1, "question_id": n, "question": f"{n}?", "image": embedded} for n in (1, 2, 3)
    ]
    files = {
        "data/testdev-00000-of-00001.parquet": parquet(rows[1:2]),
        "data/test-00000-of-00002.parquet": parquet(rows[:2]),
        "data/test-00001-of-00002.parquet": parquet(rows[2:]),
    }
    source = place("vqav2", files, split="test-dev2015")
    (question,), _ = loaded(vqav2, source)
    assert (question.id, question.reference, question.group) == ("2", "", "all")
    _, content = vqav2.submission(source, [(question, "red")])
    assert [(row["question_id"], row["answer"]) for row in json.loads(content)] == [
        (1, ""),
        (2, "red"),
        (3, ""),
    ]
    del files["data/test-00000-of-00002.parquet"], files["data/test-00001-of-00002.parquet"]
    with pytest.raises(Missing, match=r"v2_OpenEnded_mscoco_test2015_questions\.json"):
        loaded(vqav2, place("alone", files, split="test-dev2015"))


@pytest.mark.parametrize("language", ["en", "cn"])
def test_mmbench_is_read_from_the_folder_of_a_language(place, picture, embedded, language):
    row = {
        "index": "7" if language == "en" else 7,
        "question": "What?",
        "hint": "Look." if language == "en" else None,
        "answer": "A",
        "A": "red",
        "B": "blue",
        "C": None,
        "D": "nan",
        "category": "colour",
        "image": embedded,
        "source": "web",
        "L2-category": "perception",
        "comment": None,
        "split": "dev",
    }
    turned = row | {
        "index": "1000007" if language == "en" else 1000007,
        "answer": "B",
        "A": "blue",
        "B": "red",
    }
    tested = row | {"answer": None, "split": "test"}
    files = {
        f"{language}/dev-00000-of-00001.parquet": parquet([row, turned, row | {"answer": "C"}]),
        f"{language}/test-00000-of-00001.parquet": parquet([tested]),
    }
    questions, (reject,) = loaded(mmbench, place("mmbench", files, path=language))
    columns = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "split"]
    image = base64.b64encode(picture).decode()
    lines = [
        "\t".join("" if r[c] is None else image if c == "image" else str(r[c]) for c in columns)
        for r in (row, turned)
    ]
    name = f"MMBench_DEV_{language.upper()}.tsv"
    published, _ = loaded(mmbench, place("tsv", {name: "\n".join(["\t".join(columns), *lines])}, path=name))
    assert questions == published
    assert questions[0].text.endswith(mmbench.CHINESE if language == "cn" else mmbench.INSTRUCTION)
    assert (reject.row, reject.field) == (2, "answer")
    source = place("mmbench", files, path=language, split="test")
    (hidden,), _ = loaded(mmbench, source)
    mark = "" if language == "en" else "_cn"  # no score of one language has the other's name
    assert (hidden.id, hidden.reference) == (f"test{mark}/7", "")
    file, content = mmbench.submission(source, [(hidden, "B")])
    assert file == f"mmbench_submission{mark}.tsv"
    head, line = content.decode().splitlines()
    given = dict(zip(head.split("\t"), line.split("\t"), strict=True))
    assert "image" not in given and (given["index"], given["prediction"]) == ("7", "B")
    with pytest.raises(Missing, match=r"dev-\*\.parquet.*lmms-lab-encoder/MMBench"):
        loaded(mmbench, place("none", {}))


def source_with(tmp_path, *names):
    for name in names:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    return config.Benchmark(name="vqav2", path=tmp_path, images=tmp_path)


def test_beside_leftovers_of_an_old_upload_the_whole_one_is_read(tmp_path):
    old, new = "data/test-00000-of-00002-aa.parquet", "data/test-00000-of-00001.parquet"
    assert [path.name for path in files.shards(source_with(tmp_path, old, new))] == [
        "test-00000-of-00001.parquet"
    ]


def test_an_upload_with_files_missing_is_refused_by_their_numbers(tmp_path):
    source = source_with(tmp_path, "data/test-00000-of-00003.parquet", "data/test-00002-of-00003.parquet")
    with pytest.raises(
        Missing, match=r"vqav2: .*/data has 2 of the 3 files like .*; missing are the numbers 00001; fetch"
    ):
        files.shards(source)
    alone = source.model_copy(update={"path": tmp_path / "data" / "test-00002-of-00003.parquet"})
    assert files.shards(alone) == [alone.path]  # a part that somebody wants


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("data/test-00000-of-00001-aa.parquet", "data/test-00000-of-00001-bb.parquet"),
        ("data/test-00000-of-00001.parquet", "data/test-00000-of-00002.parquet"),
    ],
)
def test_two_whole_uploads_are_refused_because_neither_is_known_to_be_newer(tmp_path, one, other):
    source = source_with(tmp_path, one, other, "data/test-00001-of-00002.parquet")
    with pytest.raises(
        errors.UserError, match=r"data holds two uploads of the same questions .*remove the older one"
    ):
        files.shards(source)


@pytest.mark.parametrize("damage", ["cut off", "a page's head", "a page"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, damage):
    path = tmp_path / "test-00000-of-00001.parquet"
    noise = np.random.default_rng(0).bytes
    pq.write_table(pa.table({"image": [noise(5000) for _ in range(50)], "question": ["?"] * 50}), path)
    whole = bytearray(path.read_bytes())
    if damage == "cut off":
        del whole[len(whole) // 2 :]
    elif damage == "a page's head":
        whole[4:40] = bytes(36)
    else:
        whole[len(whole) // 2 : len(whole) // 2 + 20_000] = bytes(20_000)
    path.write_bytes(whole)
    with pytest.raises(errors.UserError, match=r"(?s)00001\.parquet: .*fetch it again"):
        list(files.parquet(path))
    with pytest.raises(errors.UserError, match=r"(?s)00001\.parquet: .*fetch it again"):
        files.column(path, "image")
