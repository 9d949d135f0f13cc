"""The expand stage: one row out for every row in, the same in every run."""

from sifthinker import config
from sifthinker.core.records import WHOLE, Box, Focus, Reject, Sample
from sifthinker.data.expansion import expand


def row(n: int, *boxes: Box) -> Sample:
    return Sample(f"s/d/{n}", "s", "d", "train", "Q?", "A", "a.jpg", f"sha{n}", 640, 480, boxes)


def test_every_sample_becomes_a_focus_from_the_whole_image_to_the_ground_truth() -> None:
    truth = ((0.1, 0.1, 0.2, 0.2), (0.6, 0.6, 0.7, 0.8))
    (focus,) = expand([row(0, *truth)], config.Expand(distractor_share=0))
    assert isinstance(focus, Focus)
    assert (focus.id, focus.image_sha256, focus.distractor) == ("s/d/0", "sha0", -1)
    assert focus.steps[0] == (WHOLE,)
    assert len(focus.steps[-1]) == 2


def test_order_and_company_do_not_change_a_focus() -> None:
    rows = [row(n, (0.3, 0.3, 0.4 + n / 100, 0.5)) for n in range(40)]
    settings = config.Expand()
    together = list(expand(rows, settings))
    alone = [next(expand([sample], settings)) for sample in reversed(rows)]
    assert together == alone[::-1]
    other = list(expand(rows, config.Expand(seed=1)))
    assert other != together


def test_a_sample_with_an_impossible_box_is_a_reject_with_the_reason() -> None:
    kept, reject = expand([row(0, WHOLE), row(1, (0.5, 0.5, 0.4, 0.6))], config.Expand())
    assert isinstance(kept, Focus)
    assert isinstance(reject, Reject)
    assert (reject.id, reject.reason) == ("s/d/1", "box-invalid")
    assert "0.4" in reject.detail
