"""Programs in their own process group: followed, ended with the run, reaped after a kill."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sifthinker.config import Sft
from sifthinker.core.errors import UserError
from sifthinker.system import processes, program_files
from tasks.runtime import following, programs
from tests.machine import is_running

# A child that starts a grandchild, and says both ids.
FAMILY = (
    "import subprocess, sys, time; "
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    "print(child.pid, flush=True); time.sleep(60)"
)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "EVERY", 0.02)


def job(work: Path) -> Any:
    seen: list[tuple[float, str]] = []
    progress = SimpleNamespace(total=None, at=lambda done, note: seen.append((done, note)), seen=seen)
    order = SimpleNamespace(label="sft", key="0123456789abcdef", config=SimpleNamespace(name="demo"))
    return SimpleNamespace(work=work, log=logging.getLogger("test"), order=order, progress=progress)


def test_progress_is_passed_on_line_by_line(tmp_path: Path) -> None:
    lines = [json.dumps({"step": n, "total": 3, "loss": 1 / n}) for n in (1, 2, 3)]
    file = tmp_path / "progress.jsonl"
    program = f"import time, pathlib\nfor l in {lines!r}:\n  open({str(file)!r}, 'a').write(l + chr(10)); time.sleep(0.1)"
    j = job(tmp_path)
    following.follow(j, [sys.executable, "-c", program], file, None)
    assert j.progress.total == 3
    assert j.progress.seen[-1][0] == 3
    assert "loss 0.333" in j.progress.seen[-1][1]


def test_the_progress_of_a_training_that_goes_on_after_a_half_line_is_passed_on(tmp_path: Path) -> None:
    """The program removes the half line, and the file is shorter then than when it was started."""
    file, half = (
        tmp_path / "progress.jsonl",
        '{"step": 2, "total": 3, "loss": 0.5, "reward": 0.1, "kl": 0.123',
    )
    file.write_text('{"step": 1, "total": 3}\n' + half)
    program = (
        "from pathlib import Path; from sifthinker.system import json_lines\n"
        f"file = Path({str(file)!r}); json_lines.cut(file)\n"
        """file.open('a').write('{"step": 2, "total": 3}\\n')"""
    )
    j, shown = job(tmp_path), []
    following.follow(j, [sys.executable, "-c", program], file, None, following.Watch(shown.append))
    assert shown == [2] and j.progress.total == 3


def test_a_damaged_line_of_progress_ends_no_program(tmp_path: Path) -> None:
    program = f"open({str(tmp_path / 'p')!r}, 'wb').write(bytes(40) + b'\\n')"
    following.follow(job(tmp_path), [sys.executable, "-c", program], tmp_path / "p", None)


def test_a_failed_program_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(following.ProgramFailed, match=r"(?s)status 3.*the reason"):
        following.follow(
            job(tmp_path),
            [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"],
            tmp_path / "p",
            None,
        )
    assert not (tmp_path / "pid.json").exists()


# The rank writes what it has to say as our programs do, and torchrun makes another exit code of its end.
RANK = (
    "from sifthinker.core.errors import UserError; from sifthinker.system import program_files\n"
    "def work(): {work}\n"
    "try: program_files.run('sft', work, rank=1)\n"
    "except (Exception, SystemExit): raise SystemExit(1)"
)


def rank(work: str) -> list[str]:
    return [sys.executable, "-c", RANK.format(work=work)]


def test_a_users_mistake_on_any_rank_is_shown_in_full_whatever_the_exit_code_is(tmp_path: Path) -> None:
    message = "sft.max_length: none of 8 chains fits. " + "Raise it. " * 500
    with pytest.raises(UserError) as caught:
        following.follow(job(tmp_path), rank(f"raise UserError({message!r})"), tmp_path / "p", None)
    assert str(caught.value) == f"sft: {message}"


def test_another_failure_is_told_with_its_rank_and_not_as_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(following.ProgramFailed, match=r"(?s)rank 1 on .* failed: .*ZeroDivisionError"):
        following.follow(job(tmp_path), rank("1 / 0"), tmp_path / "p", None)


def test_a_failure_of_an_earlier_start_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        following.follow(job(tmp_path), rank("raise UserError('no')"), tmp_path / "p", None)
    with pytest.raises(following.ProgramFailed, match="status 3"):
        following.follow(job(tmp_path), [sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "p", None)


def test_a_stopped_program_is_told_as_that_and_tried_again(tmp_path: Path) -> None:
    work = (
        "program_files.write_status('training', 'stopped', step=4, total=9, checkpoint='checkpoint-4'); "
        "raise program_files.Stopped"
    )
    with pytest.raises(following.ProgramFailed, match=r"told to stop.*step 4 of 9; checkpoint-4 is complete"):
        following.follow(job(tmp_path), rank(work), tmp_path / "p", None)


# It takes 0.5 s to end after a signal, as a training that makes its checkpoint, and says when it has.
SLOW_TO_END = (
    "import signal, time\n"
    "def ends(*_): time.sleep(0.5); print('saved', flush=True); raise SystemExit(75)\n"
    "signal.signal(signal.SIGTERM, ends); print('up', flush=True); time.sleep(60)"
)


class Ended(BaseException):
    """As Prefect's TerminationSignal."""


@pytest.mark.parametrize("times", [1, 2])
def test_who_ends_the_run_gives_its_program_the_grace_and_who_ends_it_twice_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    def ends(*_: Any) -> None:
        raise Ended

    monkeypatch.setattr(following, "TWICE", 0.1)
    before = signal.signal(signal.SIGUSR1, ends)

    def tell() -> None:
        while not (tmp_path / "log.txt").exists() or "up" not in (tmp_path / "log.txt").read_text():
            time.sleep(0.02)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.2)

    threading.Thread(target=tell).start()
    try:
        with pytest.raises(Ended):
            following.follow(
                job(tmp_path), [sys.executable, "-c", SLOW_TO_END], tmp_path / "p", None, grace=20
            )
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ("saved" in (tmp_path / "log.txt").read_text()) == (times == 1)
    assert not (tmp_path / "pid.json").exists()


def test_a_program_of_another_host_is_waited_for_while_it_shows_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run is gone; it makes its checkpoint in the same folder, and ends by itself."""
    monkeypatch.setattr(following, "BEATS", 0.6)
    left = {**processes.here(os.getpid()), "host": "elsewhere", "grace": 0}
    (tmp_path / "pid.json").write_text(json.dumps(left))
    (tmp_path / program_files.STATUS).write_text("{}")
    began = time.monotonic()
    assert not following.reap(tmp_path / "pid.json")
    assert 0.6 <= time.monotonic() - began < 15
    assert not (tmp_path / "pid.json").exists()


def test_a_program_of_another_host_that_does_not_end_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "BEATS", 0.5)
    beats = itertools.count()
    monkeypatch.setattr(
        following.time, "sleep", lambda _: os.utime(tmp_path / "status.json", (0, next(beats)))
    )
    left = {**processes.here(os.getpid()), "host": "elsewhere", "grace": 0}
    (tmp_path / "pid.json").write_text(json.dumps(left))
    (tmp_path / program_files.STATUS).write_text("{}")
    with pytest.raises(following.ProgramFailed, match="still runs on elsewhere"):
        following.reap(tmp_path / "pid.json")
    assert (tmp_path / "pid.json").exists()


def test_a_time_limit_ends_the_whole_group(tmp_path: Path) -> None:
    with pytest.raises(following.ProgramFailed, match="time limit"):
        following.follow(job(tmp_path), [sys.executable, "-c", FAMILY], tmp_path / "p", 1.5)
    grandchild = int((tmp_path / "log.txt").read_text().split()[0])
    assert not is_running(grandchild)


def test_an_orphan_of_a_killed_run_is_ended_before_the_next_start(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        orphan = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=log, start_new_session=True)
    (tmp_path / "pid.json").write_text(json.dumps(processes.here(orphan.pid)))
    while not (tmp_path / "log").read_text().strip():
        time.sleep(0.05)
    grandchild = int((tmp_path / "log").read_text())
    following.reap(tmp_path / "pid.json")
    orphan.wait(5)
    assert not is_running(grandchild)
    assert not (tmp_path / "pid.json").exists()


def test_a_reused_process_id_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pid.json").write_text(json.dumps({**processes.here(os.getpid()), "started": 1.0}))
    following.reap(tmp_path / "pid.json")  # would end this very test
    assert not (tmp_path / "pid.json").exists()


def test_a_program_runs_in_the_environment_that_is_named(tmp_path: Path) -> None:
    assert programs.interpreter(None, "grpo") == sys.executable
    other = tmp_path / "bin" / "python"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    for wrong in (other, tmp_path / "nowhere", tmp_path):  # not executable, not there, a folder
        with pytest.raises(UserError, match=rf"grpo\.python: {wrong} is no interpreter on this machine"):
            programs.interpreter(wrong, "grpo")
    other.chmod(0o755)
    assert programs.interpreter(other, "grpo") == str(other)
    path = following.environment(tmp_path, 5.0)["PYTHONPATH"].split(os.pathsep)
    assert path[0] == str(Path(following.__file__).parents[2]), "it finds the same code there"


@pytest.mark.parametrize(
    ("settings", "gpus", "seen"),
    [
        ({"ranks": 1, "deepspeed": "none"}, ["3", "5"], {"CUDA_VISIBLE_DEVICES": "3"}),
        ({"ranks": 1, "deepspeed": "none"}, [], {}),
        ({"ranks": 2, "deepspeed": "none"}, ["3", "5"], None),  # torchrun's ranks take one each
    ],
)
def test_a_training_of_one_rank_sees_one_gpu(
    settings: dict[str, Any],
    gpus: list[str],
    seen: dict[str, str] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that sees several cuts its batch up over them, and the trainers refuse it."""
    started: list[Any] = []
    monkeypatch.setattr(programs.memory, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(programs, "follow", lambda *_, variables=None, **__: started.append(variables))
    made = job(tmp_path)
    made.out = tmp_path / "out"
    programs.train(made, "sft", {"dataset": []}, Sft(rehearse="never", **settings))
    assert started == [seen]


def test_what_a_program_is_shown_is_in_its_environment(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "seen")]
    following.follow(job(tmp_path), command, tmp_path / "p", None, variables={"CUDA_VISIBLE_DEVICES": "3"})
    assert (tmp_path / "seen").read_text() == "3"


def test_a_trainings_steps_go_to_the_trackers_files_of_the_store_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the run's scores go at its end, not into the work folder, which does not last."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # an .env file leaves it empty
    monkeypatch.delenv("WANDB_DIR", raising=False)
    found = following.environment(tmp_path / "sft" / "abc.work", 5.0)
    assert found["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path / 'mlflow.sqlite'}"
    assert found["WANDB_DIR"] == str(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org")
    assert (
        following.environment(tmp_path / "sft" / "abc.work", 5.0)["MLFLOW_TRACKING_URI"]
        == "http://mlflow.example.org"
    )


NAMING = ("WANDB_PROJECT", "WANDB_NAME", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_CONTEXT")


def test_trackers_call_a_trainings_steps_by_its_configuration_stage_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a name MLflow draws one, such as "dapper-shrew-12", in an experiment "Default"."""
    for name in NAMING:
        monkeypatch.delenv(name, raising=False)
    program = f"import os, json; print(json.dumps([os.environ[n] for n in {NAMING!r}]))"
    following.follow(job(tmp_path), [sys.executable, "-c", program], tmp_path / "progress.jsonl", None)
    project, name, experiment, context = json.loads((tmp_path / "log.txt").read_text())
    assert project == experiment == "demo"
    assert name == json.loads(context)["mlflow.runName"] == "demo sft 01234567"
    monkeypatch.setenv("WANDB_NAME", "mine")
    found = following.environment(tmp_path, 5.0, job(tmp_path).order)
    assert found["WANDB_NAME"] == "mine"


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_mlflow_takes_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the Trainer starts a run: without a name of its own."""
    mlflow = pytest.importorskip("mlflow", reason="pip install -e '.[trackers]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    work = tmp_path / "sft" / "abc.work"
    work.mkdir(parents=True)
    program = (
        "import mlflow; mlflow.start_run(run_name=None); mlflow.log_metric('loss', 1.5, 1); mlflow.end_run()"
    )
    following.follow(job(work), [sys.executable, "-c", program], work / "progress.jsonl", None)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.sqlite'}")
    experiment = client.get_experiment_by_name("demo")
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.data.metrics["loss"]) == ("demo sft 01234567", 1.5)
