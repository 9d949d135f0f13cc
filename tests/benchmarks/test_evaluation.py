import pytest

from tests.benchmarks import evaluation


@pytest.mark.e2e
def test_the_rate_is_measured_whole_for_the_questions_and_steady():
    result = evaluation.rate(80)
    assert (result["questions"], result["ideal seconds"]) == (80, pytest.approx(2 * evaluation.LATENCY))
    # The whole has the questions in it.
    assert 0 < result["its share of the ideal rate"] < result["questions' share of the ideal rate"] <= 1
    assert result["steady share of the ideal rate"] > 0
    assert 0 < result["of that the main thread"] < result["processor ms a question"]
