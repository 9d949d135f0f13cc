"""What an artifact took in tries that were killed or failed is in its manifest, and is counted once."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from flows.commands import outcome
from sifthinker.config import Config
from sifthinker.llm.call_counts import Counts
from sifthinker.reporting import bought
from sifthinker.store.artifacts import Store
from tasks.runtime import endpoint, tries
from tasks.runtime.decide import decide
from tasks.runtime.make import make_artifact
from tasks.runtime.stage import Endpoints, Job, Stage, stage
from tasks.runtime.stage_results import Results

LOG = logging.getLogger("test")
SCHEMA = pa.schema([("id", pa.string())])


class Asking:
    """A stage that buys some calls in each try, and fails in all but the last."""

    def __init__(self, root: Path, fails: int) -> None:
        self.store, self.fails, self.tried = Store(root), fails, 0

    def make(self, refresh: bool = False) -> dict[str, Any]:
        """One try; the manifest."""
        made = decide(self.store, self.stage, "asking", Config.model_validate({"scenes": {}}), {}, refresh)
        if not made.cached:
            make_artifact(made.order, self.store, LOG)
        found = self.store.find("asking", made.order.key)
        assert found
        return dict(found.manifest)

    @property
    def work(self) -> Path:
        (work,) = (self.store.root / "asking").glob("*.work")
        return work

    @property
    def stage(self) -> Stage:
        @contextmanager
        def around(job: Job) -> Iterator[Endpoints]:
            with endpoint.watched(job, lambda: counts(10)):
                yield job.endpoints

        def asking(job: Job) -> None:
            self.tried += 1
            time.sleep(0.05)
            if self.tried <= self.fails:
                raise ConnectionError("the endpoint is gone")
            job.keep("rows", SCHEMA, [{"id": "1"}])

        return stage(config=lambda c: {}, results=Results(("expand",)), around=around)(asking)


def counts(calls: int) -> Counts:
    return Counts(
        rows_total=0, rows_kept=0, rows_rejected=0, calls=calls, cached=7, failed=0, in_flight=0,
        prompt_tokens=100, completion_tokens=10, money=0.5, currency="CNY", per_minute=0.0, seconds_left=None,
    )  # fmt: skip


def test_failed_tries_are_added_to_the_one_that_made_it(tmp_path: Path) -> None:
    asked = Asking(tmp_path, fails=2)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            asked.make()
    manifest = asked.make()
    before = dict(manifest["notes"][bought.EARLIER])
    assert 0.1 < before.pop("seconds") < 60
    assert before == {
        "tries": 2, "calls": 20, "prompt_tokens_bought": 200, "completion_tokens_bought": 20, "cost": "1.0000 CNY",
    }  # fmt: skip
    assert manifest["notes"]["calls"] == 10 and manifest["notes"]["cost"] == "0.5000 CNY"  # of the last
    assert bought.tries(manifest) == 3
    assert bought.seconds(manifest) > manifest["seconds"] + 0.1
    of_all = bought.notes(manifest)
    assert (of_all["calls"], of_all["cost"]) == (30, "1.5000 CNY")
    assert of_all["answered_by_the_ledger"] == 7  # what an earlier try bought would be counted twice
    assert not (asked.work / tries.FILE).exists()


def test_one_try_has_no_note(tmp_path: Path) -> None:
    manifest = Asking(tmp_path, fails=0).make()
    assert bought.EARLIER not in manifest["notes"] and bought.tries(manifest) == 1
    assert bought.seconds(manifest) == manifest["seconds"]
    assert bought.notes(manifest) == manifest["notes"]


def test_a_refresh_counts_its_own_tries_alone(tmp_path: Path) -> None:
    """The first artifact's tries are left behind as by a kill between its publication and the end."""
    asked = Asking(tmp_path, fails=1)
    with pytest.raises(ConnectionError):
        asked.make()
    left = (asked.work / tries.FILE).read_text()
    asked.make()
    (asked.work / tries.FILE).write_text(left)
    asked.fails = 3  # the third try fails, the first of the refresh
    with pytest.raises(ConnectionError):
        asked.make(refresh=True)
    manifest = asked.make(refresh=True)
    assert manifest["notes"][bought.EARLIER]["tries"] == 1


KILLED = """
import sys, time
from pathlib import Path
from tasks.runtime import tries
work = Path(sys.argv[1])
tries.begin(work, None)
tries.note(work, "endpoint", {"calls": 3, "cost": "0.3000 USD", "standin": "no money"})
(work / "run.log").write_text("it works\\n")
print("noted", flush=True)
time.sleep(600)
"""


def test_a_killed_try_is_counted_up_to_its_last_sign(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout and program.stdout.readline() == "noted\n"
        program.kill()
    (found,) = json.loads((tmp_path / tries.FILE).read_text())["tries"]
    assert found["seconds"] is None and found["bought"] == {"endpoint": {"calls": 3, "cost": "0.3000 USD"}}
    alive = found["began"] + 90
    os.utime(tmp_path / "run.log", (alive, alive))
    tries.begin(tmp_path, None)  # days later
    assert tries.earlier(tmp_path) == {
        bought.EARLIER: {"tries": 1, "seconds": 90.0, "calls": 3, "cost": "0.3000 USD"}
    }


def test_what_a_judge_was_paid_is_kept_beside_the_calls_of_the_stage(tmp_path: Path) -> None:
    """Several note at the same time: who asks the policy, and who looks at the judge's ledger. Killed, then failed."""
    tries.begin(tmp_path, None)
    tries.note(tmp_path, "endpoint 0", {"calls": 5, "prompt_tokens_bought": 50, "cost": "1.0000 CNY"})
    tries.note(tmp_path, "judge", {"judge_calls": 2, "cost": "4.0000 CNY"})
    tries.note(tmp_path, "endpoint 0", {"calls": 8, "prompt_tokens_bought": 80, "cost": "2.0000 CNY"})
    tries.begin(tmp_path, None)
    (found,) = tries.earlier(tmp_path).values()
    assert (found["calls"], found["judge_calls"], found["cost"]) == (8, 2, "6.0000 CNY")
    tries.note(tmp_path, "endpoint 0", {"calls": 1})
    tries.failed(tmp_path, {"calls": 2, "judge_calls": 1, "cost": "2.0000 CNY"})
    tries.begin(tmp_path, None)
    (found,) = tries.earlier(tmp_path).values()
    assert found.pop("seconds") >= 0
    assert found == {
        "tries": 2, "calls": 10, "prompt_tokens_bought": 80, "judge_calls": 3, "cost": "8.0000 CNY",
    }  # fmt: skip


def test_a_note_that_says_nothing_new_writes_nothing(tmp_path: Path) -> None:
    tries.note(tmp_path, "endpoint", {"calls": 5})  # of a shard, which keeps no tries
    assert not (tmp_path / tries.FILE).exists()
    tries.begin(tmp_path, None)
    tries.note(tmp_path, "endpoint", {"calls": 5})
    was = (tmp_path / tries.FILE).stat()
    tries.note(tmp_path, "endpoint", {"calls": 5})
    assert (tmp_path / tries.FILE).stat().st_ino == was.st_ino


def test_money_in_several_currencies_is_added_by_currency() -> None:
    made = {"notes": {"cost": "1.5000 CNY", bought.EARLIER: {"tries": 1, "seconds": 2.0, "cost": "0.2500 USD, 1.0000 CNY"}}, "seconds": 3.0}  # fmt: skip
    assert bought.notes(made)["cost"] == "2.5000 CNY, 0.2500 USD"
    assert bought.seconds(made) == 5.0


def test_tables_say_how_many_tries_an_artifact_took() -> None:
    assert outcome.duration(125.0, 3) == "2 min 5 s, 3 tries"
    assert outcome.duration(125.0, 1) == "2 min 5 s"


def test_the_terminal_says_what_earlier_tries_took() -> None:
    from flows.commands.terminal import _before

    manifest: dict[str, Any] = {"seconds": 10.0, "notes": {}}
    assert _before(manifest) == ""
    manifest["notes"] = {bought.EARLIER: {"tries": 1, "seconds": 125.0}}
    assert _before(manifest) == "a try before took 2 min 5 s"
    manifest["notes"] = {bought.EARLIER: {"tries": 2, "seconds": 125.0, "cost": "0.2500 USD"}}
    assert _before(manifest) == "2 tries before took 2 min 5 s and 0.2500 USD"


def test_a_plan_expects_the_time_of_all_tries(tmp_path: Path) -> None:
    asked = Asking(tmp_path, fails=1)
    with pytest.raises(ConnectionError):
        asked.make()
    manifest = asked.make()
    config = Config.model_validate({"scenes": {}})
    planned = decide(asked.store, asked.stage, "asking", config, {}, True)
    assert planned.estimate == bought.seconds(manifest) > manifest["seconds"]


def test_a_stage_notes_what_it_buys_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill loses no more than the last seconds."""
    monkeypatch.setattr(endpoint, "EVERY", 0.02)
    tries.begin(tmp_path, None)
    job = SimpleNamespace(
        work=tmp_path, order=SimpleNamespace(label="annotate"), log=LOG, notes={},
        elsewhere=SimpleNamespace(added=lambda here: here, noted=False),
    )  # fmt: skip
    with endpoint.watched(job, lambda: counts(4)):  # type: ignore[arg-type]
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and '"calls": 4' not in (tmp_path / tries.FILE).read_text():
            time.sleep(0.02)
        assert '"calls": 4' in (tmp_path / tries.FILE).read_text() and not job.notes
    assert job.notes["calls"] == 4


def test_a_full_disk_hides_no_error_of_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = Asking(tmp_path, fails=1)
    kept = tries.write_json

    def full(path: Path, value: Any) -> None:
        if value["tries"][-1]["bought"]:
            raise OSError(28, "No space left on device")
        kept(path, value)

    monkeypatch.setattr(tries, "write_json", full)
    with pytest.raises(ConnectionError):
        asked.make()
    assert "what this try took and bought cannot be kept: [Errno 28]" in caplog.text
