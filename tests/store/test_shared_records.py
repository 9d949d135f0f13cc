"""Records on S3: other machines get them, clocks do not matter, and what could not be sent is sent later."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sifthinker.core.errors import UserError
from sifthinker.store import runs, s3
from sifthinker.store.artifacts import Store


def away(*_: Any, **__: Any) -> Any:
    raise UserError("the server is away")


def state(store: Store, name: str = "r") -> str:
    return str(json.loads(runs.file(store, name).read_text())["state"])


def write(store: Store, said: str, name: str = "r") -> None:
    store.record(runs.file(store, name), {"id": name, "state": said})


def unsent(store: Store) -> list[Path]:
    return sorted((store.root / "unsent").rglob("*.json"))


@pytest.fixture
def here(bucket: str, tmp_path: Path) -> Store:
    return Store(tmp_path / "a", bucket)


@pytest.fixture
def there(bucket: str, tmp_path: Path) -> Store:
    return Store(tmp_path / "b", bucket)


def next_second(store: Store, name: str = "r") -> None:
    """The server's clock counts whole seconds."""
    assert store.remote
    stored = store.remote.stored(f"runs/{name}.json")
    assert stored
    time.sleep(max(0.0, stored.modified + 1.05 - time.time()))


@pytest.mark.parametrize("skew", [-3600.0, 3600.0], ids=["an hour slow", "an hour fast"])
def test_a_later_record_of_another_machine_comes_whatever_this_machines_clock_says(
    here: Store, there: Store, skew: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = s3.Remote.upload

    def upload(self: s3.Remote, file: Path, name: str) -> str:  # of a file that a skewed clock has dated
        os.utime(file, (time.time() + skew, time.time() + skew))
        return whole(self, file, name)

    with monkeypatch.context() as patch:
        patch.setattr(s3.Remote, "upload", upload)
        write(here, "of this machine")
    next_second(here)
    there.pull()
    write(there, "of the other machine")
    here.pull()
    assert state(here) == "of the other machine"


def test_two_records_of_one_second_are_told_apart_by_their_size(here: Store, there: Store) -> None:
    write(here, "one")
    write(there, "another")
    here.pull()
    assert state(here) == "another"


def test_a_record_that_could_not_be_sent_outlasts_a_pull_and_is_shared_by_it(
    here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here, "running")
    there.pull()
    with monkeypatch.context() as patch:
        patch.setattr(s3.Remote, "upload", away)
        with pytest.raises(UserError, match="away"):
            write(here, "finished")
        assert len(unsent(here)) == 1
        os.utime(runs.file(here, "r"), (0, 0))  # as a clock that is far behind dates it
        here.pull()
        assert state(here) == "finished", "what is newer here is not overwritten"
    Store(here.root).pull()
    assert not unsent(here)
    next_second(here)
    there.pull()
    assert state(there) == "finished"


def test_the_next_run_sends_what_an_earlier_one_could_not(
    here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(s3.Remote, "upload", away)
        for name in ("r", "q"):
            with pytest.raises(UserError, match="away"):
                write(here, "finished", name)
        assert here.push_pending() == [], "the server is still away"
    assert Store(here.root).push_pending() == ["runs/q.json", "runs/r.json"]
    assert here.push_pending() == [] and not unsent(here)
    there.pull()
    assert state(there) == state(there, "q") == "finished"


def test_a_process_that_is_killed_at_its_upload_leaves_word_of_it(
    here: Store, there: Store, bucket: str
) -> None:
    code = f"""
import os
from pathlib import Path
from sifthinker.store import s3
from sifthinker.store.artifacts import Store
s3.Remote.upload = lambda *_: os._exit(9)
store = Store(Path({str(here.root)!r}), {bucket!r})
store.record(store.root / "runs" / "r.json", {{"id": "r", "state": "finished"}})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    here.pull()
    there.pull()
    assert state(there) == "finished" and not unsent(here)


def test_a_record_that_another_machine_has_written_since_stays_theirs(
    here: Store, there: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(here, "running")
    there.pull()
    with monkeypatch.context() as patch:
        patch.setattr(s3.Remote, "upload", away)
        with pytest.raises(UserError, match="away"):
            write(here, "crashed")
    next_second(here)
    write(there, "finished by a retry")
    with caplog.at_level(logging.WARNING):
        here.pull()
    assert state(here) == "finished by a retry" and not unsent(here)
    assert "runs/r.json: another machine has written it since" in caplog.text
    there.pull()
    assert state(there) == "finished by a retry"


def test_an_answer_that_is_lost_is_not_taken_for_another_machines_record(
    here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here, "running")
    next_second(here)
    with monkeypatch.context() as patch:
        patch.setattr(s3.Remote, "stored", away)  # the server has it, and does not say so
        with pytest.raises(UserError, match="away"):
            write(here, "at sft")
        patch.setattr(s3.Remote, "upload", away)
        with pytest.raises(UserError, match="away"):
            write(here, "finished")
    assert here.push_pending() == ["runs/r.json"]
    there.pull()
    assert state(there) == "finished"


def test_word_of_a_record_that_was_pruned_goes(here: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(s3.Remote, "upload", away)
        with pytest.raises(UserError, match="away"):
            write(here, "finished")
    runs.file(here, "r").unlink()
    assert here.push_pending() == [] and not unsent(here)


def test_pages_come_to_machines_at_which_people_look_and_to_no_run(here: Store, there: Store) -> None:
    page = here.root / "nights" / "n" / "report.html"
    with here.sharing(page):
        page.parent.mkdir(parents=True)
        page.write_text("a page")
    there.pull()
    assert not (there.root / "nights").exists()
    there.pull(pages=True)
    assert (there.root / "nights" / "n" / "report.html").read_text() == "a page"


def test_without_a_remote_nothing_is_noted(tmp_path: Path) -> None:
    alone = Store(tmp_path)
    write(alone, "finished")
    assert alone.push_pending() == [] and {path.name for path in tmp_path.iterdir()} == {"runs"}
