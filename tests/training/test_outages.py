"""A training whose judge is away for a while: a fake judge that really listens, and no pauses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate.utils
import pytest
from datasets import Dataset

from sifthinker.config import Grpo
from sifthinker.core.errors import UserError
from sifthinker.training import outages, scoring
from sifthinker.training.scoring import Scorer, Subject, kept
from tests.training.fake_judge import SCORES, Judge


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "PAUSES", (0.0,))


@pytest.fixture
def scorer(judge: Judge, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scorer]:
    """Of a judge that is asked once a round; `request.param` are other settings."""
    settings = Grpo(**{"judge": {"model": "fake", "retries": 0}, **getattr(request, "param", {})})
    url = f"http://127.0.0.1:{judge.server_port}/v1"
    with Scorer(
        Dataset.from_dict({"id": ["a"], "width": [8], "height": [8]}),
        settings,
        tmp_path,
        tmp_path / "ledger.sqlite",
        url,
    ) as made:
        yield made


def subject(number: int) -> Subject:
    depth: Any = None
    return Subject(f"row-{number}", "d", f"Question {number}?", "red", (), depth, "")


def ask(scorer: Scorer, *answers: str) -> list[float | None]:
    texts = [f"<answer>\n{answer}\n</answer>" for answer in answers]
    return scorer.ask(texts, [subject(number) for number in range(len(texts))])


@pytest.mark.parametrize("scorer", [{"rewards": {"max_absent": 0.0}}], indirect=True)
def test_an_outage_is_waited_for_and_no_score_is_lost(scorer: Scorer, judge: Judge) -> None:
    """Twelve requests fail in the first rounds, more than the client gives an endpoint up after."""
    judge.troubles = [503] * 25
    assert ask(scorer, *["red", "green"] * 6) == [SCORES["red"], SCORES["green"]] * 6
    assert not judge.troubles


@pytest.mark.parametrize("scorer", [{"judge_patience": 0.0}], indirect=True)
def test_an_outage_that_is_longer_than_the_patience_is_no_mistake_of_the_users(
    scorer: Scorer, judge: Judge
) -> None:
    judge.troubles = [503] * 2
    with pytest.raises(outages.JudgeAway, match=r"no score for 2 of 2 completions.*HTTP 503"):
        ask(scorer, "red", "green")
    assert not issubclass(outages.JudgeAway, UserError), "so the stage is tried again, and resumes"


def test_a_judge_that_fails_on_one_completion_alone_holds_nothing_up(scorer: Scorer, judge: Judge) -> None:
    judge.fails_on = "blue"
    assert ask(scorer, "red", "blue", "green") == [SCORES["red"], None, SCORES["green"]]
    assert len(judge.asked) == 3


def test_a_judge_that_refuses_is_not_asked_again(scorer: Scorer, judge: Judge) -> None:
    judge.troubles = [400] * 2
    assert ask(scorer, "red", "green") == [None, None]
    assert len(judge.asked) == 2
    with pytest.raises(UserError, match="gave no score for 2 of 2"):
        scorer._check_absent([{"judge": None}] * 2, 1)


def test_a_call_that_may_be_paid_each_time_is_not_asked_again_and_is_no_mistake_either(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []

    def hung(_: Any, requests: Any) -> list[Any]:
        rounds.append(len(requests))
        return [scoring.llm.Failure("timeout", "no answer within 120 s")] * len(requests)

    monkeypatch.setattr(outages, "ask_once", hung)
    with pytest.raises(outages.JudgeAway, match="no answer within 120 s"):
        ask(scorer, "red", "green")
    assert rounds == [2]


def test_all_ranks_wait_together_for_the_judge_of_one(
    scorer: Scorer, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made-up counts of another rank, whose requests fail in two rounds."""
    others = [{"of": 9, "absent": n, "away": n, "hung": 0, "waited": 0.0} for n in (9, 9, 0)]
    monkeypatch.setattr(accelerate.utils, "gather_object", lambda ours: [*ours, others.pop(0)])
    assert ask(scorer, "red") == [SCORES["red"]]
    assert not others, "this rank came to every round"
    assert len(judge.asked) == 1, "and asked for nothing twice"


def test_large_photographs_do_not_fill_the_memory_with_their_depths(scorer: Scorer) -> None:
    """A table of sums takes 8 bytes a pixel: 96 MB for 12 megapixels, of each row of the subset and on each rank."""

    def rows(*sizes: tuple[int, int]) -> Dataset:
        widths, heights = zip(*sizes, strict=True)
        return Dataset.from_dict({"width": widths, "height": heights})

    assert kept(rows(*[(500, 375)] * 300)) == 256
    photographs = rows((500, 375), (4000, 3000))
    assert kept(photographs) * 8 * 4000 * 3000 < 2.2e9 and kept(photographs) > 16
    assert kept(rows((10_000, 10_000))) == 4
    assert scorer.subject.cache_parameters()["maxsize"] == 256
