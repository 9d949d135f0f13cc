"""Benchmarks as Hugging Face has them: Parquet with the images inside, the same questions as in the other form."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sifthinker.benchmarks import mme, pope, seed
from sifthinker.benchmarks.question import Question
from sifthinker.sample import Reject


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
