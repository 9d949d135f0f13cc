"""What `sif run` shows while it runs: a line a stage, warnings once, and with `--json` nothing but JSON."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.states import Failed
from rich.console import Console
from typer.testing import CliRunner

import flows.ablation
from flows import server
from flows.commands import ablation_rows, main, terminal
from flows.commands import run as run_command
from flows.commands.terminal import Terminal
from sifthinker.config import Config, Scenes
from sifthinker.evaluation import gathered, kept_rows
from tasks.runtime import events

ROOT = Path(__file__).resolve().parents[2]


def manifest(kept: int, rejected: dict[str, int]) -> Any:
    return {
        "rows": {"in": kept + sum(rejected.values()), "kept": kept, "rejected": rejected},
        "notes": {"cost": "1.50 CNY"},
    }


class Watched:
    """A terminal that is a text."""

    def __init__(self) -> None:
        self.file = io.StringIO()
        self.handler = Terminal(Console(file=self.file, width=200))

    def event(self, event: Any) -> None:
        self.handler.emit(logging.makeLogRecord({"event": event, "levelno": logging.INFO}))

    def log(self, level: int, text: str) -> None:
        self.handler.emit(logging.makeLogRecord({"msg": text, "levelno": level}))

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.file.getvalue().splitlines()]


def test_a_stage_is_one_line() -> None:
    seen = Watched()
    seen.event(events.Began("annotate", ""))
    for done in range(5):
        seen.event(events.Moved("annotate", None, done, 5, "3 calls"))
    seen.event(events.Ended("annotate", 3.21, False, manifest(4, {"boxes": 1})))
    seen.event(events.Ended("ingest", 0.0, True, manifest(5, {})))
    assert seen.lines == [
        "annotate         4 of 5 rows kept, 1 rejected: boxes, 3.2 s, 1.50 CNY",
        "ingest           cached, 5 of 5 rows kept",
    ]


def test_a_long_stage_says_how_far_it_is_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 30.0, 61.0, 90.0, 125.0))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    seen = Watched()
    seen.event(events.Began("evaluate", ""))
    for done in (1, 2, 3):
        seen.event(events.Moved("evaluate", None, done, 64, ""))
    seen.event(events.Moved("evaluate", None, 4, 64, "loss 0.3", left=20.0))
    assert seen.lines == ["evaluate         2 of 64", "evaluate         4 of 64, 20 s left, loss 0.3"]


def test_a_stage_in_shards_counts_its_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "EVERY", 0.0)
    seen = Watched()
    seen.event(events.Began("depth", ""))
    seen.event(events.Moved("depth", 0, 500, 1000, ""))  # until the stage says something itself
    seen.event(events.Moved("depth", None, 1, 8, ""))
    seen.event(events.Moved("depth", 1, 501, 1000, ""))
    assert [line.split()[1:] for line in seen.lines] == [["500", "of", "1,000"], ["1", "of", "8"]]


def test_a_warning_is_shown_once_and_an_information_never() -> None:
    seen = Watched()
    for _ in range(2):
        seen.log(logging.WARNING, "grpo: the stand-in [answers]")
        seen.log(logging.INFO, "Finished in state Completed()")
    assert seen.lines == ["warning: grpo: the stand-in [answers]"]


def test_an_error_that_ends_a_stage_is_shown_once_and_another_one_too() -> None:
    seen = Watched()
    seen.event(events.Began("sft", ""))
    seen.log(logging.ERROR, "its run in the other pool could not be cancelled")
    seen.log(logging.ERROR, "the program ended with status 1")
    seen.event(events.Ended("sft", 2.0, False, None, "sft: the program ended with status 1\nits log"))
    assert seen.lines == [
        "error: its run in the other pool could not be cancelled",
        "sft              failed after 2.0 s: the program ended with status 1",
    ]


def test_a_bug_shows_its_traceback() -> None:
    seen = Watched()
    try:
        raise KeyError("x")
    except KeyError:
        record = logging.makeLogRecord({"msg": "bug", "levelno": logging.ERROR, "exc_info": sys.exc_info()})
    seen.handler.emit(record)
    assert "Traceback" in seen.file.getvalue() and "KeyError: 'x'" in seen.file.getvalue()


def test_the_logging_is_as_before_when_the_run_has_ended() -> None:
    root = logging.getLogger()
    before = list(root.handlers), events.LOGGER.level
    with terminal.shown(verbose=False):
        assert isinstance(root.handlers[0], Terminal) and events.heard(), "a stage draws no second bar"
    assert (list(root.handlers), events.LOGGER.level) == before and not events.heard()


def test_who_interrupts_a_run_is_told_how_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = list(root.handlers)
    with pytest.raises(KeyboardInterrupt), terminal.shown(verbose=False):
        raise KeyboardInterrupt
    said = " ".join(capsys.readouterr().err.split())
    assert (
        said == "interrupted. What was finished is in the store: the same command goes on from there"
    ) and root.handlers == before


def test_the_table_of_an_ablation_is_the_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow is a fake: it returns a folder as the stage writes it."""
    table = {"reference": "full", "rows": [{"row": "full"}]}
    (tmp_path / "table.json").write_text(json.dumps(table))
    (tmp_path / "table.md").write_text("| full |")
    state = SimpleNamespace(is_completed=lambda: True, result=lambda: str(tmp_path))
    monkeypatch.setattr(flows.ablation, "ablation", lambda *_, **__: state)
    monkeypatch.setattr(server, "ensure", lambda: "http://127.0.0.1:9")
    call = ["ablation", "--store", str(tmp_path / "store")]
    assert json.loads(CliRunner().invoke(main.app, [*call, "--json"]).stdout) == table
    assert "| full |" in CliRunner().invoke(main.app, call).stdout

    monkeypatch.setattr(ablation_rows, "keep", lambda *_: None)
    kept = CliRunner().invoke(main.app, [*call, "--keep", str(tmp_path / "kept"), "--json"])
    assert json.loads(kept.stdout) == table
    monkeypatch.setattr(flows.ablation, "ablation", lambda *_, **__: Failed(message="sft: no room"))
    failed = CliRunner().invoke(main.app, [*call, "--json"])
    assert json.loads(failed.stdout) == [] and failed.exit_code == 1
    assert "failed: sft: no room" in failed.stderr


def test_a_kept_row_says_which_fields_were_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of one name that were made with other fields could not be told apart."""
    said: list[str] = []
    variant, found = SimpleNamespace(name="full"), SimpleNamespace(path=tmp_path)
    monkeypatch.setattr(flows.ablation, "made_with", lambda *_: {"full.3": (variant, {})})
    monkeypatch.setattr(flows.ablation, "evaluated", lambda *_: "ref")
    monkeypatch.setattr(ablation_rows.lineage, "trace", lambda *_: {})
    monkeypatch.setattr(ablation_rows.Store, "open", lambda *_: found)
    monkeypatch.setattr(kept_rows, "keep", lambda *given: said.append(given[-2]))
    monkeypatch.setattr(gathered, "draw", lambda *_: "")
    config = Config(name="looks", store=tmp_path, scenes=Scenes())
    options = run_command._options(["demo", "my looks.yaml"], ["grpo.epochs=3", "name=a b"], None, None)
    ablation_rows.keep(tmp_path, config, [], options)
    command = "sif ablation --config demo --config 'my looks.yaml' --set grpo.epochs=3 --set 'name=a b' --row full --seed 3"
    assert said[0].startswith(f"`{command}`, commit ")


LONG = (
    "12 of 1,200 rows, 3 rejected, 1,234 calls, 256 in flight, 600/min, 12.5 k tokens, 1.23 CNY, 25 min left"
)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_in_a_terminal_a_bar_is_one_line_and_others_are_broken_between_words(width: int) -> None:
    seen = Watched()
    console = Console(file=seen.file, width=width, height=20, force_terminal=True, color_system=None)
    seen.handler = Terminal(console)
    seen.event(events.Began("annotate", ""))  # the first of a run: its bar has the number 0
    seen.event(events.Moved("annotate", None, 12, 1200, LONG, True))
    [drawn] = console.render_lines(seen.handler._bars.get_renderable(), pad=False)
    bar = "".join(segment.text for segment in drawn)
    assert len(bar) == width and bar.startswith("annotate ") and " 12 of 1,200" in bar
    assert re.search(r" \d:\d\d:\d\d$", bar), "how long it has taken is not squeezed out"
    seen.event(events.Ended("annotate", 312.0, False, None, f"annotate: the endpoint {'refuses ' * 12}it"))
    seen.log(logging.WARNING, f"annotate: see https://example.org/{'long/' * 20} {'words ' * 20}")
    lines = [line for line in seen.lines if line]
    words = {word for line in lines for word in line.split()}
    assert {"refuses", "words"} <= words and not words & {"ref", "wor", "fuses", "rds"}
    assert any(f"https://example.org/{'long/' * 20}" in line for line in lines), "an address stays whole"
    failed = lines[: lines.index(next(line for line in lines if line.startswith("warning: ")))]
    assert failed[0].startswith("annotate         failed after 5 min 12 s: the endpoint")
    assert len(failed) > 1 and all(line.startswith(" " * 17 + "refuses") for line in failed[1:-1])
    assert all(len(line) <= width for line in lines if "https://" not in line)


# A shell with a terminal, which starts a program in the background (`sif run &`) or in the foreground.
SHELL = """
import os, pty, signal, sys, time
shell, screen = pty.fork()
if shell:
    os.waitpid(shell, 0)
    print(os.read(screen, 1000).decode())
    sys.exit()
signal.signal(signal.SIGTTOU, signal.SIG_DFL)
job = os.fork()
if not job:
    if sys.argv[1] == "background":
        os.setpgid(0, 0)
    from flows.commands import terminal
    with terminal.shown(verbose=False):
        pass
    os._exit(7)
_, status = os.waitpid(job, os.WUNTRACED)
print("stopped" if os.WIFSTOPPED(status) else os.WEXITSTATUS(status))
if os.WIFSTOPPED(status):
    os.kill(job, signal.SIGKILL)
"""


@pytest.mark.e2e
@pytest.mark.parametrize("where", ["background", "foreground"])
def test_a_run_in_the_background_of_a_terminal_is_not_stopped(where: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHELL, where], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split()[-1:] == ["7"], (done.stdout, done.stderr)  # behind the codes of the bars


@pytest.mark.e2e
def test_a_run_prints_a_line_a_stage_and_its_json_alone(prefect_server: str, tmp_path: Path) -> None:
    call = ["run", "--config", "smoke", "--stop-after", "expand", "--store", str(tmp_path / "store")]

    def sif(*more: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": prefect_server}
        command = [sys.executable, "-m", "flows", *call, *more]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    first = sif()
    stages = [line.split()[0] for line in first.stderr.splitlines() if line.strip()]
    assert len(stages) == len(set(stages)) <= 6 and {"scenes", "ingest", "expand"} <= set(stages)
    assert "expand           48 of 48 rows kept" in first.stderr
    found = json.loads(sif("--json").stdout)
    assert [row["stage"] for row in found["stages"]][-2:] == ["ingest", "expand"]
    assert all(row["cached"] for row in found["stages"]) and found["run"]["state"] == "Completed"
    assert "Beginning flow run" in sif("--verbose").stderr


def test_what_prefect_says_of_a_failed_stage_is_left_to_the_stages_own_line() -> None:
    seen = Watched()
    failed = "Task run failed with state: UserError(message='no row was kept', type=FAILED)"
    seen.handler.emit(
        logging.makeLogRecord({"msg": failed, "levelno": logging.ERROR, "exc_info": (None, None, None)})
    )
    seen.log(logging.ERROR, "Finished in state UserError('no row was kept', type=FAILED)")
    seen.log(logging.ERROR, "something else is wrong")
    seen.event(events.Ended("annotate", 3.0, False, None, "no row was kept"))
    assert [" ".join(line.split()) for line in seen.lines] == [
        "error: something else is wrong",
        "annotate failed after 3.0 s: no row was kept",
    ]


# Prefect's part: a flow turns the signal into an error, and passes it on once it has ended.
AT_WORK = """
import time
from prefect.utilities.engine import capture_sigterm
from flows.commands import ending
def flow():
    with capture_sigterm():
        print("at work", flush=True)
        time.sleep(60)
ending.ended(flow, verbose=False)
"""


@pytest.mark.e2e
def test_a_run_that_is_told_to_end_says_how_it_goes_on() -> None:
    started = subprocess.Popen(
        [sys.executable, "-c", AT_WORK], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout and started.stdout.readline() == "at work\n"
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 128 + signal.SIGTERM
    assert "interrupted." in said and "the same command goes on" in " ".join(said.split())
    assert "Traceback" not in said
