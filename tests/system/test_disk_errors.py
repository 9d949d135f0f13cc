"""A disk that is full or read-only: a clear error, nothing half-written taken for whole, and the next run finishes.

The file systems are real: a tmpfs of a megabyte or two, mounted by the test where it may, and mounted again read-only.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from sifthinker import llm
from sifthinker.config import Api, parse
from sifthinker.core.errors import UserError
from sifthinker.core.tables import Writer
from sifthinker.llm import judge, standin
from sifthinker.llm.ledger import Reply
from sifthinker.llm.ledger_sqlite import SqliteLedger
from sifthinker.llm.usage import Usage
from sifthinker.store import verification
from sifthinker.store.artifacts import Store
from sifthinker.system.disk_errors import explained, trouble
from sifthinker.system.files import write_json
from sifthinker.upkeep import data_checks, findings, machine_checks

SMALL = 2_000_000  # bytes


def _mount(*options: str) -> bool:
    return subprocess.run(["mount", *options], capture_output=True).returncode == 0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() or not _mount("-t", "tmpfs", "-o", f"size={SMALL}", "sif-test", str(folder)):
        pytest.skip("only root may mount a file system, and not in every container")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leaves no byte of room; deleting the file makes it again."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return ballast


def read_only(folder: Path) -> Callable[[], bool]:
    """Takes the right to write away; the result gives it back."""
    assert _mount("-o", "remount,ro", str(folder))
    return lambda: _mount("-o", "remount,rw", str(folder))


def make(store: Store, size: int) -> None:
    with explained("stage"), store.making("s", "k", {"label": "s", "inputs": {}}) as draft:
        (draft.out / "a").write_bytes(b"a" * 1000)
        (draft.out / "b").write_bytes(b"b" * size)


def test_a_full_disk_ends_a_making_clearly_and_with_room_it_succeeds(small: Path) -> None:
    store = Store(small / "store")
    with pytest.raises(UserError, match=r"stage: .*the disk is full; make room") as raised:
        make(store, 2 * SMALL)
    assert isinstance(raised.value.__cause__, OSError)
    assert store.find("s", "k") is None
    assert not list((small / "store" / "s").glob("k.*")), "nothing of it is left to fill the disk"
    make(store, 1000)
    assert Store(small / "store").find("s", "k") is not None


def test_a_disk_that_is_full_at_the_last_byte_leaves_no_manifest_and_no_half_record(small: Path) -> None:
    store = Store(small / "store")
    make(store, 1000)
    record = small / "runs" / "run.json"
    write_json(record, {"state": "before"})
    ballast = fill(small)
    with pytest.raises(OSError, match="No space left"):
        write_json(record, {"state": "after", "more": "x" * 10_000})
    assert [path.name for path in record.parent.iterdir()] == ["run.json"]
    assert "before" in record.read_text()
    with pytest.raises(UserError, match="the disk is full"), explained("stage"), store.making("s", "k2", {}):
        pass
    assert store.find("s", "k2") is None
    found = Store(small / "store").find("s", "k")
    assert found, "what was whole is whole, and can be read on a full disk"
    ballast.unlink()
    with store.making("s", "k2", {}):
        pass
    assert store.find("s", "k2") is not None


def test_a_parquet_file_on_a_full_disk_is_a_clear_error(small: Path) -> None:
    schema = pa.schema([("x", pa.binary())])
    with pytest.raises(UserError, match=r"publish: .*the disk is full"):  # noqa: SIM117
        with explained("publish"), Writer(small / "x.parquet", schema, batch=1) as writer:
            for _ in range(8):
                writer.add({"x": os.urandom(SMALL // 4)})


def test_a_read_only_store_can_be_read_and_says_why_it_cannot_be_written(
    small: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIF_CACHE", str(small / "cache"))
    verification.verifier.cache_clear()
    make(Store(small / "store"), 1000)
    writable = read_only(small)
    store = Store(small / "store")
    found = store.find("s", "k")
    assert found and (found.folder / "a").read_bytes() == b"a" * 1000
    assert "digests of files are not remembered" in caplog.text
    with pytest.raises(UserError, match=r"stage: .*read-only.*give this user the right"):
        make(store, 1000)
    with pytest.raises(UserError, match="read-only"), explained("stage"):
        store.lock("s", "k2").acquire()
    with pytest.raises(UserError, match="cannot open the ledger"):
        SqliteLedger(small / "calls.sqlite")
    assert writable()
    make(store, 2000)
    assert store.find("s", "k") is not None
    verification.verifier.cache_clear()


def test_a_ledger_that_cannot_grow_keeps_what_was_paid_and_goes_on_with_room(small: Path) -> None:
    ledger = SqliteLedger(small / "calls.sqlite")
    reply = Reply("x" * 1000, "stop", "m", 10, 5)
    assert ledger.claim("paid", "account", b"{}") == "mine"
    ledger.settle("paid", reply, Usage(1, 10, 0, 5, 0.5))
    ballast = fill(small)
    with pytest.raises(sqlite3.OperationalError, match="full") as raised:
        for number in range(1000):  # until the room that SQLite has in its files is used up
            assert ledger.claim(f"more {number}", "account", os.urandom(4000)) == "mine"
    assert "the disk is full" in str(trouble(raised.value))
    ledger.close()  # no second error hides the first
    ballast.unlink()
    again = SqliteLedger(small / "calls.sqlite")
    known = again.claim("paid", "account", b"{}")
    assert isinstance(known, Reply) and known.text == reply.text
    assert again.usage("account") == Usage(1, 10, 0, 5, 0.5)
    assert again.claim(f"more {number}", "account", b"{}") == "mine", "its transaction left nothing"
    again.close()


def test_calls_stop_when_they_can_no_longer_be_recorded_and_none_is_paid_twice_with_room(
    small: Path, tmp_path: Path
) -> None:
    path = small / "calls.sqlite"
    questions = [judge.request("q", "a", os.urandom(3000).hex()) for _ in range(400)]
    with standin.running(tmp_path / "log") as url:
        api = Api(base_url=url, model="m", concurrency=4)
        with pytest.raises(UserError, match=r"calls\.sqlite: .*full"), llm.Client(api, path) as client:
            assert isinstance(client.ask(questions[0]), Reply)
            ballast = fill(small)
            client.ask_all(questions)
        asked = standin.counts(url)["answered"]
        assert asked < len(questions), "what cannot be recorded is not bought"
        with pytest.raises(UserError, match=r"cannot open the ledger.*full"), llm.Client(api, path):
            pass
        ballast.unlink()
        with llm.Client(api, path) as client:
            assert isinstance(client.ask(questions[0]), Reply)
        assert standin.counts(url)["answered"] == asked, "the first answer is in the ledger"


def test_the_doctor_finds_a_full_and_a_read_only_disk(small: Path) -> None:
    settings = parse({"store": str(small / "store"), "scenes": {}, "model": {"weights": "tiny"}}, "test")

    def look() -> dict[str, str]:
        found = findings.examine(
            {"disk": lambda: machine_checks.disk(settings), "store": lambda: data_checks.store(settings)}
        )
        return {finding.check: finding.verdict for finding in found}

    Store(small / "store")
    ballast = fill(small)
    assert look()["disk: store"] == look()["store"] == "error"
    found = findings.examine({"store": lambda: data_checks.store(settings)})
    assert "the disk is full" in found[0].found and "sif prune" in found[0].todo
    ballast.unlink()
    writable = read_only(small)
    found = findings.examine({"store": lambda: data_checks.store(settings)})
    assert len(found) == 1 and "read-only" in found[0].found and "the right to write" in found[0].todo
    assert writable()
    assert look()["store"] == "ok"


def test_a_file_that_grows_past_the_users_limit_is_a_clear_error(tmp_path: Path) -> None:
    code = f"""
import resource, signal, sys
from pathlib import Path
from sifthinker.core.errors import UserError
from sifthinker.system.disk_errors import explained
from sifthinker.store.artifacts import Store
store = Store(Path({str(tmp_path / "store")!r}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with explained("stage"), store.making("s", "k", {{"label": "s", "inputs": {{}}}}) as draft:
        (draft.out / "b").write_bytes(b"b" * 200_000)
except UserError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        done.returncode == 1 and "stage: " in done.stderr and "larger than this user may make" in done.stderr
    )
    store = Store(tmp_path / "store")
    assert store.find("s", "k") is None
    make(store, 200_000)
    assert store.find("s", "k") is not None


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space", "/store/x"), "/store/x: the disk is full"),
        (OSError(errno.EDQUOT, "quota"), "quota is used up"),
        (PermissionError(errno.EACCES, "denied", "/store"), "/store: permission denied"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),  # of Rust
        (OSError(errno.ENOENT, "no such file", "x"), None),
        (sqlite3.OperationalError("no such table: x"), None),
        (ValueError("something else"), None),
    ],
)
def test_errors_of_the_disk_are_told_from_others(error: Exception, says: str | None) -> None:
    said = trouble(error)
    assert (said is None) if says is None else (says in str(said))
    with pytest.raises(type(error) if says is None else UserError), explained("stage"):
        raise error
