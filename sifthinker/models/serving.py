"""An OpenAI-compatible server of a trained policy, on loopback.

    python -m sifthinker.models.serving MODEL_FOLDER --port N --model-name NAME

serves a folder with transformers: the embedded server, for the CPU and small models. A greedy reply does not depend on what
else is asked (`generation`). On a GPU one is made at a time, and without one there is a process a core, on one port, each
with up to 16 (`turns`). `serving` starts it, or vLLM, as a child for as long as a stage needs it.

Whichever serves: one model under one name, two images a prompt, sized by the folder's own processor, and neutral
sampling (Qwen's `generation_config` has a repetition penalty, with which the policy was never trained; chains
repeat numbers). Tokens that stand for pictures are never sampled: the embedded server suppresses them itself, and vLLM
is told by each request (`suppression`). What vLLM is told is in `vllm_command`.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sifthinker.core.errors import UserError
from sifthinker.models import vllm_command
from sifthinker.models.vllm_command import HOST
from sifthinker.system import commands, processes, program_files

logger = logging.getLogger(__name__)

MODEL_NAME = "policy"
_START = {"transformers": 300.0, "vllm": 1800.0}  # seconds a server may take until it answers
_GRACE = {"transformers": processes.GRACE, "vllm": 30.0}  # seconds to end by itself
_LOG_LINES = 25  # of the log, in an error


class ServerFailed(Exception):
    """A server did not start; the message has the end of its log."""


@dataclass(frozen=True)
class Wanted:
    """A server to be started.

    Attributes:
        folder: Of the merged model with its processor.
        server: "transformers" or "vllm".
        log: File that its output is appended to.
        name: Of the model in requests.
        python: Interpreter of the environment that has the server; None: this one, and the `vllm` on the PATH.
        lora_rank: Of adapters that vLLM loads at run time; 0: none are.
        memory: Share of a GPU's memory that vLLM takes; None: vLLM's own.
        gpus: CUDA_VISIBLE_DEVICES of the server; None: this process's own.
        images: Most pictures of a prompt; only vLLM has to know.
        context: Most tokens of a prompt with its reply that vLLM keeps room for; None: all that the model takes.
    """

    folder: Path
    server: str
    log: Path
    name: str = MODEL_NAME
    python: Path | None = None
    lora_rank: int = 0
    memory: float | None = None
    gpus: str | None = None
    images: int = vllm_command.IMAGES
    context: int | None = None


@contextlib.contextmanager
def serving(
    folder: Path,
    server: str,
    log: Path,
    name: str = MODEL_NAME,
    timeout: float | None = None,
    python: Path | None = None,
) -> Iterator[str]:
    """The base URL (with /v1) of a server of the model, which is ended with all its processes on leaving.

    Args:
        folder: of the merged model with its processor.
        server: "transformers" or "vllm", started here; or the base URL of one that runs, which is only passed on.
        log: file that the server's output is appended to.
        name: of the model in requests.
        timeout: seconds until it must answer; none is 5 minutes, 30 for vLLM.
        python: interpreter of the environment that has the server; none: this one, and the `vllm` on the PATH.

    Raises:
        UserError: no such server, or vLLM is not installed.
        ServerFailed: it ended or did not answer in time.
    """
    if server.startswith(("http://", "https://")):
        yield server.rstrip("/")
        return
    with several([Wanted(folder, server, log, name, python)], timeout) as (url,):
        yield url


@contextlib.contextmanager
def several(wanted: Sequence[Wanted], timeout: float | None = None) -> Iterator[tuple[str, ...]]:
    """The base URLs of servers that are started together and ended together.

    Raises:
        UserError: there is no such server, or vLLM is not installed.
        ServerFailed: one ended or did not answer in time.
    """
    with contextlib.ExitStack() as stack:
        started = [(of, *stack.enter_context(_started(of))) for of in wanted]
        began = time.monotonic()
        urls = []
        for of, process, port in started:
            url = f"http://{HOST}:{port}/v1"
            _wait(process, url, of.name, timeout or _START[of.server], of.log)
            spent = time.monotonic() - began
            logger.info("%s serves %s on port %d after %.1f s", of.server, of.folder, port, spent)
            urls.append(url)
        yield tuple(urls)


@contextlib.contextmanager
def _started(of: Wanted) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server's process, which may not answer yet, and its port."""
    port = _free_port()
    command = _command(of, port)
    files = _files(of.log)
    files.mkdir(parents=True, exist_ok=True)
    program_files.clear(files)
    with of.log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(of) | program_files.environment(files, _GRACE[of.server]),
            start_new_session=True,
        )
    try:
        yield process, port
    finally:  # the whole group: vLLM's engine is a grandchild, which vLLM itself ends in good order
        processes.end(process.pid, _GRACE[of.server], leader_first=of.server == "vllm")
        process.wait()


def _command(of: Wanted, port: int) -> list[str]:
    """Our program that serves, or that starts vLLM and ends it."""
    if of.server not in _START:
        raise UserError(
            f"evaluate.server: {of.server!r} is neither {', '.join(_START)} nor a base URL (http://...)"
        )
    python = str(of.python) if of.python and of.server == "transformers" else sys.executable
    command = [python, "-m", "sifthinker.models.serving", str(of.folder), "--port", str(port)]
    command += ["--model-name", of.name, "--server", of.server, "--parent", str(os.getpid())]
    if of.server == "vllm":
        command += ["--vllm", vllm(of.python), "--lora-rank", str(of.lora_rank)]
        command += [] if of.memory is None else ["--memory", str(of.memory)]
        command += ["--images", str(of.images)]
        command += [] if of.context is None else ["--context", str(of.context)]
    return command


def vllm(python: Path | None = None) -> str:
    """The command of vLLM: of an environment by its interpreter, else the one on the PATH.

    Raises:
        UserError: there is none.
    """
    if python is not None:
        beside = Path(python).with_name("vllm")
        if not beside.is_file():
            raise UserError(
                f"{python}: there is no vllm beside it; name the interpreter of vLLM's environment"
            )
        return str(beside)
    if (found := shutil.which("vllm")) is None:
        raise UserError(
            "vLLM is not installed here: put the `vllm` of its environment on the PATH (docker/vllm.txt has its "
            "versions), name that environment's interpreter, or set evaluate.server to transformers"
        )
    return found


def suppression(server: str, url: str, folder: Path) -> dict[str, Any]:
    """What a request has to say so that tokens of pictures are never sampled.

    Nothing, where the server sees to it itself, as the embedded one does.

    Args:
        server: as configured: "transformers", "vllm", or the base URL of one that runs.
        url: its base URL.
        folder: of the model, with its processor.
    """
    if server != "vllm" and (server in _START or _owner(url) != "vllm"):
        return {}
    from sifthinker.models import processors  # imports torch

    tokens = processors.picture_tokens(processors.load_processor(folder))
    return {"logit_bias": {str(token): -100 for token in tokens}}


def _owner(url: str) -> str:
    """Who has the models of a server, as it says itself: "vllm"; "" where it does not say."""
    with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, IndexError, TypeError):
        return str(_ask(f"{url}/models").json()["data"][0]["owned_by"])
    return ""


def _ask(url: str) -> httpx.Response:
    return httpx.get(url, timeout=5, trust_env=not url.startswith(f"http://{HOST}"))


def _environment(of: Wanted) -> dict[str, str]:
    # Offline: the model is a folder. One thread: small models gain nothing by more, and the last bits, hence now
    # and then a greedy reply, would depend on how many there are.
    more = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    if of.gpus is not None:
        more["CUDA_VISIBLE_DEVICES"] = of.gpus
    if of.python is not None and of.server == "transformers":  # that environment has not this package
        more |= commands.sources()
    return vllm_command.environment({**os.environ, **more})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(process: subprocess.Popen[bytes], url: str, name: str, timeout: float, log: Path) -> None:
    """Returns when the server of `process` lists the model.

    Raises:
        UserError: it ended with the explanation of a user's mistake.
        ServerFailed: it ended otherwise, or did not answer in time.
    """
    deadline = time.monotonic() + timeout
    with httpx.Client(trust_env=False, timeout=5) as client:  # no proxy stands before loopback
        while process.poll() is None:
            with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
                models = client.get(f"{url}/models").json()["data"]
                if any(model["id"] == name for model in models) and process.poll() is None:
                    return
            if time.monotonic() > deadline:
                raise ServerFailed(f"the model server did not answer within {timeout:.0f} s{_end_of(log)}")
            time.sleep(0.2)
    failed = program_files.failure(_files(log))
    if failed and failed.kind == "user":
        raise UserError(failed.message)
    raise ServerFailed(
        f"the model server ended with status {process.returncode} before it answered{_end_of(log)}"
    )


def _files(log: Path) -> Path:
    """The folder in which a server says how far it is, and why it failed (`program_files`)."""
    return log.with_name(f"{log.name}.says")


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    return "\n".join([f"; whole log: {log}", *lines])


def main() -> None:
    """Serves a folder until it is ended; with --parent, until that process is gone."""
    parser = argparse.ArgumentParser(
        prog="python -m sifthinker.models.serving", description="Serves a policy on loopback."
    )
    parser.add_argument("folder", type=Path, help="merged model with its processor")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model-name", default=MODEL_NAME, help="of the model in requests")
    parser.add_argument("--server", choices=list(_START), default="transformers")
    parser.add_argument(
        "--parent", type=int, help="process id without which this one ends, with its whole group"
    )
    parser.add_argument("--vllm", default="vllm", help="command of vLLM")
    parser.add_argument("--lora-rank", type=int, default=0, help="of adapters that vLLM loads at run time")
    parser.add_argument("--memory", type=float, help="share of a GPU's memory that vLLM takes")
    parser.add_argument("--images", type=int, default=vllm_command.IMAGES, help="most pictures of a prompt")
    parser.add_argument("--context", type=int, help="most tokens of a prompt with its reply, for vLLM")
    arguments = parser.parse_args()
    if arguments.parent:
        processes.end_with(arguments.parent)
    program_files.write_status("server", "starting", folder=str(arguments.folder), port=arguments.port)
    program_files.run("server", lambda: _serve(arguments))


def _serve(arguments: argparse.Namespace) -> None:
    if arguments.server == "vllm":
        cpu = "cpu" in commands.version(arguments.vllm, "vllm")
        options = vllm_command.Options(
            arguments.vllm,
            cpu,
            arguments.lora_rank,
            arguments.memory,
            images=arguments.images,
            context=arguments.context,
        )
        command = vllm_command.command(arguments.folder, arguments.port, arguments.model_name, options)
        sys.exit(run_vllm(command, vllm_command.environment(os.environ, options)))
    from sifthinker.models import embedded_server, generation, turns

    def loaded() -> turns.Turns:
        return turns.Turns(generation.Policy(arguments.folder))

    embedded_server.run(loaded, arguments.port, arguments.model_name)


def run_vllm(command: Sequence[str], environment: dict[str, str]) -> int:
    """Runs `vllm serve` to its end, and returns its status. SIGTERM is passed on to it alone.

    It ends its engine itself then, and leaves no shared memory behind, as it does where the engine is told too.
    """
    process: subprocess.Popen[bytes] | None = None
    ended = False

    def end(*_: Any) -> None:
        nonlocal ended
        ended = True
        if process is not None:
            process.terminate()

    signal.signal(signal.SIGTERM, end)
    process = subprocess.Popen(command, env=environment)
    if ended:  # between the two lines above
        process.terminate()
    return process.wait()


if __name__ == "__main__":
    main()
