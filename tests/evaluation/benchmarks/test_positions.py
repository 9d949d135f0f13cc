"""No benchmark gives its answers away by their position: a model that always takes the first option is at chance.

The files are small and laid out as the published ones: SAT has the right answer first in every row, as its generator
writes it and its card warns; V*Bench has it first in the JSON files beside its pictures, and its questions' file does not;
MMBench asks every question with its options rotated; SpatialBench has pairs of opposite answers; CV-Bench and SEED-Bench
have the right answers spread over the letters. Whatever a loader did to the order would show.
"""

import base64
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import BENCHMARKS, mmbench, sat, spatialbench
from sifthinker.evaluation.benchmarks.question import Answer, Question

WORDS = ("red", "green", "blue", "black", "white", "brown")
INSTRUCTION = "Answer with the option's letter from the given choices directly."
ROWS = 240


def parquet(rows) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def sat_rows(picture, number):
    return [
        {
            "image_bytes": [picture],
            "question": f"What is at place {i}?",
            "answers": [*WORDS[:number]],
            "question_type": "other",
            "correct_answer": WORDS[0],
        }
        for i in range(ROWS)
    ]


def sat_questions(place, picture, number, order):
    source = place(f"sat{number}", {"SAT_static.parquet": parquet(sat_rows(picture, number))})
    questions = list(sat.load(source.model_copy(update={"choices": order})))
    assert not any(isinstance(question, Reject) for question in questions)
    return questions


def accuracy(benchmark, questions, place_of_choice):
    """The score of a model that takes the option at one place, whatever is asked."""
    results = []
    for question in questions:
        letter, text = question.options[place_of_choice]
        results.append((question, benchmark.strict(question, Answer(letter or text))))
    return {measure.metric: measure.value for measure in benchmark.score(results)}


@pytest.mark.parametrize("order", ["shuffled", "official"])
@pytest.mark.parametrize("number", [2, 3, 4])
def test_sats_choices_are_listed_in_an_order_of_each_question(place, picture, number, order):
    questions = sat_questions(place, picture, number, order)
    for at in range(number):
        (share, *_) = accuracy(sat, questions, at).values()
        assert share == pytest.approx(1 / number, abs=3.3 * (0.25 / ROWS) ** 0.5)
    again = sat_questions(place, picture, number, order)
    assert [q.text for q in questions] == [q.text for q in again]  # the same in every run
    for question in questions:
        shown = sorted(choice for _, choice in question.options)
        assert shown == sorted(WORDS[:number]) and question.reference == "red"
        places = [question.text.index(choice) for _, choice in question.options]
        assert places == sorted(places)  # the options are in the order that is shown


def test_sats_file_order_gives_the_answers_away_and_its_score_says_so(place, picture):
    questions = sat_questions(place, picture, 2, "file")
    scores = accuracy(sat, questions, 0)
    assert scores["static, file's order"] == 1.0 and "static" not in scores


def test_sats_own_loader_asks_in_its_own_words(place, picture):
    first = sat_questions(place, picture, 2, "official")[0]
    one, other = (choice for _, choice in first.options)
    assert first.text == (
        "What is at place 0? Answer the question using a single word or phrase. "
        f'Choose between the following options: "{one}" or "{other}".'
    )


def spread(i, number):
    return "ABCD"[i % number]


def vstar_files():
    rows, files = [], {}
    for i in range(ROWS):
        listed = "\n".join(f"({letter}) {word}" for letter, word in zip("ABCD", WORDS, strict=False))
        rows.append(
            {
                "image": f"direct_attributes/{i}.jpg",
                "text": f"What color is thing {i}?\n{listed}\n{INSTRUCTION}",
                "category": "direct_attributes",
                "label": spread(i, 4),
                "question_id": i,
            }
        )
        right = WORDS["ABCD".index(spread(i, 4))]
        files[f"direct_attributes/{i}.json"] = {
            "question": f"What color is thing {i}?",
            "options": [right, *(word for word in WORDS[:4] if word != right)],
        }
    return {"test_questions.jsonl": rows, **files}


def cvbench_files(picture):
    def rows(part, source):
        return parquet(
            [
                {
                    "idx": i,
                    "type": part,
                    "source": source,
                    "filename": f"{i}.png",
                    "choices": list(WORDS[:4]),
                    "answer": f"({spread(i, 4)})",
                    "prompt": f"What color? (A) {WORDS[0]} (B) {WORDS[1]} (C) {WORDS[2]} (D) {WORDS[3]}",
                    "image": {"bytes": picture, "path": None},
                }
                for i in range(ROWS)
            ]
        )

    return {"test_2d.parquet": rows("2D", "COCO"), "test_3d.parquet": rows("3D", "Omni3D")}


def seed_files():
    questions = [
        {
            "answer": spread(i, 4),
            **{f"choice_{letter}": word for letter, word in zip("abcd", WORDS, strict=False)},
            "data_id": str(i),
            "data_type": "image",
            "question": f"What color is thing {i}?",
            "question_id": str(i),
            "question_type_id": 3,
        }
        for i in range(ROWS)
    ]
    return {"SEED-Bench.json": {"questions": questions, "question_type": {"Instance Attributes": 3}}}


@pytest.mark.parametrize("name", ["vstar", "cvbench", "seed"])
def test_the_first_option_is_at_chance(place, picture, name):
    files = {"vstar": vstar_files, "cvbench": lambda: cvbench_files(picture), "seed": seed_files}[name]()
    questions = list(BENCHMARKS[name].load(place(name, files)))
    assert questions and all(isinstance(question, Question) for question in questions)
    assert set(accuracy(BENCHMARKS[name], questions, 0).values()) == {0.25}


def test_mmbenchs_rotations_leave_nothing_to_the_first_option(place, picture):
    image = base64.b64encode(picture).decode()
    lines = ["\t".join(["index", "question", "A", "B", "C", "D", "answer", "category", "image", "split"])]
    for i in range(20):
        for k in range(4):
            turned = WORDS[k:4] + WORDS[:k]
            letter = "ABCD"[turned.index(WORDS[0])]
            cells = [
                i + k * mmbench.ROTATION,
                "What?",
                *turned,
                letter,
                "colour",
                image if not k else i,
                "dev",
            ]
            lines.append("\t".join(map(str, cells)))
    questions = list(mmbench.load(place("mmbench", {"dev.tsv": "\n".join(lines) + "\n"}, path="dev.tsv")))
    assert accuracy(mmbench, questions, 0) == {"dev": 0.0, "dev single rows": 0.25}


def test_spatialbenchs_pairs_leave_the_first_option_at_chance(place):
    rows = [
        {
            "image": f"size/{i // 2}.jpg",
            "question": f"Is the cup bigger than plate {i}? (A) Yes (B) No. {INSTRUCTION}",
            "answer": "AB"[i % 2],
        }
        for i in range(ROWS)
    ]
    files = {"positional.json": json.dumps(rows).encode(), "size/0.jpg": b""}
    questions = list(spatialbench.load(place("spatialbench", files, split="positional")))
    assert accuracy(spatialbench, questions, 0) == {"positional": 50.0}
