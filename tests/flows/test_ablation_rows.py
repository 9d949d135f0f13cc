"""Rows of an ablation that are made side by side, each by a command of its own."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import server
from flows.commands import ablation_rows, main
from flows.commands.ablation_rows import side_by_side

ROOT = Path(__file__).resolve().parents[2]


def program(text: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(text)]


def run(calls: Mapping[str, list[str]], at_once: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    heard: list[tuple[str, str]] = []
    return side_by_side(calls, at_once, lambda name, line: heard.append((name, line))), heard


def test_one_that_fails_does_not_stop_the_others_and_all_lines_are_heard() -> None:
    calls = {
        "good.0": program("print('one'); print('two [of three]')"),
        "bad.0": program("import sys; print('no', file=sys.stderr); sys.exit(2)"),
        "good.1": program("print('three')"),
    }
    failed, heard = run(calls, 2)
    assert failed == {"bad.0": 2}
    assert sorted(heard) == [
        ("bad.0", "no"),
        ("good.0", "one"),
        ("good.0", "two [of three]"),
        ("good.1", "three"),
    ]


@pytest.mark.parametrize("at_once", [1, 2])
def test_so_many_at_a_time(at_once: int) -> None:
    wait = "import time; print(time.time()); time.sleep(0.5); print(time.time())"
    _, heard = run({str(name): program(wait) for name in range(4)}, at_once)
    spans = [sorted(float(line) for name, line in heard if name == str(number)) for number in range(4)]
    together = [sum(start <= begin < end for start, end in spans) for begin, _ in spans]
    assert max(together) == at_once


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_those_that_run_and_none_begins_after_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    child = f"""
        import pathlib, signal, sys, time
        def end(number, _):
            pathlib.Path({str(tmp_path)!r}, f"told {{number}}").touch()
            sys.exit(143)
        signal.signal({number.value}, end)
        pathlib.Path({str(tmp_path)!r}, "ready " + sys.argv[1]).touch()
        time.sleep(60)
    """
    parent = f"""
        import sys
        from flows.commands.ablation_rows import side_by_side
        child = {textwrap.dedent(child)!r}
        calls = {{name: [sys.executable, "-c", child, name] for name in "ab"}}
        side_by_side(calls, 1, print)
    """
    process = subprocess.Popen(program(parent), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready a").exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert "KeyboardInterrupt" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ready a", f"told {number.value}"]


def test_a_command_ends_with_a_starter_that_was_killed(tmp_path: Path) -> None:
    child = f"""
        import pathlib, time
        from flows.commands.ablation_rows import ends_with_its_starter
        ends_with_its_starter()
        while True:
            pathlib.Path({str(tmp_path / "beat")!r}).touch()
            time.sleep(0.05)
    """
    parent = f"""
        import sys
        from flows.commands.ablation_rows import side_by_side
        side_by_side({{"a": [sys.executable, "-c", {textwrap.dedent(child)!r}]}}, 1, print)
    """
    process = subprocess.Popen(program(parent), cwd=ROOT)
    beat = tmp_path / "beat"
    deadline = time.monotonic() + 60
    while not beat.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while time.time() - beat.stat().st_mtime < 2:
        assert time.monotonic() < deadline, "it goes on by itself"
        time.sleep(0.2)


def test_signals_are_as_before_afterwards() -> None:
    assert threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run({"a": program("pass")}, 1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def sif(*given: str, store: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows", "ablation", *given, "--store", str(store)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.parametrize(
    ("failed", "code"), [({}, 0), ({"a.0": 2}, 2), ({"a.0": 2, "b.0": 1}, 1), ({"a.0": -9}, 1)]
)
def test_the_command_ends_with_2_only_where_each_row_that_failed_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: dict[str, int], code: int
) -> None:
    given: list[Any] = []

    def make(*all_: Any) -> dict[str, int]:
        given.extend(all_)
        return failed

    monkeypatch.setattr(ablation_rows, "make", make)
    monkeypatch.setattr(server, "ensure", lambda: "http://127.0.0.1:9")
    call = [
        "ablation",
        "--keep",
        str(tmp_path / "kept"),
        "--at-once",
        "2",
        "--store",
        str(tmp_path / "store"),
    ]
    done = CliRunner().invoke(main.app, [*call, "--set", "name=x", "--limit", "5", "--verbose", "--json"])
    assert done.exit_code == code, done.output
    assert json.loads(done.stdout) == {"results": str(tmp_path / "kept" / "results.md"), "failed": failed}
    options = given[3]
    assert options == [
        *(
            "--config",
            "ablation",
            "--set",
            "name=x",
            "--store",
            str(tmp_path / "store"),
            "--limit",
            "5",
            "--verbose",
        )
    ]


def test_at_once_goes_with_keep(tmp_path: Path) -> None:
    done = sif("--at-once", "2", store=tmp_path)
    assert done.returncode == 2 and "--at-once" in done.stderr and "--keep" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.e2e
def test_rows_that_are_not_kept_are_made_side_by_side(tmp_path: Path) -> None:
    rows = ("--row", "base", "--row", "vqa-sft", "--set", "ablation.seeds=[0]")
    keep = ("--keep", str(tmp_path / "kept"), "--at-once", "2")
    done = sif(*rows, *keep, store=tmp_path / "store")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"base.0", "vqa-sft.0", "results.md"} <= {path.name for path in (tmp_path / "kept").iterdir()}
    assert "base.0 " in done.stdout and "vqa-sft.0 " in done.stdout
    again = sif(*rows, *keep, store=tmp_path / "store")
    assert again.returncode == 0 and "2 of 2 rows are kept already" in again.stdout
    failed = sif("--row", "full", "--set", "grpo.learning_rate=-1", *keep, store=tmp_path / "store")
    assert failed.returncode == 2, failed.stdout + failed.stderr
