"""Two hosts on one ledger in PostgreSQL: processes with homes and clocks of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sifthinker.llm import standin
from tests.ledgers import Kind
from tests.llm import one_host

pytestmark = pytest.mark.e2e
SKEWS = {"one": 3 * 86_400.0, "two": -3_600.0}  # seconds that a host's clock is off


def start(
    folder: Path, name: str, database: str, url: str, questions: range, **changed: Any
) -> subprocess.Popen[bytes]:
    home = folder / name
    (home / "tmp").mkdir(parents=True)
    settings = {
        "name": name,
        "url": url,
        "questions": list(questions),
        "skew": SKEWS[name],
        "minute": 60.0,
        "lease": 30.0,
        "out": str(home / "answers.json"),
        "api": {"concurrency": 16, "retries": 20, "timeout": 10.0},
        **changed,
    }
    (home / "settings.json").write_text(json.dumps(settings))
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home / "tmp"), "SIF_LEDGER": database}
    environment.pop("PREFECT_HOME", None)
    command = [sys.executable, str(Path(one_host.__file__)), str(home / "settings.json")]
    return subprocess.Popen(command, env=environment, cwd=home)


def answers(folder: Path, name: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / name / "answers.json").read_text())["answers"]
    return found


@pytest.mark.parametrize(
    ("minute", "requests", "share"),
    [
        (3.0, 90, 0.03),  # a short minute, for a busy machine: connection times weigh twenty times as much
        pytest.param(60.0, 600, 0.01, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_each_request_is_answered_once_and_the_quota_holds_over_both(
    tmp_path, database, minute, requests, share
):
    """Both ask the middle third of the questions; 3 % of the calls fail with 500 and are asked again."""
    count = 3 * requests
    third = count // 3
    api = {"concurrency": 16, "retries": 20, "timeout": 10.0, "requests_per_minute": requests}
    with standin.running(tmp_path / "log", {"500": 0.03}, minute=minute, latency=0.05, jitter=0.5,
                         requests_per_minute=requests) as url:  # fmt: skip
        hosts = [
            start(tmp_path, "one", database, url, range(2 * third), api=api, minute=minute),
            start(tmp_path, "two", database, url, range(third, count), api=api, minute=minute),
        ]
        assert [host.wait() for host in hosts] == [0, 0]
        counts = standin.counts(url)
    print(counts)
    one, two = answers(tmp_path, "one"), answers(tmp_path, "two")
    assert {number: one[number] for number in one.keys() & two.keys()} == {
        number: two[number] for number in one.keys() & two.keys()
    }
    assert all("score" in answer for answer in [*one.values(), *two.values()])
    assert counts["distinct"] == len(one | two) == count
    assert counts["repeated"] == 0
    refused = sum(one.get("refused", 0) for one in counts["minutes"])
    assert refused <= share * sum(one["requests"] for one in counts["minutes"])
    kind = Kind(tmp_path, database)
    assert kind.run("SELECT state, count(*) FROM calls GROUP BY state") == [("ok", count)]
    assert kind.run("SELECT sum(calls) FROM accounts") == [(count,)]


def test_what_a_killed_host_had_reserved_is_asked_by_the_other_one_after_a_lease(tmp_path, database):
    with standin.running(tmp_path / "log", latency=0.3) as url:
        kind = Kind(tmp_path, database)
        first = start(tmp_path, "one", database, url, range(300), lease=6.0)
        deadline = time.monotonic() + 60
        while standin.counts(url)["requests"] < 40 and time.monotonic() < deadline:
            time.sleep(0.05)
        second = start(tmp_path, "two", database, url, range(300), lease=6.0)
        first.kill()
        first.wait()
        left = kind.run("SELECT count(*) FROM calls WHERE state = 'reserved'")[0][0]
        assert second.wait() == 0
        counts = standin.counts(url)
    print(left, counts)
    assert kind.run("SELECT state, count(*) FROM calls GROUP BY state") == [("ok", 300)]
    assert len(answers(tmp_path, "two")) == counts["distinct"] == 300
    assert 0 < left <= 32  # up to twice the concurrency is asked for ahead
    assert counts["repeated"] <= left  # asked, and perhaps answered, but not yet recorded
