import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from sifthinker import llm
from sifthinker.annotation import annotate, dead_letters, early_stop, projection
from sifthinker.annotation.acceptance import check
from sifthinker.config import Prices
from sifthinker.core import rejects
from sifthinker.core.prompts import ANNOTATOR_SYSTEM, regions_json
from sifthinker.core.records import WHOLE, Annotation, Region, Reject, Sample
from sifthinker.llm import standin
from sifthinker.llm.bookkeeping import SHARED, Place
from tests import annotation_rows as rows

pytestmark = pytest.mark.e2e  # the stand-in is a program

slow = pytest.mark.slow
MIXED = {kind: 0.3 / len(standin.FAULTS) for kind in standin.FAULTS}
PROGRAM = [sys.executable, str(Path(rows.__file__))]


def test_every_row_is_annotated_in_order_and_a_second_run_asks_nothing(tmp_path):
    with standin.running(tmp_path / "log") as url:
        first = list(rows.run(tmp_path, 30, url, tmp_path / "calls.db", rows.settings()))
        asked = standin.counts(url)["requests"]
        second = list(rows.run(tmp_path, 30, url, tmp_path / "calls.db", rows.settings()))
        assert standin.counts(url)["requests"] == asked == 30
        # Another model is asked anew; more rows and another number in flight cost only what is new.
        more = list(rows.run(tmp_path, 35, url, tmp_path / "calls.db", rows.settings(concurrency=4)))
        assert standin.counts(url)["requests"] == 35
        other = list(rows.run(tmp_path, 30, url, tmp_path / "calls.db", rows.settings(model="other")))
        assert standin.counts(url)["requests"] == 35 + 30
    assert first == second == more[:30]
    assert [row.steps for row in other] == [row.steps for row in first]
    assert all(isinstance(row, Annotation) for row in first)
    assert [row.id for row in first] == [f"test/made/{n}" for n in range(30)]
    assert {row.attempts for row in first} == {1}
    assert all(row.model.startswith("standin") for row in first)
    assert all(
        check(row.chain, row.steps, sample).answer for row, sample in zip(first, made(30), strict=True)
    )


def made(count: int) -> list[Sample]:
    return list(rows.samples([("0.png", "0")], count))


# --- What must hold, 1: faults -----------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=slow)])
def place(request, tmp_path, monkeypatch) -> Place:
    """A ledger in a file, and one in a database."""
    if request.param == "sqlite":
        return tmp_path / "calls.db"
    monkeypatch.setenv("SIF_LEDGER", request.getfixturevalue("database"))
    return SHARED


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=slow)])
def test_under_mixed_faults_no_row_is_lost_doubled_or_paid_twice(tmp_path, place, count):
    with standin.running(tmp_path / "log", MIXED, stall=30, retry_after=0.1) as url:
        results = list(rows.run(tmp_path, count, url, place, rows.settings(concurrency=64, timeout=5.0)))
        counts = standin.counts(url)
    kept = [row for row in results if isinstance(row, Annotation)]
    rejected = [row for row in results if isinstance(row, Reject)]
    assert [row.id for row in results] == [f"test/made/{n}" for n in range(count)]
    assert len(kept) + len(rejected) == count
    assert all(row.reason and rejects.attempts(row.detail) for row in rejected)
    assert len(kept) > 0.9 * count
    assert counts["repeated"] == 0
    assert all(counts[kind] for kind in ("500", "429", "reset", "malformed-json", "stall", "duplicate"))
    print(counts, Counter(row.reason for row in rejected))


def test_a_row_that_stays_wrong_is_a_reject_with_every_attempt(tmp_path):
    with standin.running(tmp_path / "log", {"wrong-depths": 1.0}) as url:
        (row,) = rows.run(tmp_path, 1, url, tmp_path / "calls.db", rows.settings())
    assert isinstance(row, Reject)
    assert row.reason == "depths"
    tried = rejects.attempts(row.detail)
    assert len(tried) == 3
    assert all("asked was" in attempt["reason"] and "<think>" in attempt["text"] for attempt in tried)


def test_a_wrong_answer_is_found_by_the_judge(tmp_path):
    with standin.running(tmp_path / "log", {"wrong-answer": 1.0}) as url:
        results = list(rows.run(tmp_path, len(rows.ANSWERS), url, tmp_path / "calls.db", rows.settings()))
    assert [row.reason for row in results] == ["answer"] * len(rows.ANSWERS)


# --- 2 and 3: kills, two processes -------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("count", "kills"), [(200, 3), pytest.param(2000, 20, marks=[slow, pytest.mark.timeout(3000)])]
)
def test_killed_at_random_moments_it_ends_with_the_artifact_of_an_undisturbed_run(
    tmp_path, place, count, kills
):
    faults = dict.fromkeys(standin.CONTENT, 0.02)
    random.seed(count)
    with standin.running(tmp_path / "log", faults, latency=0.1) as url:
        rows.save(rows.run(tmp_path, count, url, tmp_path / "calm.db", rows.settings()), tmp_path / "calm")
        needed = standin.counts(url)["distinct"]
    with standin.running(tmp_path / "log", faults, latency=0.1) as url:
        command = [
            *PROGRAM,
            str(tmp_path),
            str(count),
            url,
            str(place),
            str(tmp_path / "killed"),
        ]
        for _ in range(kills):
            before = standin.counts(url)["requests"]
            program = subprocess.Popen(command)
            goal = before + random.randint(1, max(1, (needed - before) // 4))
            while standin.counts(url)["requests"] < goal and program.poll() is None:
                time.sleep(0.01)
            time.sleep(random.uniform(0, 0.15))
            program.send_signal(signal.SIGKILL)
            program.wait()
        subprocess.run(command, check=True)
        counts = standin.counts(url)
    assert rows.digest(tmp_path / "killed") == rows.digest(tmp_path / "calm")
    assert counts["distinct"] == needed
    assert counts["repeated"] <= kills * rows.settings().api.concurrency
    print(counts)


@pytest.mark.e2e
@pytest.mark.parametrize("count", [120, pytest.param(2000, marks=slow)])
def test_two_processes_that_annotate_the_same_rows_pay_each_request_once(tmp_path, place, count):
    with standin.running(tmp_path / "log", latency=0.05, faults={"500": 0.05, "wrong-boxes": 0.05}) as url:
        names = ("one", "two")
        for name in names:
            (tmp_path / f"pictures-{name}").mkdir()
        both = [
            subprocess.Popen(
                [*PROGRAM, str(tmp_path / f"pictures-{name}"), str(count), url, str(place), str(tmp_path / name)]
            )
            for name in names
        ]  # fmt: skip
        assert [program.wait() for program in both] == [0, 0]
        counts = standin.counts(url)
    assert counts["repeated"] == 0
    assert rows.digest(tmp_path / "one") == rows.digest(tmp_path / "two")
    print(counts)


# --- 7: budget ---------------------------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=slow)])
def test_a_budget_that_ends_at_half_stops_and_a_higher_one_continues(tmp_path, count):
    ledger = tmp_path / "calls.db"
    with standin.running(tmp_path / "log", latency=0.02) as url:
        list(rows.run(tmp_path, count, url, tmp_path / "all.db", rows.settings()))
        counts = standin.counts(url)
        tokens = counts["prompt_tokens"] + counts["completion_tokens"]
    with standin.running(tmp_path / "log", latency=0.02) as url:
        half = rows.settings(concurrency=8, budget_tokens=tokens // 2)
        with pytest.raises(llm.BudgetSpent) as stop:
            list(rows.run(tmp_path, count, url, ledger, half))
        counts = standin.counts(url)
        paid = counts["prompt_tokens"] + counts["completion_tokens"]
        assert tokens // 2 <= paid <= tokens // 2 + 8 * tokens / count * 1.2  # the calls in flight
        assert "budget" in str(stop.value)
        assert "remain" in str(stop.value)
        with pytest.raises(llm.BudgetSpent):  # the same budget buys nothing more
            list(rows.run(tmp_path, count, url, ledger, half))
        assert standin.counts(url)["requests"] == counts["requests"]
        more = rows.settings(concurrency=8, budget_tokens=2 * tokens)
        results = list(rows.run(tmp_path, count, url, ledger, more))
        assert all(isinstance(row, Annotation) for row in results)
        assert standin.counts(url)["repeated"] == 0
        assert standin.counts(url)["distinct"] == count


# --- 8: the key --------------------------------------------------------------------------------------------


def test_the_key_is_nowhere_after_a_run_with_faults(tmp_path, monkeypatch, caplog, capfd):
    secret = "sk-this-must-stay-secret"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    caplog.set_level("DEBUG")
    with standin.running(tmp_path / "log", MIXED, stall=30, key=secret) as url:
        rows.save(
            rows.run(tmp_path, 60, url, tmp_path / "calls.db", rows.settings(retries=1)), tmp_path / "out"
        )
    with standin.running(tmp_path / "log", key="another") as url:  # echoes the wrong key in its error
        with pytest.raises(llm.Unauthorized) as stop:
            list(rows.run(tmp_path, 60, url, tmp_path / "calls.db", rows.settings(model="other")))
        assert standin.counts(url)["401"] <= 32  # those in flight; the data set is not burnt
    assert "OPENAI_API_KEY" in str(stop.value)
    captured = capfd.readouterr()
    texts = [str(stop.value), repr(stop.value.__cause__), caplog.text, captured.out, captured.err]
    assert not any(secret in text for text in texts)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 4
    assert not [path for path in written if secret.encode() in path.read_bytes()]


# --- The rest ----------------------------------------------------------------------------------------------


def test_an_image_is_encoded_once_and_not_once_per_attempt(tmp_path, monkeypatch):
    drawn = []
    original = annotate.drawing.annotated
    monkeypatch.setattr(annotate.drawing, "annotated", lambda *a: drawn.append(1) or original(*a))
    with standin.running(tmp_path / "log", {"wrong-boxes": 1.0}) as url:
        (row,) = rows.run(tmp_path, 1, url, tmp_path / "calls.db", rows.settings())
    assert len(rejects.attempts(row.detail)) == 3
    assert len(drawn) == len(rows.focus(made(1)[0]).steps)


def test_rows_that_cannot_be_asked_are_rejects_with_their_reason(tmp_path):
    names = rows.pictures(tmp_path, 5)
    data = list(rows.samples(names, 5))
    looks = [rows.focus(row) for row in data[1:]]  # 0: expand rejected it
    images = list(rows.maps(names))
    del images[1]  # 1: depth rejected its image
    (tmp_path / "2.png").unlink()
    (tmp_path / "3.png").write_bytes((tmp_path / "4.png").read_bytes())
    with (
        standin.running(tmp_path / "log") as url,
        llm.Client(rows.settings().api, tmp_path / "calls.db", url) as client,
    ):
        results = list(
            annotate.annotate(data, looks, images, rows.library(tmp_path), client, rows.settings())
        )
        assert client.progress().rows_kept == 1
        assert client.progress().rows_rejected == 4
    reasons = [row.reason if isinstance(row, Reject) else "" for row in results]
    assert reasons == ["focus-missing", "depth-missing", "image-missing", "image-changed", ""]


def test_a_file_that_ingest_took_is_taken_however_many_bytes_it_has_besides_its_pixels(tmp_path):
    """Animations, pages and what lies behind a picture: their bytes are limited as ingest limits them."""
    file = tmp_path / "long.png"
    rows.pictures(tmp_path, 1)
    (tmp_path / "0.png").rename(file)
    with file.open("r+b") as opened:
        opened.truncate(8 * rows.WIDTH * rows.HEIGHT + 2**24 + 1)
    names = [(file.name, hashlib.sha256(file.read_bytes()).hexdigest())]
    [row] = rows.samples(names, 1)
    library = rows.library(tmp_path)
    data = library.of(row).data  # as ingest, depth and publish read it
    photo, pictures = annotate.Annotator(library, None, rows.settings()).pictures(
        row, ((Region(WHOLE, 0.5),),)
    )
    assert photo == data
    assert len(pictures) == 1


def test_dead_letters_are_listed_by_reason(tmp_path):
    faults = {"wrong-depths": 0.5, "content-filter": 0.3}
    with standin.running(tmp_path / "log", faults) as url:
        settings = rows.settings().model_copy(update={"attempts": 1})
        _, rejected = rows.save(
            rows.run(tmp_path, 40, url, tmp_path / "calls.db", settings), tmp_path / "out"
        )
    letters = dead_letters.dead_letters(tmp_path / "out" / "rejects.parquet")
    assert {letter.reason for letter in letters} == {"depths", "content-filter"}
    assert sum(letter.rows for letter in letters) == rejected
    assert letters[0].rows >= letters[1].rows
    assert all(letter.example and len(letter.ids) == letter.rows for letter in letters)


def test_the_projection_is_near_what_the_stage_then_costs(tmp_path):
    config = rows.settings(prices=Prices(prompt=2.0, completion=8.0))
    data = made(600)
    projected = projection.project(data, map(rows.focus, data), config, sampled=100)
    assert projected.rows == 600
    assert 600 <= projected.calls <= 1400
    expected = (projected.prompt_tokens * 2 + projected.completion_tokens * 8) / 1e6
    assert projected.money == pytest.approx(expected)
    blind = projection.project(data, None, config)
    assert blind.prompt_tokens == pytest.approx(projected.prompt_tokens, rel=0.3)


def test_the_prompt_shows_the_question_and_then_every_region_with_its_picture():
    [row] = made(1)
    box, pair = Region((0.2, 0.2, 0.4, 0.4), 0.331), Region((0.6, 0.1, 0.9, 0.5), 0.35)
    asked = ((Region(WHOLE, 0.512),), (box, pair), (box,))
    system, user = annotate.messages(row, asked, ["data:1", "data:2", "data:3"])
    assert system == {"role": "system", "content": ANNOTATOR_SYSTEM}
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["text", *["text", "image_url"] * 3]
    assert row.question in user["content"][0]["text"]
    assert regions_json(asked[1]) in user["content"][3]["text"]
    assert json.dumps(user).count("data:2") == 1


def test_no_process_of_a_stand_in_is_left(tmp_path):
    with standin.running(tmp_path / "log") as url:
        children = subprocess.run(
            ["pgrep", "-P", str(os.getpid())], capture_output=True, text=True
        ).stdout.split()
        assert standin.counts(url)["answered"] == 0
    assert not [
        pid
        for pid in children
        if Path(f"/proc/{pid}/cmdline").exists() and b"standin" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


# --- Nothing is accepted -----------------------------------------------------------------------------------


def hopeless(tmp_path: Path, fault: str, count: int = 60, **changed: object) -> tuple[list[object], str, int]:
    """What came of `count` rows that the annotator gets all wrong, how it ended, and the calls that were answered."""
    config = rows.settings(concurrency=4).model_copy(update=changed)
    results: list[object] = []
    with standin.running(tmp_path / "log", {fault: 1.0}) as url:
        ended = ""
        try:
            results.extend(rows.run(tmp_path, count, url, tmp_path / "calls.db", config))
        except early_stop.Hopeless as error:
            ended = str(error)
        return results, ended, standin.counts(url)["requests"]


def test_a_stage_whose_first_rows_all_fail_stops_before_the_rest_is_paid(tmp_path):
    _, ended, asked = hopeless(tmp_path, "wrong-depths", give_up_after=10)
    assert "first 10 rows were all rejected: depths 10" in ended
    assert "the model wrote: '```" in ended and "test/made/" in ended and "annotate.give_up_after" in ended
    # Ten rows of three attempts, and what was under way: at most six rows (concurrency and a quarter more).
    assert 30 <= asked <= 48
    with llm.Client(rows.settings(concurrency=4).api, tmp_path / "calls.db", "http://127.0.0.1:9") as client:
        assert client.engine.costs.known.calls == asked  # all that was paid is in the ledger
    # A second run is told the same by the ledger, and asks at most what the first had under way.
    _, again, more = hopeless(tmp_path, "wrong-depths", give_up_after=10)
    assert "first 10 rows" in again
    assert more <= 18


def test_shards_share_what_they_see_of_the_first_rows(tmp_path):
    config = rows.settings(concurrency=4).model_copy(update={"give_up_after": 10, "attempts": 1})
    with standin.running(tmp_path / "log", {"wrong-depths": 1.0}) as url:
        with llm.Client(config.api, tmp_path / "calls.db", url):  # as the stage holds one for all its shards
            few = config.model_copy(update={"seed": 1})
            assert len(list(rows.run(tmp_path, 6, url, tmp_path / "calls.db", few))) == 6
            with pytest.raises(early_stop.Hopeless, match="first 10 rows"):
                list(rows.run(tmp_path, 40, url, tmp_path / "calls.db", config))
        assert (
            len(list(rows.run(tmp_path, 6, url, tmp_path / "calls.db", few))) == 6
        )  # another stage starts anew


@pytest.mark.parametrize("changed", [{"give_up_after": 0}, {"give_up_after": 100}])
def test_a_stage_goes_on_where_it_may_or_where_there_are_fewer_rows(tmp_path, changed):
    results, ended, _ = hopeless(tmp_path, "wrong-depths", 20, attempts=1, **changed)
    assert not ended
    assert len(results) == 20


def test_one_accepted_row_at_the_start_is_enough_to_go_on(tmp_path):
    config = rows.settings(concurrency=1).model_copy(update={"give_up_after": 10, "attempts": 1})
    with standin.running(tmp_path / "log") as url:
        list(rows.run(tmp_path, 1, url, tmp_path / "calls.db", config))
    with standin.running(tmp_path / "log", {"wrong-depths": 1.0}) as url:  # the first row is in the ledger
        results = list(rows.run(tmp_path, 30, url, tmp_path / "calls.db", config))
    assert [isinstance(row, Annotation) for row in results] == [True, *[False] * 29]
