"""Aggregations that several benchmarks share."""

import pytest

from sifthinker.evaluation import statistics
from sifthinker.evaluation.benchmarks import metrics
from sifthinker.evaluation.benchmarks.question import Question, Verdict


def scored(*scores):
    return [
        (Question(str(i), "g", "", f"{i // 2}.jpg", ""), Verdict(score)) for i, score in enumerate(scores)
    ]


@pytest.mark.parametrize(
    ("score", "unit", "top"), [(0.0, "share", 1), (1.0, "share", 1), (0.0, "points", 200)]
)
def test_rows_that_all_score_alike_have_the_interval_of_their_images(score, unit, top):
    rows = scored(*[score] * 8)  # of four images
    measure = metrics.clustered("m", rows, metrics.share(rows), unit, top=top)
    low, high = statistics.wilson(4 * score, 4)
    assert (measure.low, measure.high) == (top * low, top * high)
    assert measure.high - measure.low > 0.4 * top


def test_rows_that_differ_have_the_bootstraps():
    rows = scored(0, 0, 1, 1, 0, 1, 1, 1)
    measure = metrics.clustered("m", rows, metrics.share(rows), "share")
    images = [metrics.cluster(row) for row in rows]
    assert (measure.low, measure.high) == statistics.bootstrap(metrics.share(rows), images)
    assert 0 < measure.low < measure.value < measure.high
