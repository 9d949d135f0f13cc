"""Which questions of a benchmark are asked."""

from hypothesis import given
from hypothesis import strategies as st

from sifthinker.benchmarks import job


def test_the_sample_under_a_limit_is_seeded_in_proportion_and_keeps_units_together():
    questions = [("big", f"b{i // 2}") for i in range(80)] + [("small", f"s{i}") for i in range(20)]
    chosen = job.select(questions, 20, 0)
    assert len(chosen) == 20
    assert sum(questions[i][0] == "big" for i in chosen) == 16
    assert all((i ^ 1) in chosen for i in chosen if i < 80)
    assert chosen == job.select(questions, 20, 0) != job.select(questions, 20, 1)
    assert job.select(questions, None, 0) == job.select(questions, 1000, 0) == frozenset(range(100))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), max_size=30), st.integers(1, 40))
def test_a_limit_is_never_passed_and_no_unit_is_split(questions, limit):
    chosen = job.select(questions, limit, 0)
    assert len(chosen) <= limit
    taken = {questions[i] for i in chosen}
    assert chosen == {i for i, question in enumerate(questions) if question in taken}
