import pytest

from sifthinker import llm
from sifthinker.annotation import retry
from sifthinker.annotation.projection import borrowed_prices
from sifthinker.config import Again, Config
from sifthinker.core.errors import UserError
from sifthinker.core.records import Annotation, Reject
from sifthinker.core.rejects import attempts
from sifthinker.llm import standin
from tasks.stages import retry as stages
from tests import annotation_rows as rows

FAULTS = {"wrong-depths": 0.2, "content-filter": 0.1}  # drawn by the request: another model draws anew


def test_dead_letters_are_asked_again_alone_and_nothing_is_lost(tmp_path):
    first = rows.settings().model_copy(update={"attempts": 1})
    names = rows.pictures(tmp_path, 20)
    data = list(rows.samples(names, 60))
    ledger = tmp_path / "calls.db"
    with standin.running(tmp_path / "log", FAULTS) as url:
        before = list(rows.run(tmp_path, 60, url, ledger, first, images=20))
        chains = [row for row in before if isinstance(row, Annotation)]
        rejects = [row for row in before if isinstance(row, Reject)]
        assert {row.reason for row in rejects} == {"depths", "content-filter"}
        asked = standin.counts(url)["requests"]
        again = Again(reasons=("depths",), model="other", prompt="Write the chain.")
        second = retry.over(again, first)
        with llm.Client(second.api, ledger, url) as client:
            after = list(
                retry.retry(
                    lambda: iter(data),
                    lambda: map(rows.focus, data),
                    lambda: rows.maps(names),
                    chains,
                    rejects,
                    rows.library(tmp_path),
                    [(frozenset(again.reasons), client, second)],
                )
            )
            models = {row.id for row in after if isinstance(row, Annotation)} - {row.id for row in chains}
        depths = [row for row in rejects if row.reason == "depths"]
        assert standin.counts(url)["requests"] - asked == len(depths)  # and of the judge nothing
    ids = [row.id for row in after]
    assert ids == [row.id for row in data]
    kept = {row.id: row for row in after if isinstance(row, Annotation)}
    assert models and models < {row.id for row in depths} | {"-"}
    assert all(kept[row.id] == row for row in chains)
    assert all(kept[id].attempts == 2 for id in models)
    for id in models:  # the tokens of both passes
        (first,) = attempts(next(row.detail for row in depths if row.id == id))
        assert first["prompt_tokens"] > 0 and kept[id].prompt_tokens > first["prompt_tokens"]
        assert kept[id].completion_tokens > first["completion_tokens"] > 0
    left = [row for row in after if isinstance(row, Reject)]
    assert [row for row in left if row.reason == "content-filter" and row in rejects] == [
        row for row in rejects if row.reason == "content-filter"
    ]
    for row in left:
        if row.id in {letter.id for letter in depths}:
            assert len(attempts(row.detail)) == 2


@pytest.mark.parametrize(
    ("reasons", "said"),
    [
        ((), ""),
        (("depths",), ""),
        (("depths", "boxes"), ""),
        (
            ("dephts", "boxes"),
            "no row was rejected for dephts; the rows that can be asked again: depths (2), boxes (1)",
        ),
        (("not-needed",), "no row was rejected for not-needed; "),  # never asked
    ],
)
def test_a_reason_that_no_row_has_is_told_with_those_that_there_are(reasons, said):
    rejects = [Reject("annotate", reason, "", "id") for reason in ("boxes", "depths", "not-needed", "depths")]
    found = retry.not_found(reasons, rejects)
    assert found.startswith(said) and bool(found) == bool(said)


def test_a_pass_that_asks_the_same_is_refused():
    first = rows.settings()
    for again in (Again(), Again(attempts=9), Again(reasons=("depths",)), Again(model=first.api.model)):
        with pytest.raises(UserError, match="another model, prompt, temperature or seed"):
            retry.check([(again.reasons, retry.over(again, first))], first)
    for again in (Again(seed=1), Again(prompt="x"), Again(model="other"), Again(reasons=("exhausted",))):
        retry.check([(again.reasons, retry.over(again, first))], first)


PRICED = {"model": "m", "base_url": "http://127.0.0.1:9/v1", "prices": {"prompt": 2, "completion": 8}}


@pytest.mark.parametrize(
    ("api", "again", "said"),
    [
        (PRICED, {"model": "other"}, "other is asked at the prices of m"),
        (PRICED, {"model": "m", "seed": 1}, ""),
        (PRICED, {"seed": 1}, ""),
        (PRICED, {"model": "other", "api": PRICED | {"prices": {"prompt": 9}}}, ""),  # it has its own
        (PRICED | {"prices": {}}, {"model": "other"}, ""),
    ],
)
def test_another_model_at_the_prices_of_the_first_is_said_and_refused_under_a_budget(api, again, said):
    configured = Config.model_validate({"scenes": {}, "annotate": {"api": api}, "retry": {"passes": [again]}})
    assert borrowed_prices(configured.retry.passes[0], configured.annotate).startswith(said)
    assert stages.retry.lacks(configured) == []
    if not api["prices"]:
        return
    limited = configured.model_dump()
    limited["annotate"]["api"]["budget_money"] = 5.0
    found = stages.retry.lacks(Config.model_validate(limited))
    assert len(found) == bool(said)
    assert all(one.startswith(f"retry.passes[0]: budget_money cannot be held: {said}") for one in found)


def test_the_row_of_a_published_chain_that_was_not_taken_can_be_bought(tmp_path):
    names = rows.pictures(tmp_path, 3)
    data = list(rows.samples(names, 3))
    said = "the last area is [[0.1, 0.1, 0.2, 0.2]], the row's boxes are [[0.3, 0.3, 0.4, 0.4]]"
    rejects = [
        Reject("annotate", "boxes", said, row.id, row.source, "SIF-50K.json", 0, "messages") for row in data
    ]
    config = retry.over(Again(model="other"), rows.settings())
    with (
        standin.running(tmp_path / "log") as url,
        llm.Client(config.api, tmp_path / "calls.db", url) as client,
    ):
        found = list(
            retry.retry(
                lambda: iter(data),
                lambda: map(rows.focus, data),
                lambda: rows.maps(names),
                [],
                rejects,
                rows.library(tmp_path),
                [(frozenset(), client, config)],
            )
        )
    assert [row.id for row in found if isinstance(row, Annotation)] == [row.id for row in data]
    assert {row.attempts for row in found if isinstance(row, Annotation)} == {1}
