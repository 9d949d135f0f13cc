"""Which questions of a benchmark are asked."""

import hashlib
import json
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from sifthinker.evaluation.benchmarks import selection
from sifthinker.evaluation.benchmarks.question import Question


def test_the_sample_under_a_limit_is_seeded_in_proportion_and_keeps_units_together():
    questions = [("big", f"b{i // 2}") for i in range(80)] + [("small", f"s{i}") for i in range(20)]
    chosen = selection.select(questions, 20, 0)
    assert len(chosen) == 20
    assert sum(questions[i][0] == "big" for i in chosen) == 16
    assert all((i ^ 1) in chosen for i in chosen if i < 80)
    assert chosen == selection.select(questions, 20, 0) != selection.select(questions, 20, 1)
    assert (
        selection.select(questions, None, 0) == selection.select(questions, 1000, 0) == frozenset(range(100))
    )


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), max_size=30), st.integers(1, 40))
def test_a_limit_is_never_passed_and_no_unit_is_split(questions, limit):
    chosen = selection.select(questions, limit, 0)
    assert len(chosen) <= limit
    taken = {questions[i] for i in chosen}
    assert chosen == {i for i, question in enumerate(questions) if question in taken}


def test_a_picture_that_questions_share_is_digested_once(monkeypatch, place, picture):
    other = picture + b"0"
    asked = [
        Question(str(n), "all", "?", image, "A") for n, image in enumerate([picture, picture, other, picture])
    ]
    made = selection.Selection(
        place("none", {}), SimpleNamespace(load=lambda _: iter(asked)), frozenset(range(4))
    )
    seen = []
    real = hashlib.sha256
    monkeypatch.setattr(selection.hashlib, "sha256", lambda data: seen.append(data) or real(data))
    digests = [digest for _, digest in made.questions()]
    assert digests == [real(image).hexdigest() for image in (picture, picture, other, picture)]
    assert seen == [picture, other, picture]


def test_references_that_reach_out_of_their_pictures_are_named_and_asked(place, picture, caplog):
    def asked(number, reference):
        return Question(str(number), "all", "?", picture, json.dumps(reference), width=64, height=48)

    questions = [
        asked(0, [0.1, 0.1, 0.5, 0.5]),
        asked(1, [0.1, 0.1, 1.5, 0.5]),  # RefCOCO's form
        asked(2, [0.0, 0.0, 1.01, 1.0]),  # within a pixel
        asked(3, {"objects": [["dog", [10, 10, 20, 60], 0]], "labels": "listed"}),  # OVDEval's
        asked(4, {"objects": [["dog", [10, 10, 20, 20], 0]], "labels": "listed"}),
        Question("5", "all", "?", picture, "B"),
    ]
    source = place("refcoco", {})
    made, rejects = selection.open_benchmark(source, SimpleNamespace(load=lambda _: iter(questions)), None, 0)
    assert len(made.chosen) == 6 and not rejects
    assert "refcoco: 2 references reach out of their pictures (1, 3)" in caplog.text
