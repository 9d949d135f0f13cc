"""Before a stage is paid for: one probe call, and a preview of the first chains; neither is paid for twice."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from sifthinker import llm
from sifthinker.annotation.annotate import Annotator
from sifthinker.annotation.early_stop import Hopeless
from sifthinker.annotation.first_rows import FirstRow, first_rows
from sifthinker.annotation.preview import Metered, preview
from sifthinker.annotation.probe import probe
from sifthinker.config import Again, Annotate, Api, Ingest
from sifthinker.core.errors import UserError
from sifthinker.core.records import Annotation, Reject
from sifthinker.core.tables import FOCUS, MAPS, REJECTS, SAMPLES, write
from sifthinker.llm.standin import replies
from sifthinker.reporting.preview_page import cards_of, render_page
from sifthinker.store.artifacts import Store
from tasks.operations.revive import revive
from tasks.runtime.elsewhere import Elsewhere
from tasks.stages import retry as retrying
from tests import annotation_rows as rows
from tests import evil

ROWS = 6
API = Api.model_validate(
    {"model": "m", "retries": 0, "timeout": 5.0, "prices": {"prompt": 10, "completion": 10}}
)
CONFIG = Annotate(api=API)
BAD = json.dumps({"error": {"message": "this picture is odd"}}).encode()


def number(body: bytes) -> int:
    """The row that a request is about."""
    return int(body.split(b"What is number ")[1].split(b"?")[0])


def writing(refuses: Callable[[int], bool] = lambda row: False):
    """A model that writes chains, and refuses some rows."""

    def answer(_: int, body: bytes) -> evil.Answer:
        if refuses(number(body)):
            return 400, {}, BAD
        return 200, {}, json.dumps(replies.reply(json.loads(body), hashlib.sha256(body).digest())).encode()

    return answer


def first(folder: Path, count: int = ROWS) -> list[FirstRow]:
    names = rows.pictures(folder, ROWS)
    return first_rows(
        rows.samples(names, ROWS), map(rows.focus, rows.samples(names, ROWS)), rows.maps(names), count
    )


@contextmanager
def annotator(folder: Path, url: str, config: Annotate = CONFIG) -> Iterator[tuple[Annotator, Metered]]:
    with Metered(config.api, folder / "calls.sqlite", url) as client:
        yield Annotator(rows.library(folder), client, config), client


def test_the_first_rows_are_those_that_can_be_asked_in_order(tmp_path):
    names = rows.pictures(tmp_path, ROWS)
    looks = [rows.focus(row) for row in rows.samples(names, ROWS)]
    found = first_rows(rows.samples(names, ROWS), looks[1:], list(rows.maps(names))[:4], 3)
    assert [row.sample.id for row in found] == [f"test/made/{n}" for n in (1, 2, 3)]
    assert found[0].map.image_sha256 == found[0].sample.image_sha256
    assert len(found[0].steps) == len(looks[1].steps)
    assert first_rows(rows.samples(names, ROWS), looks, [], 3) == []


def test_the_probe_is_the_stages_own_first_request_and_its_words_are_shown(tmp_path):
    with evil.serving(writing()) as server:
        with annotator(tmp_path, server.url) as (asks, _):
            found = probe(first(tmp_path), asks)
            said = found.said
        assert found.sound
        assert "row test/made/0" in said
        assert "the reply is a chain: '```" in said
        assert len(server.asked) == 1
        results = list(rows.run(tmp_path, ROWS, server.url, tmp_path / "calls.sqlite", CONFIG))
        assert all(isinstance(row, Annotation) for row in results)
        assert len(server.asked) == ROWS
        with annotator(tmp_path, server.url) as (asks, _):
            assert "by the ledger" in probe(first(tmp_path), asks).said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, {}, evil.chat("I cannot see any picture")), "would be sent back as malformed"),
        ((200, {}, evil.chat("```\n<think>", reason="length")), "was cut off: raise annotate.max_tokens"),
    ],
)
def test_a_reply_that_is_no_chain_is_shown_and_the_stage_decides(tmp_path, answer, said, caplog):
    with evil.serving(lambda *_: answer) as server, annotator(tmp_path, server.url) as (asks, _):
        found = probe(first(tmp_path), asks)
    assert said in found.said and not found.sound
    found.log(logging.getLogger("annotate"), "annotate")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and record.message == f"annotate: {found.said}", (
        "a person sees it"
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            (400, {}, BAD),
            r"failed for 3 rows: bad-request: .*this picture is odd.*\n.*--again --reason bad-request",
        ),
        ((500, {}, b"{}"), r"failed for 3 rows: exhausted: .*\n.*See that the endpoint answers"),
        ((200, {}, b"<html>"), r"failed for 3 rows: exhausted: .*not JSON"),
    ],
)
def test_three_rows_that_fail_stop_the_stage_and_one_does_not(tmp_path, answer, said):
    with evil.serving(lambda *_: answer) as server, annotator(tmp_path, server.url) as (asks, _):
        with pytest.raises(Hopeless, match=said):
            probe(first(tmp_path), asks)
        assert len(server.asked) == 3
    with (
        evil.serving(writing(lambda row: row == 0)) as server,
        annotator(tmp_path / "b", server.url) as (asks, _),
    ):
        again = Annotator(rows.library(tmp_path), asks.client, CONFIG)
        assert "the reply is a chain" in probe(first(tmp_path), again).said


def test_a_row_whose_picture_is_gone_is_no_reason_to_stop(tmp_path):
    chosen = first(tmp_path)
    (tmp_path / "0.png").unlink()
    with evil.serving(writing()) as server, annotator(tmp_path, server.url) as (asks, _):
        assert "row test/made/1" in probe(chosen, asks).said
        assert "none of the first rows" in probe(chosen[:1], asks).said
    assert len(server.asked) in (
        1,
        2,
    )  # of rows 1 and 2 the first reply is enough, and the other may not have been sent yet


def test_a_preview_says_what_all_rows_would_cost_and_is_not_paid_again(tmp_path):
    chosen = first(tmp_path, 3)
    with evil.serving(writing(lambda row: row == 1)) as server:
        with annotator(tmp_path, server.url) as (asks, client):
            found = preview(chosen, asks, client, 300)
        assert (found.kept, found.bought, len(server.asked)) == (2, 2, 3)  # one was refused
        with annotator(tmp_path, server.url) as (asks, client):
            again = preview(chosen, asks, client, 300)
        assert (again.bought, len(server.asked)) == (0, 3)
        assert again.used == found.used
        assert len(list(rows.run(tmp_path, ROWS, server.url, tmp_path / "calls.sqlite", CONFIG))) == ROWS
        assert len(server.asked) == ROWS
    whole = found.whole()
    assert (whole.calls, whole.prompt_tokens) == (200, 100 * found.used.prompt_tokens)
    assert whole.money == pytest.approx(100 * found.used.money)
    assert found.used.money == pytest.approx(found.used.tokens * 10 / 1e6)
    first_line, all_rows = found.lines(CONFIG)
    assert first_line.startswith("2 of 3 rows have a chain; 2 calls, 2 of them made now")
    assert f"{whole.money:,.2f} USD" in all_rows
    assert "about 200 chains" in all_rows


def test_the_page_shows_chains_and_why_there_is_none(tmp_path):
    chosen = first(tmp_path, 2)
    with (
        evil.serving(writing(lambda row: row == 1)) as server,
        annotator(tmp_path, server.url) as (asks, client),
    ):
        found = preview(chosen, asks, client, ROWS)
    cards, unseen = cards_of([one.shown for one in found.seen], rows.library(tmp_path))
    assert not unseen
    page = render_page("mine", found.lines(CONFIG), ["annotate.api: <b>"], cards)
    assert page.count("data:image/jpeg") == 2
    assert "Answer: a red coat" in page
    assert "No chain after 1 try: bad-request" in page
    assert "this picture is odd" in page
    assert "&lt;b&gt;" in page  # what others wrote is text


def test_a_row_whose_picture_is_gone_or_another_is_left_off_the_page_and_told(tmp_path):
    chosen = first(tmp_path, 3)
    with evil.serving(writing()) as server, annotator(tmp_path, server.url) as (asks, client):
        found = preview(chosen, asks, client, ROWS)
    (tmp_path / chosen[0].sample.image).unlink()
    (tmp_path / chosen[1].sample.image).write_bytes((tmp_path / chosen[2].sample.image).read_bytes())
    cards, unseen = cards_of([one.shown for one in found.seen], rows.library(tmp_path))
    assert [card.sample for card in cards] == [chosen[2].sample]
    gone, other = unseen
    assert gone.startswith(f"{chosen[0].sample.id} is not on the page: ")
    assert "image-missing" in gone
    assert other.startswith(f"{chosen[1].sample.id} is not on the page: ")
    assert "changed since ingest: sha256" in other


def test_what_was_refused_is_asked_again_once_its_cause_is_mended(tmp_path):
    store = Store(tmp_path)
    mended = False
    with evil.serving(writing(lambda row: row % 2 == 0 and not mended)) as server:

        def reasons() -> list[str]:
            made = rows.run(tmp_path, ROWS, server.url, tmp_path / "calls.sqlite", CONFIG)
            return [row.reason if isinstance(row, Reject) else "" for row in made]

        assert reasons() == ["bad-request", ""] * 3 == reasons()
        assert len(server.asked) == ROWS  # refused for good, until somebody says otherwise
        mended = True
        assert reasons() == ["bad-request", ""] * 3
        assert revive(store, ["content-filter"]) == 0
        assert revive(store, ["bad-request"]) == 3
        assert reasons() == [""] * ROWS
        assert len(server.asked) == ROWS + 3  # what was answered is not asked again
        assert revive(store, []) == 0


@pytest.mark.parametrize("reason", ["answer", "malformed", "depths"])
def test_what_was_answered_is_not_asked_again_unchanged(tmp_path, reason):
    with pytest.raises(UserError, match=f"{reason}: .*use --retry with another --model"):
        revive(Store(tmp_path), [reason])
    with pytest.raises(UserError, match="nothing was asked yet"):
        revive(Store(tmp_path), [])


def test_a_client_that_counts_is_a_client(tmp_path):
    with (
        evil.serving(lambda *_: (200, {}, evil.chat())) as server,
        annotator(tmp_path, server.url) as (_, client),
    ):
        request = llm.Request([{"role": "user", "content": "hi"}], 0.5, 99)
        assert client.ask(request).text == "fine"
        assert (client.used.calls, client.bought) == (1, 1)
        assert client.ask(request).cached
        assert (client.used.calls, client.bought) == (2, 1)


@pytest.mark.parametrize(("before", "stops"), [("bad-request", False), ("answer", True), (None, True)])
def test_a_pass_of_retry_is_not_stopped_by_rows_that_every_endpoint_refuses(tmp_path, before, stops):
    chosen = first(tmp_path, 3)
    reasons = {row.sample.id: before for row in chosen} if before else None
    with evil.serving(writing(lambda row: True)) as server, annotator(tmp_path, server.url) as (asks, _):
        if stops:
            with pytest.raises(Hopeless, match="failed for 3 rows: bad-request"):
                probe(chosen, asks, reasons)
        else:
            assert "3 rows are refused as they were before: bad-request" in probe(chosen, asks, reasons).said
        assert len(server.asked) == 3


def test_an_endpoint_that_does_not_answer_stops_a_pass_whatever_was_before(tmp_path):
    chosen = first(tmp_path, 3)
    with (
        evil.serving(lambda *_: (500, {}, b"{}")) as server,
        annotator(tmp_path, server.url) as (asks, _),
        pytest.raises(Hopeless, match="failed for 3 rows: exhausted"),
    ):
        probe(chosen, asks, {row.sample.id: "exhausted" for row in chosen})


def test_each_pass_of_retry_begins_with_a_row_that_it_asks_again(tmp_path, caplog):
    store = Store(tmp_path / "store")
    names = rows.pictures(tmp_path, ROWS)
    made = {"samples": SAMPLES, "focus": FOCUS, "maps": MAPS}
    tables_of = {
        "samples": list(rows.samples(names, ROWS)),
        "focus": [rows.focus(row) for row in rows.samples(names, ROWS)],
        "maps": list(rows.maps(names)),
    }
    parts = {}
    for name, schema in made.items():
        write(tmp_path / f"{name}.parquet", schema, tables_of[name])
        parts[name] = SimpleNamespace(parts=lambda _, name=name: [tmp_path / f"{name}.parquet"])
    letters = [
        Reject("annotate", "answer", "{}", id=f"test/made/{number}", source="test") for number in (3, 4)
    ]
    write(tmp_path / "rejects.parquet", REJECTS, letters)
    parts["chains"] = SimpleNamespace(rejects=lambda: [tmp_path / "rejects.parquet"])
    with evil.serving(writing()) as server:
        api = API.model_copy(update={"base_url": server.url})
        passes = (Again(model="other"), Again(model="third", reasons=("depths",)))
        job = SimpleNamespace(
            config=SimpleNamespace(
                annotate=CONFIG.model_copy(update={"api": api}),
                retry=SimpleNamespace(passes=passes),
                sources=(),
                ingest=Ingest(),
            ),
            inputs=parts,
            folders={"test": tmp_path},
            store=store,
            work=tmp_path,
            order=SimpleNamespace(label="retry", stage=SimpleNamespace(name="retry")),
            elsewhere=Elsewhere(),
            log=logging.getLogger("retry"),
            notes={},
        )
        with caplog.at_level(logging.INFO), retrying.retry.around(job) as endpoints:
            assert len(endpoints.urls) == 2
        asked = [json.loads(body) for body in server.asked]
    assert [body["model"] for body in asked] == ["other"], "no row was rejected for the second pass's reason"
    assert "What is number 3?" in json.dumps(asked[0])
    assert "retry with other: probe: row test/made/3" in caplog.text
