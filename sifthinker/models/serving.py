"""An OpenAI-compatible server of a trained policy, on loopback.

    python -m sifthinker.models.serving MODEL_FOLDER --port N --model-name NAME

serves a folder with transformers: the embedded server, for the CPU and small models. A process answers one request at a
time (others wait their turn, on one thread), so a greedy reply does not depend on what else is asked; without a GPU
there is a process a core, on one port. `serving` starts it, or vLLM, as a child for as long as a stage needs it.

Whichever serves: one model under one name, two images a prompt, sized by the folder's own processor, and neutral
sampling (Qwen's `generation_config` has a repetition penalty, with which the policy was never trained; chains
repeat numbers). vLLM's command is written from its documentation and was never run here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from sifthinker.core.errors import UserError
from sifthinker.system import processes

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
MODEL_NAME = "policy"
_START = {"transformers": 300.0, "vllm": 1800.0}  # seconds a server may take until it answers
_LOG_LINES = 25  # of the log, in an error


class ServerFailed(Exception):
    """A server did not start; the message has the end of its log."""


@contextlib.contextmanager
def serving(
    folder: Path, server: str, log: Path, name: str = MODEL_NAME, timeout: float | None = None
) -> Iterator[str]:
    """The base URL (with /v1) of a server of the model, which is ended with all its processes on leaving.

    Args:
        folder: of the merged model with its processor.
        server: "transformers" or "vllm", started here; or the base URL of one that runs, which is only passed on.
        log: file that the server's output is appended to.
        name: of the model in requests.
        timeout: seconds until it must answer; none is 5 minutes, 30 for vLLM.

    Raises:
        UserError: no such server, or vLLM is not installed.
        ServerFailed: it ended or did not answer in time.
    """
    if server.startswith(("http://", "https://")):
        yield server.rstrip("/")
        return
    if server not in _START:
        raise UserError(
            f"evaluate.server: {server!r} is neither {', '.join(_START)} nor a base URL (http://...)"
        )
    if server == "vllm" and shutil.which("vllm") is None:
        raise UserError("evaluate.server: vllm is not installed here; install it or set it to transformers")
    port = _free_port()
    module = [
        sys.executable,
        "-m",
        "sifthinker.models.serving",
        str(folder),
        "--port",
        str(port),
        "--model-name",
        name,
    ]
    command = [*module, "--server", server, "--parent", str(os.getpid())]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )
    try:
        started = time.monotonic()
        _wait(process, f"http://{HOST}:{port}/v1", name, timeout or _START[server], log)
        logger.info("%s serves %s on port %d after %.1f s", server, folder, port, time.monotonic() - started)
        yield f"http://{HOST}:{port}/v1"
    finally:
        processes.end(process.pid)  # the whole group: vLLM's engine is a grandchild
        process.wait()


def _environment() -> dict[str, str]:
    # Offline: the model is a folder. One thread: small models gain nothing by more, and the last bits, hence now
    # and then a greedy reply, would depend on how many there are.
    offline = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    return {**os.environ, **offline, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(process: subprocess.Popen[bytes], url: str, name: str, timeout: float, log: Path) -> None:
    """Returns when the server of `process` lists the model."""
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
    raise ServerFailed(
        f"the model server ended with status {process.returncode} before it answered{_end_of(log)}"
    )


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
    arguments = parser.parse_args()
    if arguments.parent:
        processes.end_with(arguments.parent)
    if arguments.server == "vllm":
        sys.exit(subprocess.call(vllm_command(arguments.folder, arguments.port, arguments.model_name)))
    from sifthinker.models import embedded_server, generation

    def turns() -> embedded_server.Turns:
        return embedded_server.Turns(generation.Policy(arguments.folder))

    embedded_server.run(turns, arguments.port, arguments.model_name)


def vllm_command(folder: Path, port: int, name: str) -> list[str]:
    """`vllm serve` with what the policy needs (vLLM's documentation, "Engine Arguments"; not run here)."""
    command = ["vllm", "serve", str(folder), "--host", HOST, "--port", str(port), "--served-model-name", name]
    command += ["--limit-mm-per-prompt", json.dumps({"image": 2, "video": 0})]
    command += ["--generation-config", "vllm", "--seed", "0"]
    size = _saved_size(folder)
    if "longest_edge" in size:  # a pixel budget, of a Qwen family
        command += ["--mm-processor-kwargs", json.dumps({"size": size})]
    return command


def _saved_size(folder: Path) -> dict[str, int]:
    """The image size of a folder's processor, as saved by this or an earlier transformers."""
    for file in ("processor_config.json", "preprocessor_config.json"):
        if (folder / file).is_file():
            saved = json.loads((folder / file).read_text(encoding="utf-8"))
            size = saved.get("image_processor", saved).get("size")
            if isinstance(size, dict):
                return {edge: pixels for edge, pixels in size.items() if pixels is not None}
    return {}


if __name__ == "__main__":
    main()
