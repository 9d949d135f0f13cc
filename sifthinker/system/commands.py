"""Commands of other environments: whether one works, and the version of the distribution that it is from."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ABSENT = "not installed"
UNKNOWN = "of unknown version"


def version(command: str, distribution: str) -> str:
    """The version of a command's distribution, as the Python in the command's first line knows it.

    The command itself is not run: vLLM's takes half a minute to say its version.

    Args:
        command: its name on the PATH, or its path.
        distribution: whose version is asked for.

    Returns:
        The version, `ABSENT` where there is no such command, or `UNKNOWN` where it is no Python script.
    """
    found = shutil.which(command)
    if found is None:
        return ABSENT
    with Path(found).open("rb") as script:
        python = script.readline().removeprefix(b"#!").strip().decode(errors="replace")
    if not Path(python).is_file() or "python" not in Path(python).name:
        return UNKNOWN
    return versions(Path(python), (distribution,))[distribution]


def versions(python: Path, distributions: tuple[str, ...]) -> dict[str, str]:
    """The versions of distributions in the environment of an interpreter; `ABSENT` for those that it has not."""
    program = (
        "import sys\nfrom importlib.metadata import PackageNotFoundError, version\n"
        "for name in sys.argv[1:]:\n    try:\n        print(version(name))\n"
        "    except PackageNotFoundError:\n        print('')\n"
    )
    try:
        asked = subprocess.run(
            [str(python), "-c", program, *distributions], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return dict.fromkeys(distributions, UNKNOWN)
    said = asked.stdout.splitlines()
    return {name: found or ABSENT for name, found in zip(distributions, said, strict=True)}


def sources() -> dict[str, str]:
    """The PYTHONPATH with which a program of ours runs in another environment: this checkout first.

    Empty where this package is installed and no checkout: it has to be installed in that environment, too.
    """
    if not (ROOT / "pyproject.toml").is_file():
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}


def trouble(command: str, timeout: float = 180.0) -> str:
    """Why `COMMAND --version` fails; "" where it works.

    Args:
        command: its path.
        timeout: seconds that it may take.
    """
    try:
        asked = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"`{command} --version` did not end within {timeout:.0f} s"
    except OSError as error:
        return f"`{command} --version` cannot be run: {error.strerror}"
    if asked.returncode == 0:
        return ""
    said = (asked.stderr or asked.stdout).strip().splitlines() or ["without a message"]
    return f"`{command} --version` ends with status {asked.returncode}: {said[-1]}"
