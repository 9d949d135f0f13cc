"""Aggregations that several benchmarks share."""

import numpy as np
import pytest

from sifthinker.evaluation import statistics
from sifthinker.evaluation.benchmarks import metrics
from sifthinker.evaluation.benchmarks.question import Measure, Question, Verdict


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


def of_group(group, *scores, unparsable=""):
    return [
        (Question(f"{group}{i}", group, "", f"{group}{i}.jpg", ""), Verdict(score, unparsable=unparsable))
        for i, score in enumerate(scores)
    ]


def test_results_are_grouped_in_the_order_of_appearance():
    b, a, more = of_group("b", 1), of_group("a", 0, 1), of_group("b", 0)
    assert list(metrics.groups([*b, *a, *more]).items()) == [("b", [*b, *more]), ("a", a)]


def test_an_accuracy_is_a_share_with_wilsons_interval():
    rows = [*of_group("a", 1, 1, 0), *of_group("b", 0, unparsable="empty")]
    assert metrics.unparsable(rows) == 1
    assert metrics.accuracy("acc", rows) == Measure("acc", 0.5, 4, 1, 0, *statistics.wilson(2, 4), "share")
    assert metrics.accuracy("acc", []) == Measure("acc", 0.0, 0, 0, 0, 0.0, 1.0, "share")


def test_an_accuracy_of_questions_that_share_pictures_has_the_bootstraps_interval():
    rows = scored(*[0, 0, 1, 1, 0, 0, 1, 1] * 5)  # the same for both questions about an image
    found, images = metrics.accuracy("acc", rows), [metrics.cluster(row) for row in rows]
    assert found.value == 0.5
    assert (found.low, found.high) == statistics.bootstrap(metrics.share(rows), images)
    low, high = statistics.wilson(20, 40)
    assert found.high - found.low > 1.25 * (high - low)  # half as many pictures: by the root of 2


def test_a_combination_is_the_sum_of_its_parts_times_their_factors():
    many, few = of_group("a", 1, 0, 1, 1, 0, 1), of_group("b", 0, 1, unparsable="doubt")
    parts = [(many, metrics.share(many), 30.0), (few, metrics.share(few), 70.0)]
    made = metrics.combined("macro", parts, "points")

    def by_hand(weights):
        first, second = weights[:6], weights[6:]
        if not first.sum() or not second.sum():
            return float("nan")
        scores = np.array([1, 0, 1, 1, 0, 1])
        return 30 * (scores @ first) / first.sum() + 70 * second[1] / second.sum()

    rows = [*many, *few]
    low, high = statistics.bootstrap(by_hand, [metrics.cluster(row) for row in rows])
    assert made == Measure(
        "macro", pytest.approx(20 + 35), 8, 2, 0, pytest.approx(low), pytest.approx(high), "points"
    )
    assert metrics.combined("macro", parts, "points", draws=50) != made
    assert metrics.clustered("m", many, metrics.share(many), "share", draws=50).low == pytest.approx(
        statistics.bootstrap(metrics.share(many), [metrics.cluster(row) for row in many], 50)[0]
    )


@pytest.mark.parametrize(
    ("unit", "top", "most"), [("share", None, 1), ("points", None, 100), ("points", 200, 200)]
)
def test_rows_that_are_all_right_reach_the_top_and_no_further(unit, top, most):
    rows = of_group("a", 1, 1, 1)
    made = metrics.combined("all", [(rows, metrics.share(rows), most)], unit, top=top)
    low, high = statistics.wilson(3, 3)
    assert made == Measure("all", most, 3, 0, 0, most * low, most * high, unit)
    assert high == 1


def test_rows_that_score_alike_in_between_have_an_interval_of_no_width():
    rows = of_group("a", 0.5, 0.5, 0.5)
    made = metrics.clustered("half", rows, metrics.share(rows), "share")
    assert (made.value, made.low, made.high) == (0.5, 0.5, 0.5)


def test_a_question_is_of_its_cluster_its_picture_or_itself():
    def cluster(**fields):
        return metrics.cluster((Question(**{**BARE, **fields}), Verdict(1)))

    assert cluster(cluster="scene 1") == "scene 1"
    assert cluster() == "a.jpg"
    assert cluster(image=b"a file") == "q/1"


BARE = {"id": "q/1", "group": "", "text": "", "image": "a.jpg", "reference": ""}


def test_a_mean_is_weighted_and_is_none_where_nothing_is_drawn():
    scores = np.array([1.0, 0.0, 0.5])
    assert metrics.mean(scores, np.array([2.0, 1.0, 1.0])) == 0.625
    assert np.isnan(metrics.mean(scores, np.zeros(3)))
